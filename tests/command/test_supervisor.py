"""Workers over a real broker: what they share, which signals go where, and how they end."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import trio

from tests.support.broker import Broker
from tests.support.certificates import ServerFiles
from tests.support.command import clean_environment, command
from tests.support.peer import HANDSHAKE, Peer
from tests.support.workers import PATIENCE, Workers, until, workers

pytestmark = [pytest.mark.real, pytest.mark.slow]


async def test_a_port_is_shared_by_whole_servers(
    valkey: Broker, prefix: str, tmp_path: Path
) -> None:
    """Connections spread, channels are shared, and limits, counts and log lines are each one's."""
    url = f"{valkey.url}?prefix={prefix}"
    with workers(tmp_path, url, "--max-connections=2", "--publish-token=s3cret") as running:
        both = running.processes()
        assert sorted(both) == [1, 2]
        assert running.running.banner[0].endswith(" is listening with 2 workers\n")
        async with running.peers("/ws/news?subscribe-broadcast&publish-broadcast&echo", 2) as peers:
            await peers[1][0].send_text("hello")
            for number in (1, 2):
                for peer in peers[number]:
                    with trio.fail_after(PATIENCE):
                        assert await peer.text() == "hello"
                health = await running.health(number)
                assert (health["workers"], health["connections"]) == (2, 2)
            # Both are full, so nobody comes in, whoever answers.
            for _ in range(4):
                async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
                    await stream.send_all(HANDSHAKE.format(target="/ws/a", headers="").encode())
                    assert (await stream.receive_some(12)).startswith(b"HTTP/1.1 503")
            titles = [
                " ".join(process.cmdline()) for process in (running.supervisor, *both.values())
            ]
            assert "s3cret" not in str(titles)
            assert running.supervisor.num_threads() == 1
            sockets = running.supervisor.net_connections("tcp")
            assert [connection.status for connection in sockets] == ["LISTEN", "LISTEN"]
        assert running.running.end() == 0
    lines = running.running.log().splitlines()
    assert {n for line in lines for n in re.findall(r"[A-Z]+ +worker (\d): 127\.", line)} == {
        "1",
        "2",
    }
    assert any(re.search(r"INFO +SIGTERM, shutting down", line) for line in lines)


def _logged(running: Workers, text: str) -> bool:
    return text in running.running.log()


async def _closed(peers: list[Peer]) -> set[int | None]:
    codes = set()
    for peer in peers:
        with trio.fail_after(PATIENCE):
            close = await peer.closed()
        codes.add(None if close is None else close.code)
    return codes


def _free(port: int) -> None:
    """Fails where somebody listens on the port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("all_processes", [False, True])
async def test_a_signal_drains_all(
    number: int, all_processes: bool, valkey: Broker, tmp_path: Path
) -> None:
    """Also where a terminal, or a service manager, sends it to each process."""
    with workers(tmp_path, valkey.url, "--grace=4") as running:
        every = running.processes()
        async with running.peers("/ws/a", 1) as peers:
            if all_processes:
                for process in every.values():
                    process.send_signal(number)
            running.supervisor.send_signal(number)
            for some in peers.values():
                assert await _closed(some) == {1001}
        assert await trio.to_thread.run_sync(running.running.process.wait, PATIENCE) == 0
        assert not any(process.is_running() for process in every.values())
        _free(running.port)
    assert "WARNING" not in running.running.log()


@pytest.mark.parametrize("numbers", [(signal.SIGQUIT,), (signal.SIGTERM, signal.SIGTERM)])
async def test_all_end_at_once(numbers: tuple[int, ...], valkey: Broker, tmp_path: Path) -> None:
    with workers(tmp_path, valkey.url, "--grace=600") as running:
        async with running.peers("/ws/a", 1) as peers:
            for number in numbers:
                running.supervisor.send_signal(number)
                name = signal.Signals(number).name
                await until(functools.partial(_logged, running, name))
            for some in peers.values():
                await _closed(some)
            wait = running.running.process.wait
            assert await trio.to_thread.run_sync(wait, PATIENCE) == 1
        _free(running.port)


async def test_a_server_without_workers_ends_at_once_as_well(tmp_path: Path) -> None:
    with command(tmp_path, "--grace=600") as running:
        assert running.end(signal.SIGQUIT) == 1
    assert "SIGQUIT, leaving at once" in running.log()


async def test_a_certificate_is_renewed_in_all(valkey: Broker, tmp_path: Path) -> None:
    """And in those that come later; one that cannot be read is told once, and changes nothing."""
    files = ServerFiles(tmp_path)
    with workers(tmp_path, valkey.url, *files.options) as running:

        def seen() -> set[str]:
            """With 40 handshakes one of two workers is left out once in 2 ** 39 times."""
            return {files.seen(running.port) for _ in range(40)}

        (first,) = await trio.to_thread.run_sync(seen)
        files.renew()
        running.supervisor.send_signal(signal.SIGHUP)
        await until(lambda: running.running.log().count("SIGHUP: read ") == 3)
        (second,) = await trio.to_thread.run_sync(seen)
        assert second != first
        whole = files.key.read_bytes()
        files.key.write_bytes(b"")
        running.supervisor.send_signal(signal.SIGHUP)
        await until(lambda: "the certificate in use stays" in running.running.log())
        before = running.processes()[1]
        before.kill()
        await until(lambda: running.processes().get(1) not in (None, before))
        assert await trio.to_thread.run_sync(seen) == {second}
        assert running.running.log().count("the certificate in use stays") == 1
        files.key.write_bytes(whole)
        assert running.running.end() == 0


async def test_one_that_is_told_to_end_is_replaced_while_it_drains(
    valkey: Broker, tmp_path: Path
) -> None:
    with workers(tmp_path, valkey.url, "--grace=60") as running:
        before = running.processes()
        async with running.peers("/ws/a?subscribe-broadcast&publish-broadcast&echo", 1) as peers:
            before[2].terminate()
            before[2].terminate()
            after = await running.replaced(2, before[2])
            assert before[2].is_running()
            assert await _closed(peers[2]) == {1001}
            await peers[1][0].send_text("still here")
            assert await peers[1][0].text() == "still here"
        name = f"worker 2 (process {before[2].pid}) "
        await until(functools.partial(_logged, running, f"{name}ended with exit code 0"))
        assert _logged(running, f"{name}drains, another starts")
        assert running.processes() == {1: before[1], 2: after}
        assert running.running.end() == 0


async def test_lines_of_all_stay_whole(valkey: Broker) -> None:
    """Those of JSON, through one pipe."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "trio_beat", "--port=0", "--workers=2"),
            *("--log-format=json", "--log-level=debug", f"--backend={valkey.url}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        try:
            port = int(
                re.findall(r":(\d+)/", process.stdout.readline() + process.stdout.readline())[0]
            )

            def refused() -> None:
                for _ in range(100):
                    with socket.create_connection(("127.0.0.1", port)) as sock:
                        sock.sendall(b"GET /ws/%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 3000))
                        assert sock.recv(12) == b"HTTP/1.1 426"

            await trio.to_thread.run_sync(refused)
        finally:
            process.terminate()
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert process.wait(PATIENCE) == 0
    assert {line["worker"] for line in lines if "worker" in line} == {1, 2}
    assert [line["message"] for line in lines if "worker" not in line][:1] == [
        "SIGTERM, shutting down"
    ]


async def test_orphans_are_reaped_by_the_first_process_of_a_container(
    valkey: Broker, tmp_path: Path
) -> None:
    own = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        subprocess.run([*own, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not permitted to make a namespace for processes")
    script = f"""
        (sleep 0.2 &) # is nobody's child when its shell is gone
        exec {sys.executable} -m trio_beat --port=0 --workers=2 --backend={valkey.url}
    """
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*own, "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=clean_environment(),
        )
    assert process.stdout is not None
    with process:
        try:
            assert "with 2 workers" in process.stdout.readline()
            (first,) = psutil.Process(process.pid).children()

            def children() -> list[str]:
                return sorted(child.status() for child in first.children())

            await until(lambda: "sleep" not in {child.name() for child in first.children()})
            assert len(children()) == 2
            assert psutil.STATUS_ZOMBIE not in children()
        finally:
            os.kill(first.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
