"""The commands: the bundled server and two clients, with their options, logs and output."""
