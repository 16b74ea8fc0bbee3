"""The backend for Redis and Valkey, single or with Sentinel."""
