"""The commands: the server, a check of it, two clients, a maker of tokens; their options, logs, output."""
