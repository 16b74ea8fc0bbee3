"""The units that the page about systemd shows, and its example."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.support.documents import document, examples, program
from tests.support.peer import Peer, dial
from tests.support.systemd import program_of_systemd

_COMMAND = "/opt/trio-beat/bin/trio-beat"


def verify(directory: Path) -> str:
    """What systemd finds wrong with the units."""
    paths = sorted(map(str, directory.iterdir()))
    analyze = program_of_systemd("systemd-analyze")
    ran = subprocess.run(
        [analyze, "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # Other units of the machine may be at fault as well.
    lines = (ran.stdout + ran.stderr).splitlines()
    return "\n".join(line for line in lines if str(directory) in line or "trio-beat" in line)


@pytest.mark.real
def test_the_units_are_valid(tmp_path: Path) -> None:
    units = examples("systemd", "ini")
    names = ("trio-beat.socket", "trio-beat.service")
    for name, text in zip(names, units, strict=True):
        assert f"``/etc/systemd/system/{name}``" in document("systemd")
        (tmp_path / name).write_text(text.replace(_COMMAND, sys.executable))
    assert units[1].count(_COMMAND) == 1
    assert verify(tmp_path) == ""
    # It would tell.
    service = tmp_path / "trio-beat.service"
    service.write_text(service.read_text().replace("WatchdogSec", "WatchdogSeconds"))
    assert "WatchdogSeconds" in verify(tmp_path)


def test_the_server_drains_within_the_time_that_the_unit_gives_it() -> None:
    [stop] = [line for line in examples("systemd", "ini")[1].splitlines() if "TimeoutStop" in line]
    grace = re.search(r"``--grace``  +(\d+) s ", document("operating"))
    assert grace is not None
    assert int(stop.partition("=")[2]) > int(grace[1]) + 2


@pytest.mark.real
async def test_a_program_listens_on_all_three(tmp_path: Path) -> None:
    [text] = examples("systemd", "python")
    path = str(tmp_path / "echo.sock")
    assert text.count('"echo.sock"') == 1

    async def echoes(peer: Peer) -> None:
        await peer.send_text("hello")
        assert await peer.text() == "hello"
        await peer.aclose()

    async with program(text.replace('"echo.sock"', repr(path))) as running:
        addresses, _, paths = (await running.line()).rpartition(" [")
        assert ast.literal_eval("[" + paths) == [path]
        ports = {port for _, port in ast.literal_eval(addresses)}
        assert len(ports) == 2
        with trio.fail_after(60):
            for port in ports:
                await echoes(await dial(port, "/"))
            await echoes(await dial(0, "/", tcp=await trio.open_unix_socket(path)))
