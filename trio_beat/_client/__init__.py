"""The Trio client: its contexts, its way in, and the pauses between attempts."""
