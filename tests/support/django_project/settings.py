"""The project's settings: the least that django-websocket-redis needs."""

from __future__ import annotations

import os

SECRET_KEY = "of no use"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "ws4redis",
]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
WS4REDIS_CONNECTION = {
    "host": "127.0.0.1",
    "port": int(os.environ["TEST_REDIS_PORT"]),
    "username": os.environ.get("TEST_REDIS_USERNAME"),
    "password": os.environ.get("TEST_REDIS_PASSWORD"),
    "db": int(os.environ.get("TEST_REDIS_DATABASE", "0")),
}
WS4REDIS_PREFIX = os.environ.get("TEST_REDIS_PREFIX")
WS4REDIS_EXPIRE = 60
WS4REDIS_HEARTBEAT = "--heartbeat--"
