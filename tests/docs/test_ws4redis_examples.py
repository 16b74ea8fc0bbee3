"""What the page about django-websocket-redis shows, with nginx, Django and a broker."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import trio

from tests.support.broker_port import port
from tests.support.certificates import ServerFiles
from tests.support.command import command
from tests.support.django_site import running_site
from tests.support.documents import document, examples
from tests.support.nginx import free_ports, nginx
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import serving
from tests.support.ws4redis import django, environment
from trio_beat import channel_key, open_hub

__all__ = ["port"]  # a fixture

_REDIS = "127.0.0.1:6379"


@pytest.mark.real
async def test_nginx_passes_websockets_on(tmp_path: Path) -> None:
    (location,) = examples("ws4redis", "nginx")
    async with open_hub() as hub, serving(hub=hub) as server:
        assert location.count(":8000") == 1
        location = location.replace(":8000", f":{server.port}")
        [port] = free_ports(1)
        block = f"server {{ listen 127.0.0.1:{port};\n{location}\n}}"
        async with nginx(block, tmp_path, port):
            target = "/ws/a%2Fb%20c?subscribe-broadcast&publish-broadcast&echo"
            peer = await dial(port, target)
            await peer.send_text("through it")
            assert await peer.text() == "through it"
            await hub.publish("broadcast:a/b c", "and back")
            assert await peer.text() == "and back"
            await peer.aclose()


@pytest.mark.real
@pytest.mark.parametrize("line", ["", "proxy_set_header Host $host;"], ids=["none", "host"])
async def test_nginx_has_to_pass_the_host_on(line: str, tmp_path: Path) -> None:
    right = "proxy_set_header Host $http_host;"
    location = examples("ws4redis", "nginx")[0]
    assert location.count(right) == 1
    async with open_hub() as hub, serving(hub=hub) as server:
        location = location.replace(":8000", f":{server.port}")
        (port,) = free_ports(1)
        begin = f"server {{ listen 127.0.0.1:{port};\n"
        async with nginx(begin + location.replace(right, line) + "}", tmp_path, port):
            answer = b""
            with trio.fail_after(30):  # nginx keeps the connection
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(_of_page(port))
                    while right.encode() not in answer:
                        answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 403 ")
            host = "127.0.0.1" if line else f"127.0.0.1:{server.port}"
            assert f"Origin http://127.0.0.1:{port} is not allowed: Host is {host};" in str(answer)
        async with nginx(begin + location + "}", tmp_path, port):
            with trio.fail_after(30):
                tcp = await trio.open_tcp_stream("127.0.0.1", port)
                await tcp.send_all(_of_page(port))
                assert (await tcp.receive_some()).startswith(b"HTTP/1.1 101 ")
                await tcp.aclose()


def _of_page(port: int) -> bytes:
    """The handshake that a browser sends for a page that nginx has served."""
    authority = f"127.0.0.1:{port}"
    request = HANDSHAKE.format(
        target="/ws/news?subscribe-broadcast", headers=f"Origin: http://{authority}\r\n"
    )
    return request.replace("Host: localhost", f"Host: {authority}").encode()


@pytest.mark.real
async def test_the_server_has_what_django_publishes(port: int, tmp_path: Path) -> None:
    start = examples("ws4redis", "sh")[0]
    line = start.replace("\\\n", " ").replace(_REDIS, f"127.0.0.1:{port}")
    python, *options = shlex.split(line)
    assert [python, *options[:4]] == ["python", "-m", "trio_beat", "--port", "8000"]
    with command(tmp_path, *options[4:]) as running:
        peer = await dial(running.port, "/ws/news?subscribe-broadcast&publish-broadcast&echo")
        assert await _run(examples("ws4redis", "python")[0], port) == "b'hello'\n"
        assert await _message(peer) == "hello"
        await peer.send_text("of a peer")
        assert await _message(peer) == "of a peer"
        async with django(port, TEST_REDIS_PREFIX="myapp") as project:
            assert await project.fetch("news", "broadcast") == b"of a peer"
        await peer.aclose()


async def _message(peer: Peer) -> str:
    while (text := await peer.text()) == "--heartbeat--":
        pass
    return text


async def _run(publish: str, port: int) -> str:
    """What an example prints in the Django project."""
    ran = await trio.run_process(
        [sys.executable, "-c", f"import django\ndjango.setup()\n{publish}"],
        env=environment(port, TEST_REDIS_PREFIX="myapp"),
        capture_stdout=True,
    )
    return ran.stdout.decode()


@pytest.mark.real
@pytest.mark.slow
async def test_users_groups_and_sessions(port: int, tmp_path: Path) -> None:
    view, line = examples("ws4redis", "python")[1], examples("ws4redis", "sh")[1]
    options = shlex.split(line.replace("\\\n", " ").replace(_REDIS, f"127.0.0.1:{port}"))[5:]
    target = "/ws/news?subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"
    files = ServerFiles(tmp_path)  # the site wants TLS
    files.context.check_hostname = False
    with running_site(tmp_path, view) as site:
        options[options.index("http://127.0.0.1:9000/hook")] = site.url
        options.append("--auth-timeout=60")
        with command(tmp_path, *options, *files.options, "--handshake-timeout=60") as running:
            dialling = functools.partial(dial, running.port, target, ssl_context=files.context)
            bob = await dialling(headers=f"Cookie: {site.cookie}\r\n")
            visitor = await dialling(headers="Cookie: theme=dark\r\n")
            async with django(port, TEST_REDIS_PREFIX="myapp") as project:
                await project.publish("to bob", "news", users=["bob"])
                assert await bob.text() == "to bob"
                await project.publish("to editors", "news", groups=["editors"])
                assert await bob.text() == "to editors"
                await project.publish("to a session", "news", sessions=[site.session])
                assert await bob.text() == "to a session"
                await project.publish("to all", "news", broadcast=True)
                assert await bob.text() == await visitor.text() == "to all"
                anonymous = await dialling()
                assert await anonymous.text() == "to all"
            for peer in (bob, visitor, anonymous):
                await peer.aclose()
            assert running.end() == 0


def test_every_setting_is_explained() -> None:
    found = importlib.util.find_spec("ws4redis")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).with_name("settings.py").read_text()
    names = re.findall(r"^([A-Z][A-Z0-9_]+) = ", source, re.MULTILINE)
    assert len(names) == 8
    terms = re.findall(r"^``[A-Z].*``$", document("ws4redis"), re.MULTILINE)
    for name in names:
        assert f"``{name}``" in ", ".join(terms).split(", ")


def test_the_ambiguous_facility_is_one() -> None:
    assert "``/ws/a%3Ab``" in document("ws4redis")
    with pytest.raises(ValueError, match="colon"):
        channel_key("user", "a:b", "john")
