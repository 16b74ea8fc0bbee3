"""The command, as an operator meets it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio_websocket
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..support.certificates import ServerFiles
from ..support.command import ASCII, Command, command, run_command
from ..support.peer import dial

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port=x"], "--port: 'x'"),
        (["--backend=carrier-pigeon://"], "no backend for 'carrier-pigeon://'"),
        (["--backend=memory://?keep=much"], "keep is 'much'"),
        (["--tls-cert=/nowhere.pem"], "/nowhere.pem"),
        (["--tls-cert=/etc/hostname"], "no certificate and key of one another"),
        (["--host=192.0.2.1"], "cannot listen on 192.0.2.1:8000"),
        (["--host=127.0.0.1", "--host=192.0.2.1", "--port=0"], "cannot listen on 192.0.2.1:0: "),
        (["--host=2001:db8::1"], "cannot listen on [2001:db8::1]:8000"),
        (["--host=no such host"], "cannot listen on no such host:8000"),
        (["--host=a..b"], "cannot listen on a..b:8000"),
        (
            ["lisen", "ws://host/"],
            "no command: they are listen, publish, check and token; the server",
        ),
    ],
)
def test_bad_configuration_is_one_line_and_exit_code_2(options: list[str], words: str) -> None:
    done = run_command(*options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("trio-beat: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_port_in_use_is_one_line_and_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_command(f"--port={port}")
    assert done.returncode == 2
    expected = f"trio-beat: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert done.stderr == expected


def test_version_and_help_end_well() -> None:
    assert run_command("--version").stdout.startswith("trio-beat ")
    done = run_command("--help")
    assert done.returncode == 0
    assert "--heartbeat-message" in done.stdout


def test_says_where_it_listens_and_where_the_page_is(tmp_path: Path) -> None:
    with command(tmp_path, "--path-prefix=/sockets/") as running:
        assert running.banner[0].endswith("is listening\n")
        assert f"http://127.0.0.1:{running.port}/\n" in running.banner[1]
        assert f"ws://127.0.0.1:{running.port}/sockets/<facility>" in running.banner[2]
        assert running.health()["status"] == "ok"


@pytest.mark.parametrize(
    ("options", "places", "whole"),
    [
        (["--host=127.0.0.1", "--host=::1"], ["127.0.0.1", "[::1]"], ""),
        (["--host=::"], ["[::1]", "127.0.0.1"], "([::]:{0} and 0.0.0.0:{0})"),
        (["--host=0.0.0.0"], ["127.0.0.1"], "(0.0.0.0:{0})"),
    ],
)
def test_announces_each_address_by_a_url_that_can_be_opened(
    options: list[str], places: list[str], whole: str, tmp_path: Path
) -> None:
    with command(tmp_path, *options) as running:
        assert running.process.stdout is not None
        rest = 2 * len(places) - 2 + bool(whole)
        said = running.banner[1:] + [running.process.stdout.readline() for _ in range(rest)]
        urls = [line.split()[1] for line in said if "http" in line]
        assert urls == [f"http://{place}:{running.port}/" for place in places]
        assert not whole or whole.format(running.port) in said[-1]
        for url in urls:
            with urllib.request.urlopen(url + "healthz") as answer:
                assert answer.status == 200
        exposed = bool(whole)  # beyond loopback
        assert ("WARNING everybody who reaches " in running.log()) is exposed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_closes_all_connections_with_1001_and_ends_with_0(
    tmp_path: Path, number: int
) -> None:
    with command(tmp_path, "--grace=2") as running:
        peer = await dial(running.port)
        running.process.send_signal(number)
        close = await peer.closed()
        assert close is not None
        assert close.code == 1001
        await peer.send_close(1001)
        assert await trio.to_thread.run_sync(running.process.wait, 10) == 0
        assert "shutdown (1001" in running.log()
        await peer.aclose()


async def test_ends_before_a_container_is_killed(tmp_path: Path) -> None:
    with command(tmp_path) as running:
        peers = [await dial(running.port) for _ in range(3)]
        idle = await trio.open_tcp_stream("127.0.0.1", running.port)
        begun = time.monotonic()
        assert await trio.to_thread.run_sync(running.end) == 0
        # `docker stop` waits for 10 s, and these have answered nothing.
        assert 4 < time.monotonic() - begun < 9.8
        assert running.log().count("shutdown (1001") == 3
        for peer in peers:
            await peer.aclose()
        await idle.aclose()


async def test_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with command(tmp_path, "--grace=3600") as running:
        # The first is closed at once, the second would be after half an hour.
        peers = [await dial(running.port), await dial(running.port)]
        running.process.send_signal(signal.SIGTERM)
        with trio.move_on_after(0.5):
            await peers[0].closed()
            await peers[1].closed()
        running.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(running.process.wait, 10) == 1
        for peer in peers:
            close = await peer.closed()
            assert close is None or close.code == 1001
            await peer.aclose()
        assert "Traceback" not in running.log()


async def test_json_log_has_one_object_a_line(tmp_path: Path) -> None:
    with command(tmp_path, "--log-format=json") as running:
        url = running.websocket("news?subscribe-broadcast")
        async with trio_websocket.open_websocket_url(url):
            pass
        running.end()
        lines = [json.loads(line) for line in running.log().splitlines()]
    ended = [line for line in lines if "ended" in line["message"]]
    assert [(line["level"], line["by"], line["code"]) for line in ended] == [("INFO", "peer", 1000)]
    assert datetime.fromisoformat(ended[0]["time"]).utcoffset() == timedelta(0)


async def test_serves_over_tls(tmp_path: Path) -> None:
    files = ServerFiles(tmp_path)
    with command(tmp_path, *files.options) as running:
        assert running.page.startswith("https://")
        url = running.websocket("news?subscribe-broadcast&publish-broadcast&echo")
        async with trio_websocket.open_websocket_url(url, ssl_context=files.context) as websocket:
            await websocket.send_message("over TLS")
            assert await websocket.get_message() == "over TLS"
        session, resumed = None, []
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", running.port), timeout=10) as tcp,
                files.context.wrap_socket(tcp, server_hostname="127.0.0.1", session=session) as tls,
            ):
                tls.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert tls.recv(4096).startswith(b"HTTP/1.1 200")
                session = tls.session
                resumed.append(tls.session_reused)
        assert resumed == [False, True]


async def told(running: Command, text: str) -> None:
    """Wait until a line of the log has this text, once more than before."""
    before = running.log().count(text)
    running.process.send_signal(signal.SIGHUP)
    with trio.fail_after(10):
        while running.log().count(text) == before:  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.02)


async def test_sighup_reads_the_certificate_again_and_drops_no_connection(tmp_path: Path) -> None:
    files = ServerFiles(tmp_path)
    with command(tmp_path, *files.options, "--interval=0.3") as running:
        url = running.websocket("news?subscribe-broadcast&publish-broadcast&echo")
        async with trio_websocket.open_websocket_url(url, ssl_context=files.context) as websocket:
            first = files.seen(running.port)
            files.renew()
            assert files.seen(running.port) == first
            await told(running, "SIGHUP: read ")
            second = files.seen(running.port)
            assert second != first
            # A file that cannot be used leaves what is there.
            key = files.key.read_bytes()
            for wrong in (trustme.CA().issue_cert("x").private_key_pem.bytes(), b"", _encrypted()):
                files.key.write_bytes(wrong)
                await told(running, " ERROR   SIGHUP: the certificate in use stays: --tls-")
                assert files.seen(running.port) == second
            files.key.unlink()
            await told(
                running, " ERROR   SIGHUP: the certificate in use stays: --tls-cert: cannot use"
            )
            files.key.write_bytes(key)
            files.certificate.write_bytes(b"no certificate")
            await told(running, " ERROR   SIGHUP: the certificate in use stays: --tls-")
            assert files.seen(running.port) == second
            files.renew()
            await told(running, "SIGHUP: read ")
            assert files.seen(running.port) not in (first, second)
            await trio.sleep(2)  # more beats than may be missed
            await websocket.send_message("still here")
            assert await websocket.get_message() == "still here"
        assert running.end() == 0
        assert running.log().count(" ended: ") == 1
        assert "Traceback" not in running.log()


def _encrypted() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"s3cret"),
    )


def test_encrypted_key_is_told_and_nothing_is_asked(tmp_path: Path) -> None:
    files = ServerFiles(tmp_path)
    files.key.write_bytes(_encrypted())
    done = run_command(*files.options)
    assert done.returncode == 2
    assert done.stderr.startswith("trio-beat: --tls-cert: its private key is encrypted, ")
    assert done.stderr.count("\n") == 1


async def test_sighup_without_a_certificate_does_nothing(tmp_path: Path) -> None:
    with command(tmp_path) as running:
        peer = await dial(running.port)
        await told(running, " INFO    SIGHUP: nothing to read again")
        assert running.health()["connections"] == 1
        await peer.aclose()
        assert running.end() == 0


async def test_survives_running_out_of_file_descriptors(tmp_path: Path) -> None:
    with command(tmp_path) as running:
        descriptors = len(os.listdir(f"/proc/{running.process.pid}/fd"))
        limit = descriptors + 3
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        streams = [await trio.open_tcp_stream("127.0.0.1", running.port) for _ in range(6)]
        with trio.fail_after(10):
            while "cannot accept: [Errno 24]" not in running.log():  # noqa: ASYNC110
                await trio.sleep(0.05)
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(10):
            peer = await dial(running.port)
        await peer.aclose()
        assert running.end() == 0


async def test_warns_of_beats_that_a_proxy_would_not_wait_for(tmp_path: Path) -> None:
    with command(tmp_path, "--interval=60") as running:
        assert "beats are 60 s apart; many proxies" in running.log()


async def test_warns_of_too_few_file_descriptors(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with command(tmp_path, f"--max-connections={most}") as running:
        assert f"file descriptors are limited to {most}" in running.log()


async def test_freeze_of_15_beats_drops_no_live_peer(tmp_path: Path) -> None:
    with command(tmp_path, "--interval=1", "--misses=3") as running:
        url = running.websocket("news?subscribe-broadcast")
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                await nursery.start(_stay, url)
            await trio.sleep(2)
            with running.frozen():
                await trio.sleep(15)
            await trio.sleep(5)
            health = await trio.to_thread.run_sync(running.health)
            nursery.cancel_scope.cancel()
    assert health["connections"] == 50
    assert sum(health["ended"].values()) == 0


async def _stay(url: str, task_status: trio.TaskStatus[None]) -> None:
    """A client that is alive: it answers PINGs, in the task of trio-websocket's own."""
    async with trio_websocket.open_websocket_url(url):
        task_status.started()
        await trio.sleep_forever()


async def test_text_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    file = tmp_path / "beat.toml"
    file.write_text(
        'heartbeat-message = "\u2665"\ninterval = 0.2\n',
        encoding="utf-8",
    )
    with command(tmp_path, f"--config={file}", **ASCII) as running:
        peer = await dial(running.port)
        assert await peer.text() == "\u2665"
        await peer.aclose()
    with command(tmp_path, "--interval=0.2", "--heartbeat-message=\u2665", **ASCII) as running:
        peer = await dial(running.port)
        assert await peer.text() == "\u2665"
        await peer.aclose()


def test_error_that_the_locale_cannot_write_is_escaped() -> None:
    done = run_command("--heartbeat-message=\udcff", **ASCII)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "trio-beat: --heartbeat-message: '\\udcff' is not UTF-8\n"
    done = run_command("--backend=gr\u00fc\u00dfe", **ASCII)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
