"""Who peers are, with the command in processes of its own: over a broker, and with workers."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from websockets.frames import Close

from tests.support.broker import Broker
from tests.support.command import Command, command
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import ask, status
from tests.support.tokens import SECRET, token
from tests.support.workers import PATIENCE, Workers, until, workers
from trio_beat import open_hub

pytestmark = pytest.mark.real

OTHER = b"another secret of thirty-two bytes"
ALL = "/ws/news?subscribe-user&subscribe-group&subscribe-session"
OWN = "/ws/news?subscribe-user"


def bearer(key: bytes = SECRET, **members: Any) -> str:
    return f"Authorization: Bearer {token(key, **members)}\r\n"


def request(headers: str, target: str = OWN) -> bytes:
    return HANDSHAKE.format(target=target, headers=headers).encode()


@contextlib.asynccontextmanager
async def dialed(port: int, target: str, headers: str) -> AsyncIterator[Peer]:
    peer = await dial(port, target, headers=headers)
    try:
        yield peer
    finally:
        await peer.aclose()


class KeyFile:
    """The file of ``--jwt-key``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(SECRET + b"\n")
        self.options = ("--auth=jwt", f"--jwt-key={path}")

    def write(self, data: bytes) -> None:
        self.path.write_bytes(data)


@pytest.fixture
def key(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "key")


@pytest.mark.slow
async def test_two_servers_share_audiences_and_disconnects(
    valkey: Broker, prefix: str, key: KeyFile, tmp_path: Path
) -> None:
    """What a peer of one server publishes reaches its own peers at the other, and nobody else's."""
    url = f"{valkey.url}?prefix={prefix}"
    options = (f"--backend={url}", "--interval=30", *key.options)
    bob = bearer(groups=["staff"], sid="s3cret-1")
    eve = bearer(sub="eve", groups=["visitors"], sid="s3cret-2")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with command(tmp_path / "one", *options) as one, command(tmp_path / "two", *options) as two:
        with trio.fail_after(2 * PATIENCE):
            async with (
                dialed(two.port, ALL, bob) as bobs,
                dialed(two.port, ALL, eve) as eves,
                open_hub(url) as hub,
            ):
                for audience in ("user", "group", "session"):
                    for headers, peer in ((eve, eves), (bob, bobs)):
                        async with dialed(one.port, f"/ws/news?publish-{audience}", headers) as by:
                            await by.send_text(f"to my {audience}")
                            # The next text of each, so nothing of the other's came before it.
                            assert await peer.text() == f"to my {audience}"
                await hub.disconnect(session="s3cret-1", code=4001, reason="logged out")
                assert await bobs.closed() == Close(4001, "logged out")
                async with dialed(one.port, OWN, bob) as again, dialed(two.port, ALL, bob) as too:
                    await hub.disconnect(user="bob", block=1000)
                    for peer in (again, too):
                        assert await peer.closed() == Close(4003, "disconnected")
                for server in (one, two):
                    answer = await ask(server.port, request(bob))
                    assert status(answer) == 403
                    assert answer.endswith(b"\r\n\r\ndisconnected\n")
                # Another user's connection stays.
                async with dialed(one.port, "/ws/news?publish-user", eve) as by:
                    await by.send_text("still here")
                    assert await eves.text() == "still here"
                health = str([one.health(), two.health()])
        assert [one.end(), two.end()] == [0, 0]
    assert "s3cret" not in one.log() + two.log() + health
    assert "Traceback" not in one.log() + two.log()


async def test_no_token_reaches_a_log_or_health(key: KeyFile, tmp_path: Path) -> None:
    options = ("--jwt-query=q", "--jwt-cookie=c", "--log-level=debug", "--refuse-by=close")
    sources: tuple[Callable[[str], tuple[str, str]], ...] = (
        lambda it: (OWN, f"Authorization: Bearer {it}\r\n"),
        lambda it: (OWN, f"Sec-WebSocket-Protocol: bearer, {it}\r\n"),
        lambda it: (f"{OWN}&q={it}", ""),
        lambda it: (OWN, f"Cookie: c={it}\r\n"),
    )
    good = token(sid="s3cret")
    bad = (token(OTHER), good[:-9], f"{good}.{good}", "s3cret", token(aud="s3cret"))
    with command(tmp_path, *key.options, *options) as running:
        for source in sources:
            target, headers = source(good)
            async with dialed(running.port, target, headers) as peer:
                await peer.send_close()
                assert await peer.closed() == Close(1000, "")
            for given in bad:
                target, headers = source(given)
                async with dialed(running.port, target, headers) as peer:
                    close = await peer.closed()
                assert close is not None
                assert close.code == 3000
                assert not any(part in close.reason for part in given.split("."))
            nowhere = target.replace("news", "")
            assert status(await ask(running.port, request(headers, nowhere))) == 400
        health = str(running.health())
        assert running.end() == 0
    for given in (good, *bad):
        for part in given.split("."):
            assert part not in running.log() + health


async def test_sighup_reads_the_keys_of_tokens_again(key: KeyFile, tmp_path: Path) -> None:
    with command(tmp_path, "--interval=30", *key.options) as running:

        async def accepts(secret: bytes) -> bool:
            answer = await _status(running, bearer(secret))
            assert answer in (101, 401)
            return answer == 101

        async with dialed(running.port, OWN, bearer()) as peer:
            assert [await accepts(SECRET), await accepts(OTHER)] == [True, False]
            key.write(OTHER)
            assert not await accepts(OTHER)  # nobody has asked for it yet
            await _hang_up(running, "INFO    SIGHUP: read the file of --jwt-key again")
            assert [await accepts(SECRET), await accepts(OTHER)] == [False, True]
            # What cannot be used leaves what is there.
            key.write(b"s3cret")
            await _hang_up(
                running, "ERROR   SIGHUP: the keys in use stay: --jwt-key: a secret of 6"
            )
            key.path.unlink()
            await _hang_up(running, "ERROR   SIGHUP: the keys in use stay: --jwt-key: cannot read")
            assert [await accepts(SECRET), await accepts(OTHER)] == [False, True]
            # Who was let in stays.
            await peer.send_close()
            assert await peer.closed() == Close(1000, "")
        assert running.end() == 0
    assert "s3cret" not in running.log()


@pytest.mark.slow
async def test_sighup_reads_them_again_in_all_workers(
    valkey: Broker, prefix: str, key: KeyFile, tmp_path: Path
) -> None:
    """And those that come later have what was read last, not what the command began with."""
    url = f"{valkey.url}?prefix={prefix}"
    with workers(tmp_path, url, *key.options) as running:
        assert await _statuses(running, bearer()) == {1: 101, 2: 101}
        key.write(OTHER)
        await _hang_up(running.running, "SIGHUP: read the file of --jwt-key again", times=3)
        assert await _statuses(running, bearer()) == {1: 401, 2: 401}
        assert await _statuses(running, bearer(OTHER)) == {1: 101, 2: 101}
        key.write(b"short")
        await _hang_up(running.running, "the keys in use stay")  # in the supervisor
        before = running.processes()[1]
        before.kill()
        await running.replaced(1, before)
        assert await _statuses(running, bearer(OTHER)) == {1: 101, 2: 101}
        # A worker that begins reads them by itself, since others may have found newer ones.
        assert running.running.log().count("the keys in use stay") == 2
        assert running.running.end() == 0


async def _hang_up(running: Command, text: str, *, times: int = 1) -> None:
    """Send SIGHUP, and wait until so many lines more of the log have this text."""
    before = running.log().count(text)
    running.process.send_signal(signal.SIGHUP)
    await until(lambda: running.log().count(text) == before + times)


async def _status(running: Command, headers: str, tcp: trio.SocketStream | None = None) -> int:
    """The status of the answer to a handshake; a connection that it opens is not kept."""
    if tcp is None:
        tcp = await trio.open_tcp_stream("127.0.0.1", running.port)
    with trio.fail_after(PATIENCE):
        async with tcp:
            await tcp.send_all(request(headers))
            return int((await tcp.receive_some(4096)).split(b" ", 2)[1])


async def _statuses(running: Workers, headers: str) -> dict[int, int]:
    """The same of each worker."""
    found: dict[int, int] = {}
    with trio.fail_after(2 * PATIENCE):
        while len(found) < len(running.processes()):
            tcp = await trio.open_tcp_stream("127.0.0.1", running.port)
            number = await until(functools.partial(running.holder, tcp))
            found[number] = await _status(running.running, headers, tcp)
    return dict(sorted(found.items()))
