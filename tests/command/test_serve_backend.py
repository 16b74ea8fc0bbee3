"""The command's options about its backend, as an operator meets them."""

from __future__ import annotations

from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from ..support.command import Command, command
from ..support.peer import HANDSHAKE, Peer, dial

pytestmark = pytest.mark.real

#: Its broker is away when it is asked to carry a certain text; and back, after another one.
MOODY = """
from trio_beat import BackendError
from trio_beat.backends.memory import MemoryBackend

class MoodyBackend(MemoryBackend):
    gone = False

    @classmethod
    def from_url(cls, url):
        return cls()

    async def publish(self, channel, message, *, expire, sender=None):
        if message.payload not in ("go", "blink"):
            await super().publish(channel, message, expire=expire, sender=sender)
            return
        receiver = self._receiver
        receiver.lost(set(self._subscribed))
        self._subscribed.clear()
        self.gone = True
        receiver.away(BackendError("gone"))
        if message.payload == "blink":
            self.gone = False
            receiver.back()

    async def subscribe(self, channels):
        if self.gone:
            raise BackendError("gone")
        return await super().subscribe(channels)
"""


@pytest.fixture(autouse=True)
def moody(tmp_path: Path) -> None:
    """That backend, in a distribution of its own; PYTHONPATH finds it."""
    (tmp_path / "moody.py").write_text(MOODY)
    info = tmp_path / "moody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trio_beat.backends]\nmoody = moody:MoodyBackend\n")


def running_with(tmp_path: Path, *options: str) -> AbstractContextManager[Command]:
    """Run the command with that backend."""
    return command(tmp_path, "--backend=moody://", *options, PYTHONPATH=str(tmp_path))


TARGET = "/ws/news?subscribe-broadcast&publish-broadcast&echo"


async def closed_with(peer: Peer) -> int:
    """The close code that a peer gets."""
    close = await peer.closed()
    assert close is not None
    return close.code


async def test_who_may_have_missed_a_message_is_closed_with_1012(tmp_path: Path) -> None:
    with running_with(tmp_path) as running, trio.fail_after(20):
        async with aclosing(await dial(running.port, TARGET)) as peer:
            await peer.send_text("blink")
            assert await closed_with(peer) == 1012


async def test_who_may_have_missed_a_message_is_kept(tmp_path: Path) -> None:
    with running_with(tmp_path, "--backend-lost=keep") as running, trio.fail_after(20):
        async with aclosing(await dial(running.port, TARGET)) as peer:
            await peer.send_text("blink")
            text = ""
            while not text:  # what comes before the hub has subscribed again is lost
                await peer.send_text("still here")
                with trio.move_on_after(0.2):
                    text = await peer.text()
            assert text == "still here"


async def test_a_backend_that_is_away_is_waited_for_no_longer_than_that(tmp_path: Path) -> None:
    with running_with(tmp_path, "--backend-grace=0.1") as running, trio.fail_after(9):
        async with aclosing(await dial(running.port, TARGET)) as peer:
            await peer.send_text("go")
            assert await closed_with(peer) == 1012
        # The default is longer than this test may take.
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            await stream.send_all(HANDSHAKE.format(target=TARGET, headers="").encode())
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 503 ")


async def test_the_password_of_its_url_is_shown_nowhere(tmp_path: Path) -> None:
    secret = "moody://bob:s3cret@host"
    (tmp_path / "beat.toml").write_text(f'backend = "{secret}"\n')
    ways: list[tuple[list[str], dict[str, Any]]] = [
        ([f"--backend={secret}"], {}),
        (["--backend", secret], {}),
        ([f"--config={tmp_path}/beat.toml"], {}),
        ([], {"TRIO_BEAT_BACKEND": secret}),
    ]
    for options, variables in ways:
        with command(
            tmp_path, "--log-level=debug", *options, PYTHONPATH=str(tmp_path), **variables
        ) as running:
            async with aclosing(await dial(running.port, TARGET)) as peer:
                await peer.send_text("blink")
                await closed_with(peer)
            shown = [*running.banner, str(running.health())]
            process = trio.Path(f"/proc/{running.process.pid}/cmdline")
            if await process.exists():
                shown.append(await process.read_text())
            for page in ("", "healthz", "readyz"):
                async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
                    await stream.send_all(f"GET /{page} HTTP/1.0\r\n\r\n".encode())
                    shown.append(repr(b"".join([bytes(data) async for data in stream])))
            assert running.end() == 0
            shown.append(running.log())
        assert "trio-beat" in shown[0]
        assert "1012" in running.log()
        assert "s3cret" not in "".join(shown)
