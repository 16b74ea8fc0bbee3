"""The README is short, and its examples run as they stand."""

from __future__ import annotations

import re
import tomllib

import pytest

import trio_beat
from tests.support.documents import README, ROOT, document, examples, program
from tests.support.peer import dial
from tests.support.serving import serving
from trio_beat import open_hub


@pytest.mark.real
async def test_the_handler_echoes() -> None:
    async with program(examples("README", "python")[0]) as running:
        peer = await dial(*await running.target())
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.aclose()


@pytest.mark.real
async def test_the_hub_publishes() -> None:
    async with program(examples("README", "python")[1]) as running:
        peer = await dial(*await running.target())
        assert await peer.text() == "still here"
        await peer.aclose()


@pytest.mark.real
async def test_the_client_prints_what_is_published() -> None:
    async with open_hub() as hub, serving(hub=hub) as server:
        await hub.publish("broadcast:news", "hello")  # kept, and sent to each new subscriber
        async with program(examples("README", "python")[2], server.port) as running:
            assert await running.line() == "hello\n"


def test_there_are_no_other_examples() -> None:
    # tests/site/test_browser_client.py runs the JavaScript.
    assert len(examples("README", "python")) == 3
    assert len(examples("README", "javascript")) == 1
    assert document("README").count(".. code-block::") == 4


def test_examples_fit_on_a_screen() -> None:
    for example in examples("README", "python") + examples("README", "javascript"):
        assert len([line for line in example.splitlines() if line]) <= 15


def test_is_no_longer_than_its_readers_patience() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_its_commands_are_there() -> None:
    commands = re.findall(r"^    ([.\w].*)$", document("README"), re.MULTILINE)
    shell = [line for line in commands if line.startswith((".venv", "python3", "tests"))]
    assert [line.split()[0] for line in shell] == [
        "python3",
        ".venv/bin/python",
        ".venv/bin/python",
        "tests/run",
    ]
    extras = re.findall(r"pip install '\.\[([\w,]+)\]'", document("README"))
    assert extras == ["server", "server,redis"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"server", "redis"} <= set(project["optional-dependencies"])
    assert f"pip install {project['name']}``" in document("README")
    run = (ROOT / "tests" / "run").read_text()
    assert "``tests/run fast``" in document("README")
    assert re.search(r"\bfast\b", run)


@pytest.mark.parametrize("name", ["serve", "Connection", "open_hub", "connect", "reconnecting"])
def test_names_what_is_public(name: str) -> None:
    assert name in trio_beat.__all__
    assert re.search(rf"\b{name}\b", document("README"))
