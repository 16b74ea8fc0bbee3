"""The server: listeners, admission, draining; HTTP by Hypercorn."""
