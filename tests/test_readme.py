"""The README's examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import trio_beat

from .command import clean_environment
from .peer import dial

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


def test_there_are_no_other_examples() -> None:
    assert len(EXAMPLES) == 2


def test_names_every_reason_for_an_end() -> None:
    for reason in trio_beat.EndReason:
        assert f"``{reason}``" in README


@pytest.mark.parametrize("name", ["serve", "Connection", "Heartbeat", "open_hub", "EndReason"])
def test_names_what_is_public(name: str) -> None:
    assert name in trio_beat.__all__
    assert re.search(rf"\b{name}\b", README)
