"""Does what a line of standard input asks for, and answers by a line; both are JSON.

Payloads are bytes as Latin-1.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import django  # type: ignore[import-untyped]
from django.http import HttpRequest  # type: ignore[import-untyped]

django.setup()

# They need the set-up.
from django.contrib.auth.models import User  # type: ignore[import-untyped]  # noqa: E402
from django.test import RequestFactory  # type: ignore[import-untyped]  # noqa: E402
from ws4redis.publisher import RedisPublisher  # type: ignore[import-untyped]  # noqa: E402
from ws4redis.redis_store import RedisMessage  # type: ignore[import-untyped]  # noqa: E402
from ws4redis.wsgi_server import WebsocketWSGIServer  # type: ignore[import-untyped]  # noqa: E402


def keys(**audiences: Any) -> list[str]:
    """The keys that a publisher publishes to."""
    return sorted(RedisPublisher(**audiences)._publishers)


def publish(payload: str, expire: int | None, text: bool, **audiences: Any) -> None:
    """Publish a message, as a view would."""
    data = payload.encode("latin-1")
    message = RedisMessage(data.decode() if text else data)
    RedisPublisher(**audiences).publish_message(message, expire)


def fetch(facility: str, audience: str, user: str, group: str, session: str) -> str | None:
    """Fetch a last message, as a view would for the user that sent its request."""
    request = _request("/")
    request.user = User(username=user)
    request.session = _Session({"ws4redis:memberof": [group]})
    request.session.session_key = session
    message = RedisPublisher().fetch_message(request, facility, audience)
    return None if message is None else message.decode("latin-1")


def parameters(url: str) -> tuple[list[str], bool]:
    """What its server reads of a WebSocket's URL: channels, and whether there is an echo."""
    channels, echo = WebsocketWSGIServer().process_subscriptions(_request(url))
    return channels, echo


class _Session(dict[str, Any]):
    session_key: str


def _request(url: str) -> HttpRequest:
    return RequestFactory().get(url)


def main() -> None:
    """Serve until standard input ends."""
    warnings.simplefilter("ignore", DeprecationWarning)  # redis-py 8 on setex
    tasks = {task.__name__: task for task in (keys, publish, fetch, parameters)}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        sys.stdout.write(json.dumps(tasks[name](**arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
