"""A server behind a real nginx that speaks TLS."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.support.certificates import ServerFiles
from tests.support.harness import echo
from tests.support.nginx import connect_from, free_ports, nginx
from tests.support.peer import Peer, dial
from tests.support.serving import serving
from trio_beat import Connection

#: What a client makes up.
MADE_UP: Final = (
    "X-Forwarded-For: 192.0.2.1, 127.0.0.4\r\nX-Forwarded-For: 127.0.0.5\r\n"
    "X-Forwarded-Proto: http\r\nX-Forwarded-Host: evil.test\r\nForwarded: for=192.0.2.1\r\n"
)
#: 127.0.0.2 is the client's, and each proxy has one of its own.
CLIENT: Final = "127.0.0.2"
SERVER: Final = """
server {{
    listen 127.0.0.1:{port} {tls};
    location / {{
        proxy_pass http://{upstream};
        proxy_bind {own};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto {scheme};
        {more}
    }}
}}
"""

pytestmark = pytest.mark.real


async def handler(connection: Connection) -> None:
    """Say who the client is, and echo."""
    request = connection.request
    assert request is not None
    await connection.send(json.dumps([request.peer, request.secure, request.headers["Host"]]))
    await echo(connection)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The same for HTTP."""
    if scope["type"] != "http":
        return
    body = json.dumps(
        [
            (scope["client"] or ["local"])[0],
            scope["scheme"],
            dict(scope["headers"])[b"host"].decode(),
        ]
    )
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


async def told(port: int, files: ServerFiles) -> tuple[list[Any], list[Any]]:
    """What a handler and an application are told of a client with a will of its own."""
    tcp = await connect_from(CLIENT, port)
    peer: Peer = await dial(port, "/ws/x", headers=MADE_UP, ssl_context=files.context, tcp=tcp)
    handler_says = json.loads(await peer.text())
    await peer.send_text("hello")
    assert await peer.text() == "hello"
    await peer.aclose()
    stream = trio.SSLStream(
        await connect_from(CLIENT, port), files.context, server_hostname="127.0.0.1"
    )
    await stream.send_all(f"GET / HTTP/1.1\r\nHost: localhost\r\n{MADE_UP}\r\n".encode())
    data = b""
    while not data.endswith(b"]"):
        chunk = await stream.receive_some(65536)
        assert chunk, data
        data += chunk
    await trio.aclose_forcefully(stream)
    return handler_says, json.loads(data.partition(b"\r\n\r\n")[2])


def tls(files: ServerFiles) -> str:
    return f"ssl; ssl_certificate {files.certificate}; ssl_certificate_key {files.key}"


async def test_one_proxy(tmp_path: Path) -> None:
    files = ServerFiles(tmp_path, "127.0.0.1", "localhost")
    [port] = free_ports(1)
    for forwarded_host, host in ((False, "localhost"), (True, "site.test")):
        options = {"trusted_proxies": ["127.0.0.3"], "forwarded_host": forwarded_host}
        async with serving(handler, app=app, **options) as server:
            http = SERVER.format(
                port=port,
                tls=tls(files),
                upstream=f"127.0.0.1:{server.port}",
                own="127.0.0.3",
                scheme="$scheme",
                more="proxy_set_header X-Forwarded-Host site.test;" if forwarded_host else "",
            )
            async with nginx(http, tmp_path, port):
                with trio.fail_after(60):
                    by_handler, by_app = await told(port, files)
            assert by_handler == [CLIENT, True, host]
            assert by_app == [CLIENT, "https", host]


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="locks a path")  # see `tests.support.hidden`
    files = ServerFiles(tmp_path, "127.0.0.1", "localhost")
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # nginx may be another user
        path = f"{folder}/beat.sock"
        for trusted, expected in ((["unix"], [CLIENT, True]), (["127.0.0.1"], ["local", False])):
            options: dict[str, Any] = {"trusted_proxies": trusted, "uds": path, "uds_mode": 0o666}
            async with serving(handler, app=app, **options):
                http = SERVER.format(
                    port=port,
                    tls=tls(files),
                    upstream=f"unix:{path}",
                    own="off",
                    scheme="$scheme",
                    more="",
                )
                async with nginx(http, tmp_path, port):
                    with trio.fail_after(60):
                        by_handler, by_app = await told(port, files)
            assert by_handler == [*expected, "localhost"]
            assert by_app == [expected[0], "https" if expected[1] else "http", "localhost"]


async def test_a_chain_of_two(tmp_path: Path) -> None:
    """The one in front ends TLS, and the one behind it hands its word on."""
    files = ServerFiles(tmp_path, "127.0.0.1", "localhost")
    front, back = free_ports(2)
    trusted = {"both": ["127.0.0.3", "127.0.0.4"], "one": ["127.0.0.4"], "none": ["127.0.0.5"]}
    expected = {"both": [CLIENT, True], "one": ["127.0.0.3", True]}
    for which, proxies in trusted.items():
        async with serving(handler, app=app, trusted_proxies=proxies) as server:
            http = SERVER.format(
                port=front,
                tls=tls(files),
                upstream=f"127.0.0.1:{back}",
                own="127.0.0.3",
                scheme="$scheme",
                more="",
            ) + SERVER.format(
                port=back,
                tls="",
                upstream=f"127.0.0.1:{server.port}",
                own="127.0.0.4",
                scheme="$http_x_forwarded_proto",
                more="",
            )
            async with nginx(http, tmp_path, front):
                with trio.fail_after(60):
                    by_handler, by_app = await told(front, files)
        if which == "none":
            assert by_handler[0].startswith("127.0.0.4:")
            assert by_handler[1:] == [False, "localhost"]
            assert by_app == ["127.0.0.4", "http", "localhost"]
        else:
            assert by_handler == [*expected[which], "localhost"]
            assert by_app == [expected[which][0], "https", "localhost"]
