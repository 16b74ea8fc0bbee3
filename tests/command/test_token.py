"""Tokens that the command makes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest

from tests.support.command import clean_environment, command, run_command
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, status
from tests.support.tokens import (
    SECRET,
    ed25519_key,
    jwk,
    jwks,
    p256_key,
    private_pem,
    public_pem,
    rsa_key,
)
from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.main import main
from trio_beat._command.token import token


def made(capfd: pytest.CaptureFixture[str], *options: str) -> str:
    capfd.readouterr()
    assert main(["token", *options]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert printed.out.count("\n") == 1
    return printed.out.rstrip("\n")


def test_it_says_what_was_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    options = ["--key", str(file), "--user=bj\u00f6rn"]
    text = made(capfd, *options)
    claims = pyjwt.decode(text, SECRET, ["HS256"])
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 60
    assert set(claims) == {"sub", "iat", "exp"}
    assert claims["sub"] == "bj\u00f6rn"
    assert pyjwt.get_unverified_header(text) == {"typ": "JWT", "alg": "HS256"}
    options += ["--group=staff", "--group=ops", "--session=k3y", "--issuer=us", "--audience=app"]
    options += ["--subscribe=broadcast:*", "--publish=user:*:news", "--expire=7d", "--key-id=one"]
    text = made(capfd, *options)
    claims = pyjwt.decode(text, SECRET, ["HS256"], audience="app", issuer="us")
    assert claims.pop("exp") - claims.pop("iat") == 7 * 86400
    assert claims == {
        "sub": "bj\u00f6rn",
        "groups": ["staff", "ops"],
        "sid": "k3y",
        "iss": "us",
        "aud": "app",
        "subscribe": ["broadcast:*"],
        "publish": ["user:*:news"],
    }
    assert pyjwt.get_unverified_header(text)["kid"] == "one"


@pytest.mark.parametrize(
    ("key", "algorithm"), [(rsa_key(), "RS256"), (p256_key(), "ES256"), (ed25519_key(), "EdDSA")]
)
def test_a_private_key_signs(
    key: Any, algorithm: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    for data in (private_pem(key), json.dumps(jwk(key, kid="k")).encode()):
        file.write_bytes(data)
        text = made(capfd, f"--key={file}", "--user=bob")
        assert pyjwt.decode(text, public_pem(key), [algorithm])["sub"] == "bob"
        kid = pyjwt.get_unverified_header(text).get("kid")
        assert kid == ("k" if data.startswith(b"{") else None)


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (SECRET, ["--user="], "--user: is empty"),
        (SECRET, ["--user=bob", "--group="], "--group: is empty"),
        (SECRET, ["--user=bob", "--expire=1y"], "--expire: '1y' should be like 30s, 15m, 1h or"),
        (SECRET, ["--user=bob", "--expire=0s"], "--expire: '0s' should be like"),
        (SECRET, [], "the following arguments are required: --user"),
        (SECRET, ["--user=bob", "s3cret"], "1 more than expected"),
        (b"short\n", ["--user=bob"], "a secret of 5 bytes; it must have 32 or more"),
        (public_pem(p256_key()), ["--user=bob"], "no private key: a token cannot be signed"),
        (jwks(), ["--user=bob"], "0 keys that can sign a token"),
    ],
)
def test_what_cannot_be_made_is_told(
    data: bytes, options: list[str], text: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        token([f"--key={file}", *options])
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="--key: cannot read /nowhere: No such file"):
        token(["--key=/nowhere", "--user=bob"])


@pytest.mark.real
async def test_the_server_lets_it_in(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    made = run_command("token", f"--key={file}", "--user=bob").stdout.strip()
    with command(tmp_path, "--auth=jwt", f"--jwt-key={file}") as running:
        target = "/ws/news?subscribe-user&publish-user&echo"
        headers = f"Sec-WebSocket-Protocol: bearer, {made}\r\n"
        peer = await dial(running.port, target, headers=headers)
        await peer.send_text("to myself")
        assert await peer.text() == "to myself"
        await peer.aclose()
        for headers in ("", "Authorization: Bearer x\r\n"):
            request = HANDSHAKE.format(target=target, headers=headers).encode()
            answer = await ask(running.port, request)
            assert status(answer) == 401
        assert made not in running.log()
        assert running.end() == 0


@pytest.mark.real
def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['joserfc'] = None; from trio_beat._command.main import main; "
    )
    for arguments, text in (
        (["token"], "making a token needs joserfc: pip install 'trio-beat[auth]' installs it"),
        (
            ["--auth=jwt", f"--jwt-key={tmp_path}"],
            "--auth jwt: JWT needs joserfc: pip install 'trio-beat[auth]' installs it",
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"{program}raise SystemExit(main({arguments!r}))"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=clean_environment(),
        )
        assert (done.returncode, done.stderr) == (2, f"trio-beat: {text}\n")
