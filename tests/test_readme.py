"""The README's examples run as they stand, and its map is that of the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import trio_beat
from trio_beat import open_hub

from .command import clean_environment
from .peer import dial
from .serving import serving

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


PACKAGE = Path(trio_beat.__file__).parent
#: The rows of the map of modules and packages, from the top.
ROWS = [
    row.replace("/", "").split()
    for row in re.findall(r"^    ((?:\w+/?  ?)+) ", README.partition("How it is built")[2], re.M)
]


def imported(path: Path) -> Iterator[str]:
    """What a module imports from the package, but for its types."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            inner = path.relative_to(PACKAGE).parts[: -node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join([*inner, name]).partition(".")[0] for name in names)


def test_the_map_has_every_module() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(name for row in ROWS for name in row) == sorted(modules | packages)


def test_each_module_imports_only_from_below_itself() -> None:
    rank = {name: index for index, row in enumerate(ROWS) for name in row}
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.glob("**/*.py")
        if path != PACKAGE / "__init__.py"
        for name in imported(path)
        if rank[name] < rank[path.relative_to(PACKAGE).parts[0].removesuffix(".py")]
    ]
    assert upward == []
