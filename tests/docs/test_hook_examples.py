"""What the page about hooks shows: a hook in Python, and a view in a real Django."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.application import answer, playing, says
from tests.support.django_site import Site, running_site
from tests.support.documents import document, examples, program
from tests.support.peer import dial
from trio_beat import Identity, Refused, Request
from trio_beat.auth import Hook

pytestmark = pytest.mark.real


async def test_a_handler_knows_who_it_greets() -> None:
    async with playing(says(answer(200, '{"user": "bob"}'))) as application:
        async with program(examples("hook", "python")[0], application.port) as running:
            target = await running.target()
            peer = await dial(*target, headers="Cookie: sessionid=1\r\n")
            assert await peer.text() == "hello, bob"
            await peer.aclose()
            peer = await dial(*target)
            assert await peer.text() == "hello, visitor"
            await peer.aclose()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), examples("hook", "python")[1]) as running:
        yield running


def request(cookie: str, *, host: str = "site.example", secure: bool = True) -> Request:
    headers = [("Host", host), ("Cookie", cookie)]
    return Request.of("/ws/news", headers, peer="192.0.2.1:4242", secure=secure)


async def test_django_tells_who_has_logged_in(site: Site) -> None:
    identity = await Hook(site.url, timeout=60)(request(site.cookie))
    assert identity is not None
    assert identity.expires_at is not None
    expected = Identity(
        user="bob", groups=["editors"], session=site.session, expires_at=identity.expires_at
    )
    assert identity == expected
    weeks = (identity.expires_at - time.time()) / 604800
    assert 1.9 < weeks < 2.1  # Django's default


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("sessionid=other"), 401),
        (request("theme=dark"), 401),
    ],
)
async def test_django_refuses_others(site: Site, asked: Request, status: int) -> None:
    with pytest.raises(Refused, match="log in first") as caught:
        await Hook(site.url, timeout=60)(asked)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("host", "secure", "status"),
    [("other.example", True, 400), ("site.example", False, 301)],
)
async def test_django_wants_its_own_host_and_tls(
    host: str, secure: bool, status: int, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Refused) as caught:
        await Hook(site.url, timeout=60)(request(site.cookie, host=host, secure=secure))
    assert caught.value.status == 503
    assert f"/hook answered {status}" in caplog.text


def test_what_may_be_answered_is_explained() -> None:
    for name in Identity.__slots__:
        assert f"``{name}``" in document("hook")
