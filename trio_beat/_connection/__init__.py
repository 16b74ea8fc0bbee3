"""One connection: its nursery of reader and heartbeat, and its application side."""
