"""Where the server would listen, whether that is free, and who reaches it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.support.certificates import ServerFiles
from tests.support.checks import found, row
from tests.support.command import answering, command, run_command
from trio_beat._command.checks.listening import check_listening
from trio_beat._command.checks.section import Section
from trio_beat._command.settings import load_settings

pytestmark = pytest.mark.real


async def checked(*options: str, behind: bool = False) -> Section:
    with trio.fail_after(60):
        return await check_listening(load_settings(options), behind)


def states(section: Section) -> list[str]:
    return [place["state"] for place in section.data["places"]]


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port that stays free for sockets that listen."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


async def test_one_that_is_free() -> None:
    with free_port() as port:
        section = await checked(f"--port={port}")
    assert section.data["places"] == [
        {"option": "--port", "kind": "tcp", "address": f"127.0.0.1:{port}", "state": "free"}
    ]
    assert row(section, "port") == f"127.0.0.1:{port}, free"
    assert found(section) == []


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), "127.0.0.1, a port that the system chooses"),
        (("--host=",), "all addresses, a port that the system chooses"),
    ],
)
async def test_a_port_that_the_system_chooses(options: tuple[str, ...], shown: str) -> None:
    section = await checked("--port=0", "--allow=", *options, behind=True)
    assert row(section, "port") == f"{shown}, free"


@pytest.mark.parametrize("secure", [False, True])
async def test_the_running_server_is_known(secure: bool, tmp_path: Path) -> None:
    options = ServerFiles(tmp_path).options if secure else ()
    path = tmp_path / "internal"
    options = (*options, f"--internal-bind=unix:{path}", f"--uds={tmp_path / 'public'}")
    with command(tmp_path, *options) as running:
        section = await checked(f"--port={running.port}", *options)
        assert running.end() == 0
    assert states(section) == ["trio-beat"] * 3
    assert found(section) == [("info", "listening")] * 3


async def test_a_path_and_descriptors_take_the_place_of_a_port(tmp_path: Path) -> None:
    section = await checked(f"--uds={tmp_path / 'x'}", "--fd=3,4")
    assert states(section) == ["free"]
    assert row(section, "uds") == f"unix:{tmp_path / 'x'}, free"
    assert row(section, "fd") == "3, 4, as far as the server is started with them"
    section = await checked("--fd=3")
    assert states(section) == []
    assert found(section) == []


async def test_another_program_is_known() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as port:
        section = await checked(f"--port={port}")
    assert states(section) == ["taken"]
    assert found(section) == [("warning", "listening")]


async def test_one_that_hangs_up() -> None:
    with answering(b"") as port:
        assert states(await checked(f"--port={port}")) == ["taken"]


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True])
async def test_one_that_says_nothing(secure: bool, tmp_path: Path) -> None:
    options = ServerFiles(tmp_path).options if secure else ()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        section = await checked(f"--port={deaf.getsockname()[1]}", *options)
    assert states(section) == ["taken"]


@pytest.mark.parametrize("host", ["192.0.2.77", "no-such-host.invalid"])
async def test_one_that_cannot_be_had(host: str) -> None:
    section = await checked(f"--host={host}")
    assert states(section) == ["unusable"]
    assert found(section) == [("error", "listening")]
    assert f"cannot listen on {host}:8000: " in section.findings[0].text


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
    ],
)
async def test_two_at_one_place(host: str, bind: str) -> None:
    with free_port() as port:
        section = await checked(
            f"--host={host}", f"--port={port}", f"--internal-bind={bind}:{port}", "--allow="
        )
    assert states(section) == ["free", "unusable"]
    assert ("error", "listening") in found(section)
    assert "--port is there already" in str(section.findings)


async def test_two_at_different_places() -> None:
    with free_port() as port:
        section = await checked(f"--port={port}", f"--internal-bind=127.0.0.2:{port}")
        assert states(section) == ["free", "free"]
    section = await checked("--port=0", "--internal-bind=127.0.0.1:0")
    assert found(section) == []


class TestUnix:
    """A path for health and the API."""

    async def test_one_that_is_free(self, tmp_path: Path) -> None:
        section = await checked("--port=0", f"--internal-bind=unix:{tmp_path / 'x'}")
        assert row(section, "internal-bind") == f"unix:{tmp_path / 'x'}, free"
        assert section.data["places"][1]["kind"] == "unix"
        assert found(section) == []
        assert not (tmp_path / "x").exists()

    async def test_two_at_one_path(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        bind = f"--internal-bind=unix:{tmp_path / 'link' / 'x'}"
        section = await checked(f"--uds={tmp_path / 'x'}", bind)
        assert states(section) == ["free", "unusable"]
        assert "--uds is there already" in section.findings[0].text

    async def test_one_that_is_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / (100 * "x")
        section = await checked(f"--uds={path}")
        assert states(section) == ["unusable"]
        assert "path too long" in section.findings[0].text

    async def test_one_of_another_kind(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(tmp_path / "x"))
            section = await checked(f"--uds={tmp_path / 'x'}")
        assert states(section) == ["unusable"]
        assert found(section) == [("error", "listening")]

    async def test_one_that_was_left(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "x"))
        section = await checked("--port=0", f"--internal-bind=unix:{tmp_path / 'x'}")
        assert states(section)[1] == "free"
        assert (tmp_path / "x").exists()

    async def test_one_of_another_program(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "x"))
            other.listen(1)
            other.settimeout(30)

            def hang_up() -> None:
                accepted, _ = other.accept()
                accepted.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, hang_up)
                section = await checked("--port=0", f"--internal-bind=unix:{tmp_path / 'x'}")
        assert states(section)[1] == "taken"
        assert found(section) == [("warning", "listening")]

    async def test_one_that_cannot_be_had(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path, words in (
            (tmp_path / "file", "there is a file that is no socket"),
            (tmp_path / "no" / "x", f"there is no folder {tmp_path / 'no'}"),
            (tmp_path / "file" / "x", "Not a directory"),
        ):
            section = await checked("--port=0", f"--internal-bind=unix:{path}")
            assert states(section)[1] == "unusable"
            assert words in section.findings[0].text

    async def test_a_folder_of_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
        section = await checked("--port=0", f"--internal-bind=unix:{tmp_path / 'x'}")
        assert f"no file may be made in {tmp_path}" in section.findings[0].text

    async def test_one_that_was_left_in_a_folder_of_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "x"))
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
        section = await checked(f"--uds={tmp_path / 'x'}")
        assert states(section) == ["unusable"]
        assert f"no file may be made in {tmp_path}" in section.findings[0].text

    async def test_what_the_server_would_be_told_is_told(self, tmp_path: Path) -> None:
        """It looks as the server does, and leaves what it finds."""
        path, lock = tmp_path / "x", tmp_path / "x.lock"
        lock.write_text("another program's")
        section = await checked(f"--uds={path}")
        assert states(section) == ["unusable"]
        done = run_command(f"--uds={path}")
        assert done.returncode == 2
        [finding] = section.findings
        assert done.stderr == f"trio-beat: {finding.text.removeprefix('--uds: ')}\n"
        assert lock.read_text() == "another program's"

    async def test_what_is_no_place(self) -> None:
        section = await checked("--port=0", "--internal-bind=8001")
        assert found(section) == [("error", "internal")]


class TestExposure:
    """Who reaches it, and what they can read and do."""

    async def test_a_public_address_without_limits(self) -> None:
        section = await checked("--port=0", "--host=0.0.0.0")
        assert found(section) == [("warning", "exposure"), ("warning", "tls")]
        assert "0.0.0.0" in section.findings[0].text

    @pytest.mark.parametrize(
        ("options", "behind"),
        [
            (("--allow=subscribe-broadcast", "--trusted-proxy=10.0.0.1"), False),
            (("--auth=trio:sleep",), True),
            (("--allow=", "--tls-cert=x"), False),
        ],
    )
    async def test_one_with_limits(self, options: tuple[str, ...], behind: bool) -> None:
        assert found(await checked("--port=0", "--host=0.0.0.0", *options, behind=behind)) == []

    async def test_tokens_on_the_way(self) -> None:
        options = ["--port=0", "--internal-bind=0.0.0.0:0"]
        assert found(await checked(*options)) == []
        section = await checked(*options, "--publish-token=a-long-and-random-text")
        assert found(section) == [("warning", "exposure")]
