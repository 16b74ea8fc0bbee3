"""The backend for Redis and Valkey, single or with Sentinel."""

from .backend import RedisBackend

__all__ = ["RedisBackend"]
