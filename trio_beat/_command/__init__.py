"""The commands: the bundled server and its two clients; their options, log and output."""
