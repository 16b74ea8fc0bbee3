"""What the pages about identity and channels show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import clean_environment, command, run_command
from tests.support.documents import document, examples, program
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, status
from tests.support.tokens import p256_key, public_pem, token

pytestmark = pytest.mark.real


async def test_a_handler_greets_a_user(tmp_path: Path) -> None:
    key, file = p256_key(), tmp_path / "key.pem"
    file.write_bytes(public_pem(key))
    text = examples("identity", "python")[0]
    async with program(text, KEY_FILE=str(file)) as running:
        target = await running.target()
        made = token(key, "ES256", iss="https://example.org", aud="beats")
        for headers, name in (
            (f"Sec-WebSocket-Protocol: bearer, {made}\r\n", "bob"),
            ("", "visitor"),
        ):
            peer = await dial(*target, headers=headers)
            assert await peer.text() == f"hello, {name}"
            await peer.aclose()


async def test_tokens_are_tried(tmp_path: Path) -> None:
    start, client = examples("identity", "sh")
    secret, line = start.splitlines()
    subprocess.run(secret, shell=True, check=True, cwd=tmp_path, timeout=20)
    options = line.split()[3:]
    assert options[-2:] == ["--jwt-key", "secret"]
    with command(tmp_path, *options[:-1], str(tmp_path / "secret")) as running:
        # What listens goes on until it is interrupted.
        program = client.replace("127.0.0.1:8000", f"127.0.0.1:{running.port}")
        program = program.replace(
            "python -m trio_beat listen", "exec python -u -m trio_beat listen"
        )
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        listening = subprocess.Popen(
            program,
            shell=True,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(PATH=path),
        )
        try:
            assert listening.stdout is not None
            assert listening.stdout.readline() == "hello, bob\n"
        finally:
            listening.terminate()
            listening.wait(20)
            assert listening.stdout is not None
            listening.stdout.close()
        assert running.end() == 0


async def test_an_application_decides() -> None:
    async with program(examples("channels", "python")[0]) as running:
        port, target = await running.target()
        for headers in ("X-User: eve\r\n", ""):
            request = HANDSHAKE.format(target=target, headers=headers)
            assert status(await ask(port, request.encode())) == 403
        for user in ("bob", "alice"):
            peer = await dial(port, target, headers=f"X-User: {user}\r\n")
            await peer.aclose()
        peer = await dial(port, target.replace("staff-room", "news"))
        await peer.aclose()


def test_every_option_of_tokens_is_explained() -> None:
    options = set(re.findall(r"--jwt-[a-z-]+", run_command("--help").stdout))
    assert len(options) > 5
    for option in options:
        assert option in document("identity")
