"""The Trio client: `connect`, `reconnecting`, and what they do to open a connection."""
