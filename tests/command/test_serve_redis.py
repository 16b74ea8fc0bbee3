"""The bundled server at a broker that it cannot use, and at one that is not there yet."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trio

from tests.support.broker import made_broker, open_broker
from tests.support.command import Command, command, run_command

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("config", "userinfo", "path", "words"),
    [
        (["requirepass s3cret"], ":wr0ng@", "", "does not accept the user name or the password"),
        (["requirepass s3cret"], "", "", "asks for a password"),
        ([], "", "/99", "has no database 99"),
        (["replicaof 127.0.0.1 1"], "", "", "it is a replica"),
        (["cluster-enabled yes"], "", "", "belongs to a Cluster"),
    ],
)
async def test_a_broker_that_cannot_be_used_is_told_in_one_line(
    config: list[str], userinfo: str, path: str, words: str
) -> None:
    async with open_broker(config=config) as broker:
        url = broker.url.replace("://", f"://{userinfo}") + path
        result = await trio.to_thread.run_sync(run_command, "--port=0", f"--backend={url}")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"trio-beat: --backend: {broker.host}:{broker.port} ")
    assert words in line
    assert "wr0ng" not in line


def ready(running: Command) -> int:
    """The status of /readyz."""
    try:
        with urllib.request.urlopen(running.page + "readyz") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


async def test_a_broker_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with (
        made_broker() as broker,
        command(tmp_path, f"--backend={broker.url}") as running,
        trio.fail_after(30),
    ):
        assert await trio.to_thread.run_sync(ready, running) == 503
        await broker.start()
        while await trio.to_thread.run_sync(ready, running) != 200:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)
        broker.kill()
        while await trio.to_thread.run_sync(ready, running) != 503:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)
        assert running.health()["status"] == "ok"
        assert running.end() == 0
