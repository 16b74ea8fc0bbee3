"""README and documentation: their text, and the examples in it."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from .command import clean_environment

ROOT: Final = Path(__file__).parent.parent.parent
README: Final = ROOT / "README.rst"
DOCS: Final = ROOT / "trio_beat" / "docs"
#: All of them, README first.
DOCUMENTS: Final = (README, *sorted(DOCS.glob("*.rst")))

_BLOCK: Final = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def document(name: str) -> str:
    """The text of a document; its name is ``README`` or that of a file in ``trio_beat/docs``."""
    return (README if name == "README" else DOCS / f"{name}.rst").read_text(encoding="utf-8")


def examples(name: str, language: str) -> list[str]:
    """The code blocks of a document that are in a language, in their order."""
    return [
        textwrap.dedent(block).strip() + "\n"
        for found, block in _BLOCK.findall(document(name))
        if found == language
    ]


class Program:
    """An example that runs as a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line that it prints."""
        stdout = self.process.stdout
        assert stdout is not None
        with trio.fail_after(20):
            return await trio.to_thread.run_sync(stdout.readline, abandon_on_cancel=True)

    async def target(self) -> tuple[int, str]:
        """Port and target of the WebSocket whose URL it prints."""
        url = await self.line()
        match = re.fullmatch(r"ws://127\.0\.0\.1:(\d+)(/.*)\n", url)
        assert match is not None, url
        return int(match[1]), match[2]


@asynccontextmanager
async def program(text: str, port: int = 0, **variables: str) -> AsyncIterator[Program]:
    """Run an example until the context ends.

    Args:
        text: the example.
        port: takes the place of 8000, the only one in it.
        variables: of its environment, beside the usual ones.
    """
    assert text.count("8000") == 1
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", text.replace("8000", str(port))],
        stdout=subprocess.PIPE,
        text=True,
        env={**clean_environment(), **variables},
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
