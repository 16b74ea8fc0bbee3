"""nginx as a proxy in front of a server."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from tests.support.programs import missing


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens."""
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in bound:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in bound]


async def connect_from(address: str, port: int) -> trio.SocketStream:
    """Connect to a port of 127.0.0.1 from an address of this machine."""
    sock = trio.socket.socket(socket.AF_INET)
    try:
        await sock.bind((address, 0))
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


@asynccontextmanager
async def nginx(http: str, directory: Path, port: int) -> AsyncIterator[None]:
    """Run nginx until the context ends; where it is not installed the test is skipped.

    Args:
        http: what stands in the block ``http``.
        directory: for its files.
        port: where it listens on 127.0.0.1, from when this is entered.
    """
    if shutil.which("nginx") is None:
        missing("nginx is not installed (Debian's nginx-light)")
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config, log = directory / "nginx.conf", directory / "nginx.log"
    config.write_text(
        f"daemon off; pid {directory}/nginx.pid; error_log {log}; events {{}}"
        f"http {{ access_log off; {temporary}\n{http}\n}}"
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-e", str(log)])
    try:
        with trio.fail_after(30):
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)
