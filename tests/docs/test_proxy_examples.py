"""What the page about operating shows for a proxy, with nginx and the bundled server."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.support.certificates import ServerFiles
from tests.support.command import command
from tests.support.documents import document, examples
from tests.support.nginx import connect_from, free_ports, nginx
from tests.support.peer import dial


@pytest.mark.real
async def test_nginx_tells_who_the_client_is(tmp_path: Path) -> None:
    (block,) = examples("proxies", "nginx")
    option = "--trusted-proxy 127.0.0.1"
    assert f"``{option}``" in document("proxies")
    files = ServerFiles(tmp_path, "localhost")
    [port] = free_ports(1)
    with command(tmp_path, *option.split()) as running:
        for shown, here in (
            ("127.0.0.1:8000", f"127.0.0.1:{running.port}"),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/ssl/example.com.pem", str(files.certificate)),
            ("/etc/ssl/example.com.key", str(files.key)),
        ):
            assert block.count(shown) == 1
            block = block.replace(shown, here)
        async with nginx(block, tmp_path, port):
            with trio.fail_after(60):
                tcp = await connect_from("127.0.0.2", port)
                peer = await dial(
                    port,
                    "/ws/news?subscribe-broadcast&publish-broadcast&echo",
                    headers="X-Forwarded-For: 192.0.2.1\r\n",
                    ssl_context=files.context,
                    tcp=tcp,
                )
                await peer.send_text("through it")
                assert await peer.text() == "through it"
                await peer.send_close()
                await peer.closed()
                await peer.aclose()
                while " /ws/news ended: peer (1000)" not in running.log():  # noqa: ASYNC110
                    await trio.sleep(0.05)
    [line] = [line for line in running.log().splitlines() if " ended: " in line]
    assert " 127.0.0.2 /ws/news ended: " in line
