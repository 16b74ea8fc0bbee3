"""What a scope says: the same target however the application is mounted."""

from __future__ import annotations

import urllib.parse
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.asgi import websocket_scope
from trio_beat import Refused
from trio_beat.asgi import scopes
from trio_beat.asgi.scopes import client, request, subprotocol, target

SENT = "/ws/caf%C3%A9%2Fb"
PATH = "/ws/café/b"


def _scope(path: str, raw: str | None, root: str = "", query: bytes = b"x=%41") -> dict[str, Any]:
    scope = websocket_scope(path=path, root_path=root, query_string=query)
    del scope["raw_path"]
    return scope if raw is None else {**scope, "raw_path": raw.encode()}


class TestTarget:
    # As Hypercorn 0.18, Starlette 1.10, FastAPI 0.165, Litestar 2.25 and Hypercorn's dispatcher
    # make them; `tests/asgi/test_frameworks.py` asks the real ones.
    @pytest.mark.parametrize(
        ("path", "raw", "root"),
        [
            pytest.param(PATH, SENT, "", id="alone"),
            pytest.param(PATH, SENT, "/proxy", id="behind a proxy that cuts"),
            pytest.param(f"/live{PATH}", f"/live{SENT}", "/live", id="mounted"),
            pytest.param(f"/live{PATH}", f"/live{SENT}", "/live/", id="mounted, with a slash"),
            pytest.param(f"/live{PATH}", f"/live{SENT}", "/proxy/live", id="mounted, proxied"),
            pytest.param(f"{PATH}/", f"/live{SENT}", "", id="Litestar"),
            pytest.param(f"{PATH}/", f"/live{SENT}", "/proxy", id="Litestar, proxied"),
        ],
    )
    def test_is_what_was_sent_below_the_mount(self, path: str, raw: str, root: str) -> None:
        assert target(_scope(path, raw, root)) == f"{SENT}?x=%41"

    @pytest.mark.parametrize(
        ("path", "raw", "root"),
        [("/live", "/live", "/live"), ("/live/", "/live/", "/live"), ("/", "/live", "")],
    )
    def test_of_the_mount_itself_is_a_slash(self, path: str, raw: str, root: str) -> None:
        assert target(_scope(path, raw, root, b"")) == "/"

    def test_keeps_a_slash_that_was_sent(self) -> None:
        assert target(_scope("/ws/news/", "/live/ws/news/", query=b"")) == "/ws/news/"

    def test_is_encoded_where_the_server_tells_no_raw_path(self) -> None:
        assert target(_scope(PATH, None, query=b"")) == "/ws/caf%C3%A9/b"

    @pytest.mark.parametrize(
        ("path", "raw", "root"),
        [
            pytest.param("/A" * 4000 + "/", "/live" + "/%41" * 4000, "", id="Litestar"),
            pytest.param("/ws/" + "/A" * 4000, "/ws%2F" + "/%41" * 4000, "/ws", id="mounted"),
        ],
    )
    def test_is_found_in_one_pass(
        self, path: str, raw: str, root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request with many slashes and escapes keeps the loop no longer than others."""
        decoded = 0

        def unquote(text: str) -> str:
            nonlocal decoded
            decoded += len(text)
            return urllib.parse.unquote(text)

        monkeypatch.setattr(scopes, "unquote", unquote)
        assert urllib.parse.unquote(target(_scope(path, raw, root, b""))).startswith("/")
        assert decoded <= 4 * len(raw)

    @given(
        st.lists(st.sampled_from(["/", "a", "%2F", "%41", "%C3", "%A9", "%", "é", "%zz"])),
        st.integers(0, 9),
        st.sampled_from(["", "/"]),
    )
    def test_means_the_path(self, parts: list[str], at: int, slash: str) -> None:
        raw = "".join(["/", *parts]).encode("latin-1")
        whole = urllib.parse.unquote(raw.decode("latin-1"))
        path = "/" + whole[at:].removeprefix("/") + slash
        scope = websocket_scope(path=path, raw_path=raw, query_string=b"")
        assert urllib.parse.unquote(target(scope)) in (path, path.removesuffix("/"))

    def test_does_not_cut_within_a_name(self) -> None:
        assert target(_scope("/lively/ws", "/lively/ws", "/live", b"")) == "/lively/ws"


class TestRequest:
    def test_has_the_scope_and_what_is_in_it(self) -> None:
        scope = websocket_scope("/ws/a?b", scheme="wss", headers=[(b"cookie", b"c=d")])
        made = request(scope, client(scope))
        assert (made.target, made.secure, made.peer) == ("/ws/a?b", True, "192.0.2.1:5")
        assert made.cookies == {"c": "d"}
        assert made.scope is scope

    @pytest.mark.parametrize(
        "changes", [{"headers": [(b"a b", b"secret")]}, {"query_string": b"secret\n"}]
    )
    def test_that_is_none_is_refused(self, changes: dict[str, Any]) -> None:
        scope = websocket_scope("/ws/a", **changes)
        with pytest.raises(Refused) as caught:
            request(scope, client(scope))
        assert caught.value.status == 400
        assert "secret" not in caught.value.logged


class TestClient:
    @pytest.mark.parametrize(
        ("told", "peer", "address"),
        [
            (("192.0.2.1", 5), "192.0.2.1:5", IPv4Address("192.0.2.1")),
            (("::ffff:192.0.2.1", 5), "192.0.2.1:5", IPv4Address("192.0.2.1")),
            (["192.0.2.1", None], "192.0.2.1", IPv4Address("192.0.2.1")),
            (None, "unknown", None),
            (("/run/socket", None), "/run/socket", None),
        ],
    )
    def test_is_who_the_server_tells(self, told: Any, peer: str, address: object) -> None:
        asking = client(websocket_scope(client=told))
        assert (asking.peer, asking.address) == (peer, address)
        assert (asking.host, asking.scheme) == ("example.org", None)

    def test_of_ipv6_has_brackets(self) -> None:
        assert client(websocket_scope(client=("2001:db8::1", 5))).peer == "[2001:db8::1]:5"

    def test_came_over_tls(self) -> None:
        assert client(websocket_scope(scheme="wss")).scheme == "https"


def test_the_first_subprotocol_that_is_spoken_is_agreed_on() -> None:
    scope = websocket_scope(subprotocols=["a", "b"])
    assert subprotocol(scope, ("b", "a")) == "b"
    assert subprotocol(scope, ("c",)) is None
