"""The tokens of the API: their file, and the command that reads it again."""

from __future__ import annotations

import hashlib
import logging
import re
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.command import Command, command, run_command
from tests.support.workers import until
from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.settings import load_settings
from trio_beat._command.tokens import APITokens, parse_tokens

ONE = "the-first-of-these-tokens"
TWO = "the-second-of-these-tokens"


def test_a_table_is_a_token() -> None:
    hashed = hashlib.sha256(TWO.encode()).hexdigest()
    text = f"""
    [shop]
    token = "{ONE}"
    publish = ["broadcast:*", "user:*:orders"]

    [accounts-1_x]
    sha256 = "{hashed}"
    disconnect = true
    """
    shop, accounts = parse_tokens(text)
    assert (shop.name, shop.disconnect) == ("shop", False)
    assert shop.publish == ("broadcast:*", "user:*:orders")
    assert shop.digest == hashlib.sha256(ONE.encode()).digest()
    assert (accounts.name, accounts.publish, accounts.disconnect) == ("accounts-1_x", None, True)
    assert accounts.digest.hex() == hashed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file has no token"),
        ("s3cret", "the file is not TOML (at end of document)"),
        ("s3cret\ns3cret", "the file is not TOML (at line 1, column 7)"),
        ("[s3cret]\n[s3cret]", "the file is not TOML (at line 2, column 8)"),
        ("s3cret = 's3cret'", 'token 1 is no table; write [NAME], and token = "..." below it'),
        ("[a]\ntoken = 's3cret'", "token 1 has 6 characters; it must have 16 or more"),
        (
            f"[a]\ntoken = '{ONE}'\n[b]\ntoken = 's3cret\u00fc'",
            "token 2 has characters that no header may have (RFC 6750, section 2.1)",
        ),
        ("[s3cret]", "token 1 needs exactly one of token and sha256"),
        (f"[a]\ntoken='{ONE}'\nsha256='{'0' * 64}'", "needs exactly one of token and sha256"),
        ("[a]\ntoken = 5", "token 1 has a token that is no text"),
        ("[a]\nsha256 = 's3cret'", "token 1 has a sha256 that is not 64 hexadecimal digits"),
        (f"[a]\ntoken='{ONE}'\ns3cret=1", "has an unknown member; there are token, sha256, publi"),
        (f"[a]\ntoken='{ONE}'\npublish='*'", "has a publish that is no list of patterns"),
        (f"[a]\ntoken='{ONE}'\npublish=[1]", "has a publish that is no list of patterns"),
        (f"[a]\ntoken='{ONE}'\npublish=['']", "has a publish that is no list of patterns"),
        (f"[a]\ntoken='{ONE}'\ndisconnect=1", "has a disconnect that is neither true nor false"),
        (f"['s3 cret']\ntoken='{ONE}'", "token 1 has another name than 1 to 64 letters"),
        (f"[publish-token]\ntoken='{ONE}'", "the name 'publish-token', which is that of --publish"),
        (
            "".join(f"[a{number}]\ntoken='{ONE}-{number}'\n" for number in range(1001)),
            "the file has 1,001 tokens; there may be 1,000 at most",
        ),
    ],
)
def test_what_is_wrong_is_told_and_not_quoted(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        parse_tokens(text)
    assert "s3" not in str(caught.value)
    assert ONE not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def loaded(path: Path, *options: str) -> APITokens:
    return APITokens(load_settings([f"--api-tokens={path}", *options]))


def test_there_is_no_api_unless_an_option_says_so() -> None:
    tokens = APITokens(load_settings([]))
    assert tokens.tokens is None
    assert not tokens.renew()


def test_the_one_that_is_given_by_itself_is_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f"[shop]\ntoken = '{ONE}'\ndisconnect = true\n")
    tokens = loaded(path, f"--publish-token={TWO}").tokens
    assert tokens is not None
    alone, shop = tokens.find(TWO.encode()), tokens.find(ONE.encode())
    assert alone is not None
    assert shop is not None
    assert (alone.name, alone.publish, alone.disconnect) == ("publish-token", None, False)
    assert (shop.name, shop.publish, shop.disconnect) == ("shop", None, True)
    with pytest.raises(ConfigurationError, match="two tokens are the same"):
        loaded(path, f"--publish-token={ONE}")
    # By itself it may be as short as it was.
    tokens = APITokens(load_settings(["--publish-token=s3cret"])).tokens
    assert tokens is not None
    assert tokens.find(b"s3cret") is not None


def test_a_bad_file_leaves_those_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "tokens.toml"
    path.write_text(f"[shop]\ntoken = '{ONE}'\n")
    tokens = loaded(path)
    assert tokens.tokens is not None
    for wrong in (b"", b"\xff", b"[shop]\ntoken = 's3cret'", b"#" * (2**20 + 1)):
        path.write_bytes(wrong)
        assert not tokens.renew()
        assert tokens.tokens.find(ONE.encode()) is not None
    path.unlink()
    assert not tokens.renew()
    lines = [record.getMessage() for record in caplog.records]
    begin = "SIGHUP: the tokens in use stay: --api-tokens: "
    assert lines == [
        begin + "the file has no token",
        begin + "the file is not UTF-8",
        begin + "token 1 has 6 characters; it must have 16 or more",
        begin + "the file has more than 1,048,576 bytes",
        begin + f"cannot read {path}: No such file or directory",
    ]
    path.write_text(f"[shop]\ntoken = '{TWO}'\n")
    assert tokens.renew()
    assert tokens.tokens.find(ONE.encode()) is None
    assert tokens.tokens.find(TWO.encode()) is not None


def test_rates_are_for_tokens() -> None:
    with pytest.raises(ConfigurationError, match="--api-rate: is of no use without --api-tokens"):
        APITokens(load_settings(["--api-rate=5"]))


async def _told(running: Command, text: str) -> None:
    """Wait until a line of the log has this text, once more than before."""
    before = running.log().count(text)
    running.process.send_signal(signal.SIGHUP)
    await until(lambda: running.log().count(text) > before or None)


@pytest.mark.real
@pytest.mark.slow
async def test_sighup_reads_the_tokens_again(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    done = run_command(f"--api-tokens={path}")
    expected = f"trio-beat: --api-tokens: cannot read {path}: No such file or directory\n"
    assert (done.returncode, done.stderr) == (2, expected)
    path.write_text(f"[shop]\ntoken = '{ONE}'\npublish = ['user:*:*']\ndisconnect = true\n")
    options = [f"--api-tokens={path}", "--log-level=debug", "--api-rate=0", "--api-byte-rate=0"]
    with command(tmp_path, *options) as running:
        async with httpx.AsyncClient(base_url=running.page) as client:

            async def status(token: str, target: str) -> int:
                headers = {"Authorization": f"Bearer {token}"}
                response = await client.post(f"api/{target}", content="x", headers=headers)
                return response.status_code

            assert await status(ONE, "publish/news?user=bob") == 204
            assert await status(ONE, "publish/news") == 403
            assert await status(TWO, "publish/news") == 401
            path.write_text(f"[shop]\ntoken = '{TWO}'\n")
            await _told(running, "INFO    SIGHUP: read the file of --api-tokens again")
            assert await status(ONE, "publish/news?user=bob") == 401
            assert await status(TWO, "publish/news") == 204
            path.write_text("token")
            await _told(running, "ERROR   SIGHUP: the tokens in use stay: --api-tokens: the file")
            assert await status(TWO, "publish/news?broadcast&user=bob") == 204
            assert running.health()["api"] == {"204": 3, "403": 1, "401": 2}
        assert running.end() == 0
        log = running.log()
    assert "DEBUG   shop published 1 bytes at 'news' to broadcast:1 user:1\n" in log
    assert ONE not in log
    assert TWO not in log
    assert "bob" not in log
