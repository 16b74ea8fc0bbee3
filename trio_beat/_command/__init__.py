"""The commands: the server, a check of it, clients, a maker of tokens; options, logs and output."""
