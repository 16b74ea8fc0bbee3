"""Who a peer is, as the options of the command say."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.application import Stream, answer, nothing, playing, says
from tests.support.command import command, run_command
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, status
from tests.support.tokens import SECRET, p256_key, private_pem, token
from trio_beat import Identity, Refused, Request
from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.auth import load_authentication
from trio_beat._command.exposure import warn_if_exposed
from trio_beat._command.settings import load_settings

MODULE = """
import functools

import trio_beat


async def admit(request):
    user = request.headers.get("X-User")
    if user == "eve":
        raise trio_beat.Refused(403, "not you")
    return trio_beat.Identity(user=user) if user else None


class Admit:
    async def __call__(self, request):
        return trio_beat.Identity(user="called")


called = Admit()
partial = functools.partial(admit)


def plain(request):
    return None


something = 5
"""
REQUEST = Request.of("/ws/news", [], peer="192.0.2.1:5")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an application's module, in the directory where the command runs."""
    (tmp_path / "application_of_a_test.py").write_text(MODULE)
    (tmp_path / "broken_of_a_test.py").write_text("raise RuntimeError('no\\nluck')\n")
    (tmp_path / "script_of_a_test.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "application_of_a_test"


def requesting(*headers: tuple[str, str]) -> Request:
    return Request.of("/ws/news", headers, peer="192.0.2.1:5")


async def test_nobody_is_asked_unless_an_option_says_so() -> None:
    assert load_authentication(load_settings([])) is None
    assert load_authentication(load_settings(["--allow-anonymous"])) is None


async def test_a_function_tells_who_a_peer_is(module: str) -> None:
    authentication = load_authentication(load_settings([f"--auth={module}:admit"]))
    assert authentication is not None
    assert await authentication.admit(requesting(("X-User", "bob"))) == Identity(user="bob")
    with pytest.raises(Refused, match="not you"):
        await authentication.admit(requesting(("X-User", "eve")))
    with pytest.raises(Refused, match="nobody in without a credential") as caught:
        await authentication.admit(REQUEST)
    assert (caught.value.status, caught.value.headers) == (401, (("WWW-Authenticate", "Bearer"),))
    assert not authentication.renew()


async def test_a_peer_without_a_credential_may_be_let_in(module: str) -> None:
    settings = load_settings([f"--auth={module}:admit", "--allow-anonymous"])
    authentication = load_authentication(settings)
    assert authentication is not None
    assert await authentication.admit(REQUEST) is None
    with pytest.raises(Refused, match="not you"):
        await authentication.admit(requesting(("X-User", "eve")))


async def test_a_partial_function_may_be_called(module: str) -> None:
    authentication = load_authentication(load_settings([f"--auth={module}:partial"]))
    assert authentication is not None
    assert await authentication.admit(requesting(("X-User", "bob"))) == Identity(user="bob")


async def test_an_object_may_be_called(module: str) -> None:
    authentication = load_authentication(load_settings([f"--auth={module}:called"]))
    assert authentication is not None
    assert await authentication.admit(REQUEST) == Identity(user="called")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--auth={}:plain"], "--auth: application_of_a_test:plain is no async function"),
        (["--auth={}:something"], "--auth: application_of_a_test:something is no async function"),
        (["--auth={}:Admit"], "--auth: application_of_a_test:Admit is no async function"),
        (["--auth=script_of_a_test:admit"], "script_of_a_test:admit: SystemExit: 0"),
        (["--auth={}:nothing"], "--auth: cannot import application_of_a_test:nothing: Attribute"),
        (["--auth=nowhere_at_all:admit"], "cannot import nowhere_at_all:admit: ModuleNotFound"),
        (["--auth=broken_of_a_test:admit"], "broken_of_a_test:admit: RuntimeError: no luck"),
        (["--auth=ldap://host/x"], "'ldap://host/x' should be jwt, http://HOST/PATH, https:"),
        (["--auth=JWT"], "'JWT' should be jwt, http://HOST/PATH, https://HOST/PATH, or MODULE"),
        (["--auth=jwt"], "--auth jwt: needs --jwt-key"),
        (["--jwt-leeway=5"], "--jwt-leeway: is of no use without --auth jwt"),
        (["--auth={}:admit", "--jwt-key=x"], "--jwt-key: is of no use without --auth jwt"),
        (["--auth-timeout=5"], "--auth-timeout: is of no use without --auth http://HOST/PATH"),
        (["--auth=jwt", "--auth-header=a"], "--auth-header: is of no use without --auth http://"),
        (["--no-allow-anonymous"], "without --auth nobody has a credential"),
    ],
)
def test_what_cannot_be_used_is_told(options: list[str], message: str, module: str) -> None:
    settings = load_settings([option.format(module) for option in options])
    with pytest.raises(ConfigurationError) as caught:
        load_authentication(settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_in_a_url_is_not_told() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_authentication(load_settings(["--auth=ldap://bob:s3cret@host/x?k=s3cret"]))
    assert "s3cret" not in str(caught.value)


def lasting(**members: Any) -> str:
    """A token that outlives all tests, however long they take."""
    return token(**({"exp": 4_000_000_000} | members))


def bearer(**members: Any) -> Request:
    return requesting(("Authorization", f"Bearer {lasting(**members)}"))


@pytest.mark.parametrize(
    ("options", "request_", "refusing"),
    [
        (["--jwt-issuer=a"], bearer(iss="a"), ["--jwt-issuer=b"]),
        (["--jwt-audience=a,b", "--jwt-audience=c"], bearer(aud="b"), ["--jwt-audience=a"]),
        (["--jwt-audience=a,b", "--jwt-audience=c"], bearer(aud=["c"]), []),
        (["--jwt-leeway=1e10"], bearer(exp=1_000_000_000), ["--jwt-leeway=0"]),
        (["--jwt-no-expiry"], bearer(exp=None), []),
        (["--jwt-cookie=t"], requesting(("Cookie", f"t={lasting()}")), ["--jwt-cookie=u"]),
        (["--jwt-query=t"], Request.of(f"/ws/a?t={lasting()}", [], peer="x"), ["--jwt-query=u"]),
    ],
)
async def test_options_say_which_tokens_are_good(
    options: list[str], request_: Request, refusing: list[str], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(SECRET)
    needed = ["--auth=jwt", f"--jwt-key={key}"]
    authentication = load_authentication(load_settings([*needed, *options]))
    assert authentication is not None
    identity = await authentication.admit(request_)
    assert identity is not None
    assert identity.user == "bob"
    refuses = load_authentication(load_settings([*needed, *refusing]))
    assert refuses is not None
    with pytest.raises(Refused) as caught:
        await refuses.admit(request_)
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"thirty-one bytes, one too short", "a secret of 31 bytes; it must have 32 or more"),
        (private_pem(p256_key()), "a private key: only the issuer of tokens should have it"),
        (b'{"keys": [{"kty": "RSA", "use": "enc"}]}', "no key that can be used to verify a token"),
        (None, "cannot read "),
    ],
)
def test_a_key_that_cannot_be_used_is_told(data: bytes | None, text: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    if data is not None:
        key.write_bytes(data)
    with pytest.raises(ConfigurationError, match=f"^--jwt-key: {text}"):
        load_authentication(load_settings(["--auth=jwt", f"--jwt-key={key}"]))


async def test_an_application_is_asked_as_options_say() -> None:
    gate = trio.Event()

    async def script(stream: Stream) -> None:
        await gate.wait()
        await says(answer(200, '{"user": "bob"}'))(stream)

    async with playing(script) as application, trio.open_nursery() as nursery:
        options = [f"--auth={application.url}", "--auth-header=X-Key,X-More"]
        options += ["--auth-concurrency=1", "--auth-timeout=60"]
        authentication = load_authentication(load_settings(options))
        assert authentication is not None
        for name in ("X-Key", "X-More"):
            nursery.start_soon(authentication.admit, requesting((name, "k3y")))
        await application.asked(1)
        await trio.testing.wait_all_tasks_blocked()
        assert application.connections == 1
        gate.set()
        await application.asked(2)
    assert sorted("X-Key: k3y" in it for it in application.requests) == [False, True]
    assert sorted("X-More: k3y" in it for it in application.requests) == [False, True]


async def test_an_application_has_the_time_that_an_option_gives_it(
    patient_clock: MockClock,
) -> None:
    async with playing(nothing) as application:
        options = [f"--auth={application.url}", "--auth-timeout=100"]
        authentication = load_authentication(load_settings(options))
        assert authentication is not None
        begun = trio.current_time()
        with pytest.raises(Refused) as caught:
            await authentication.admit(requesting(("Cookie", "a=b")))
        assert caught.value.status == 503
        assert trio.current_time() - begun >= 100


@pytest.mark.real
async def test_the_command_asks(module: str, tmp_path: Path) -> None:
    done = run_command(f"--auth={module}:plain", PYTHONPATH="")
    assert (done.returncode, done.stderr) == (
        2,
        "trio-beat: --auth: application_of_a_test:plain is no async function\n",
    )
    options = [f"--auth={module}:admit", "--refuse-by=status", "--denied=drop", "--allow="]
    with command(tmp_path, *options) as running:
        request = HANDSHAKE.format(target="/ws/news?subscribe-user", headers="")
        answer = await ask(running.port, request.encode())
        assert status(answer) == 401
        assert b"WWW-Authenticate: Bearer\r\n" in answer
        target = "/ws/news?subscribe-user&publish-user&echo&subscribe-broadcast"
        peer = await dial(running.port, target, headers="X-User: bob\r\n")
        await peer.send_text("to myself")
        assert await peer.text() == "to myself"
        assert running.health()["hub"]["channels"] == 1  # broadcast was dropped
        await peer.aclose()
        assert running.end() == 0


@pytest.mark.parametrize(
    ("host", "options", "warned"),
    [
        ("127.0.0.1", [], False),
        ("::1", [], False),
        ("0.0.0.0", [], True),
        ("::", [], True),
        ("0.0.0.0", ["--allow="], False),
        ("0.0.0.0", ["--allow=subscribe-broadcast,publish-broadcast"], False),
        ("0.0.0.0", ["--auth=jwt"], False),
    ],
)
def test_who_listens_to_everybody_is_warned(
    host: str, options: list[str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        warn_if_exposed(load_settings(options), [listener])
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert bool(lines) is warned
    assert all(f"everybody who reaches {host} may subscribe and publish" in it for it in lines)
    assert os.linesep not in "".join(lines)
