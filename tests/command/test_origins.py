"""Which pages may connect, as the options of the command say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import command, run_command
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, status
from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.origins import check_origins
from trio_beat._command.settings import load_settings

_JWT = ("--auth=jwt", "--jwt-key=key.pem", "--jwt-cookie=token")
_HOOK = "--auth=https://127.0.0.1:9000/hook"


@pytest.mark.parametrize("anybody", ["*", "null", "NULL", "file://", "https://a.example,null"])
@pytest.mark.parametrize("options", [_JWT, (_HOOK,)], ids=["jwt", "hook"])
def test_a_cookie_is_no_identity_for_the_pages_of_everybody(
    options: tuple[str, ...], anybody: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"^--allowed-origin: ") as caught:
        check_origins(load_settings([*options, f"--allowed-origin={anybody}"]))
    message = str(caught.value)
    assert anybody.rpartition(",")[2] in message
    assert ("--jwt-cookie" in message) is (options == _JWT)
    assert ("--auth http://HOST/PATH" in message) is (options != _JWT)
    assert "\n" not in message


@pytest.mark.parametrize(
    "options",
    [
        (),
        (*_JWT, "--allowed-origin=*.example.com"),
        (_HOOK, "--allowed-origin=https://example.com"),
        ("--allowed-origin=*",),
        ("--auth=jwt", "--jwt-key=key.pem", "--allowed-origin=*"),
        ("--auth=jwt", "--jwt-key=key.pem", "--jwt-query=token", "--allowed-origin=null"),
        ("--auth=application:admit", "--allowed-origin=*"),  # it may look at Origin itself
    ],
)
def test_everything_else_is_possible(options: tuple[str, ...]) -> None:
    check_origins(load_settings(options))


def test_several_may_be_given() -> None:
    options = ["--allowed-origin=https://a.example, b.example", "--allowed-origin=*.c.example:8443"]
    expected = ["https://a.example", "b.example", "*.c.example:8443"]
    assert load_settings(options).allowed_origin == expected


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="--allowed-origin") as caught:
        load_settings(["--allowed-origin=https://bob:s3cret@a.example"])
    assert "s3cret" not in str(caught.value)
    assert "should be SCHEME://HOST" in str(caught.value)


@pytest.mark.real
async def test_the_command_checks(tmp_path: Path) -> None:
    done = run_command("--allowed-origin=null", _HOOK)
    assert done.returncode == 2
    text = "null lets any page connect as its visitor with --auth http://HOST/PATH, which passes"
    assert done.stderr == f"trio-beat: --allowed-origin: {text} cookies on\n"
    with command(tmp_path, "--allowed-origin=https://a.example", port=0) as running:
        header = "Origin: https://evil.example\r\n"
        request = HANDSHAKE.format(target="/ws/news?subscribe-broadcast", headers=header)
        answer = await ask(running.port, request.encode())
        assert status(answer) == 403
        said = "Origin https://evil.example is not allowed: Host is localhost; "
        said += "--allowed-origin https://evil.example allows it"
        assert said in answer.decode()
        assert said in running.log()
        peer = await dial(running.port, headers="Origin: https://a.example\r\n")
        await peer.aclose()
        assert running.health()["refused"] == {"403": 1}
