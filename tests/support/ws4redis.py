"""What a Django project with django-websocket-redis does, asked of a process of its own.

Django's settings are those of a process, so that it does not run in that of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio


class Django:
    """A running project."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def keys(self, facility: str, **audiences: Any) -> list[str]:
        """The keys that its publisher publishes to, sorted."""
        keys: list[str] = await self._ask("keys", facility=facility, **audiences)
        return keys

    async def publish(
        self, payload: str | bytes, facility: str, *, expire: int | None = None, **audiences: Any
    ) -> None:
        """Publish with `RedisPublisher`.

        Args:
            payload: of the message.
            facility: where.
            expire: seconds; None: those of the settings.
            audiences: what else the publisher is given.
        """
        text = isinstance(payload, str)
        data = payload.encode() if isinstance(payload, str) else payload
        await self._ask(
            "publish",
            payload=data.decode("latin-1"),
            text=text,
            expire=expire,
            facility=facility,
            **audiences,
        )

    async def fetch(
        self,
        facility: str,
        audience: str = "any",
        *,
        user: str = "nobody",
        group: str = "nobodies",
        session: str = "none",
    ) -> bytes | None:
        """Call `fetch_message` for the request of a user."""
        arguments = {"audience": audience, "user": user, "group": group, "session": session}
        payload = await self._ask("fetch", facility=facility, **arguments)
        return None if payload is None else payload.encode("latin-1")

    async def parameters(self, url: str) -> tuple[set[str], bool]:
        """What its server reads of a URL: channels, and whether there is an echo."""
        channels, echo = await self._ask("parameters", url=url)
        return set(channels), echo

    async def _ask(self, name: str, **arguments: Any) -> Any:
        with trio.fail_after(20):
            return await trio.to_thread.run_sync(
                self._ask_sync, json.dumps([name, arguments]), abandon_on_cancel=True
            )

    def _ask_sync(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the project has ended"
        return json.loads(answer)


def environment(port: int, **variables: str) -> dict[str, str]:
    """The environment in which Django finds the project; see `django`."""
    settings = "tests.support.django_project.settings"
    needed = {"DJANGO_SETTINGS_MODULE": settings, "TEST_REDIS_PORT": str(port)}
    return dict(os.environ) | needed | variables


@asynccontextmanager
async def django(port: int = 0, **variables: str) -> AsyncIterator[Django]:
    """Run the project until the context ends.

    Args:
        port: of its broker, on 127.0.0.1; 0: it needs none.
        variables: of its environment, see its settings.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.django_project"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(port, **variables),
    )
    try:
        yield Django(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
