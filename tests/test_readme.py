"""The README's examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import trio_beat
from trio_beat import open_hub

from .support.command import clean_environment
from .support.peer import dial
from .support.serving import serving

README = (Path(__file__).parent.parent / "README.rst").read_text()
EXAMPLES = [
    re.sub(r"^    ", "", block, flags=re.MULTILINE)
    for block in re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README)
]


@pytest.mark.real
@pytest.mark.parametrize(
    ("example", "sent", "received"), [(0, "hello", "hello"), (1, None, "still here")]
)
async def test_example_runs(example: int, sent: str | None, received: str) -> None:
    text = EXAMPLES[example]
    assert text.count("8000") == 1
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", text.replace("8000", "0")],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    try:
        assert process.stdout is not None
        url = await trio.to_thread.run_sync(process.stdout.readline)
        match = re.fullmatch(r"ws://127\.0\.0\.1:(\d+)(/.*)\n", url)
        assert match is not None, url
        peer = await dial(int(match[1]), match[2])
        if sent is not None:
            await peer.send_text(sent)
        assert await peer.text() == received
        await peer.aclose()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.real
@pytest.mark.parametrize("example", [2, 3])
async def test_client_example_prints_what_is_published(example: int) -> None:
    text = EXAMPLES[example]
    lines = [line for line in text.splitlines() if line]
    assert len(lines) <= 10
    async with open_hub() as hub, serving(hub=hub) as server:
        assert text.count("8000") == 1
        # Kept, and sent to who subscribes.
        await hub.publish("broadcast:news", "hello")
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", text.replace("8000", str(server.port))],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        try:
            assert process.stdout is not None
            assert await trio.to_thread.run_sync(process.stdout.readline) == "hello\n"
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_there_are_no_other_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("failure", trio_beat.ConnectFailed.__subclasses__())
def test_names_every_reason_why_there_is_no_connection(failure: type) -> None:
    for name in failure.__subclasses__() or [failure]:
        assert f"``{name.__name__}``" in README


def test_names_every_reason_for_an_end() -> None:
    for reason in trio_beat.EndReason:
        assert f"``{reason}``" in README


@pytest.mark.parametrize(
    "name", ["serve", "Connection", "Heartbeat", "open_hub", "EndReason", "connect", "reconnecting"]
)
def test_names_what_is_public(name: str) -> None:
    assert name in trio_beat.__all__
    assert re.search(rf"\b{name}\b", README)
