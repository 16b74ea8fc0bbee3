"""Channels: who subscribes to what, and the grammar of URLs that says so."""
