"""The commands: the server, two clients, a maker of tokens; with their options, logs and output."""
