"""Who may connect and publish, as the options say it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.checks import found, row
from trio_beat._command.checks.access import check_access
from trio_beat._command.checks.section import Section
from trio_beat._command.settings import load_settings


def checked(*options: str) -> Section:
    return check_access(load_settings(options))


def test_everybody_may_connect_by_default() -> None:
    section = checked()
    assert found(section) == []
    assert section.data == {
        "auth": None,
        "anonymous": True,
        "allow": ["subscribe-broadcast", "publish-broadcast"],
        "origins": [],
        "api": False,
    }
    assert row(section, "who") == "everybody, without a credential"
    assert row(section, "API") == "off: no token"


def test_keys_are_loaded(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret" * 10)
    section = checked("--auth=jwt", f"--jwt-key={key}", "--allow-anonymous", "--allow=")
    assert found(section) == []
    assert (section.data["auth"], section.data["anonymous"]) == ("jwt", True)
    assert str(key) in row(section, "who")
    assert row(section, "broadcast") == "nothing"
    key.write_text("short")
    section = checked("--auth=jwt", f"--jwt-key={key}")
    assert found(section) == [("error", "auth")]
    assert "short" not in str(section).replace("shorter", "")


def test_a_key_that_is_not_named_is_told() -> None:
    section = checked("--auth=jwt")
    assert found(section) == [("error", "auth")]
    assert row(section, "who") == "who has a token signed with the key in --jwt-key"


def test_an_application_is_told_without_secrets_and_not_asked() -> None:
    section = checked("--auth=http://user:s3cret@127.0.0.1:1/who?key=s3cret")
    assert section.data["auth"] == "http"
    assert "http://127.0.0.1:1/who" in row(section, "who")
    assert "s3cret" not in str(section)


def test_a_function_is_imported() -> None:
    assert found(checked("--auth=no_such_module:who")) == [("error", "auth")]
    section = checked("--auth=trio:sleep")
    assert (section.data["auth"], found(section)) == ("function", [])


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ((), ("warning", "origins")),
        (("--auth=trio:sleep",), ("warning", "origins")),
        (("--auth=http://127.0.0.1:1/",), ("error", "auth")),  # it may have cookies
    ],
)
@pytest.mark.parametrize("origin", ["*", "null", "FILE://"])
def test_pages_of_everybody(
    origin: str, options: tuple[str, ...], finding: tuple[str, str]
) -> None:
    assert found(checked(*options, f"--allowed-origin={origin}")) == [finding]


def test_a_page_of_another_origin() -> None:
    section = checked("--allowed-origin=https://example.com")
    assert row(section, "pages") == "its own, https://example.com"
    assert found(section) == []


def test_tokens_are_loaded(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[shop]\ntoken = "a-long-and-random-text"\n')
    tokens.chmod(0o600)
    section = checked(f"--api-tokens={tokens}", "--publish-token=another-random-text")
    assert found(section) == []
    assert row(section, "API") == f"with the tokens of --publish-token and the file {tokens}"
    assert "random" not in str(section)
    tokens.write_text('[shop]\ntoken = "a-long-and-random-text"\nno = 1\n')
    section = checked(f"--api-tokens={tokens}")
    assert found(section) == [("error", "tokens")]
    assert "random" not in str(section)


class TestFiles:
    """A secret should be its owner's."""

    @pytest.mark.parametrize("options", [("--tls-cert={}",), ("--tls-cert=x", "--tls-key={}")])
    def test_a_private_key(self, options: tuple[str, ...], tmp_path: Path) -> None:
        key = tmp_path / "key.pem"
        key.write_text("")
        for mode, findings in ((0o640, []), (0o644, [("warning", "files")])):
            key.chmod(mode)
            assert found(checked(*(option.format(key) for option in options))) == findings

    def test_tokens(self, tmp_path: Path) -> None:
        tokens = tmp_path / "tokens.toml"
        for text, findings in (
            (f'sha256 = "{"0" * 64}"', []),
            ('token = "a-long-and-random-text"', [("warning", "files")]),
        ):
            tokens.write_text(f"[shop]\n{text}\n")
            tokens.chmod(0o644)
            assert found(checked(f"--api-tokens={tokens}")) == findings

    @pytest.mark.parametrize(
        ("line", "findings"),
        [
            ("backend = 'redis://127.0.0.1/0'", []),
            ("backend = 'redis://:s3cret@127.0.0.1/0'", [("warning", "files")]),
            ("publish-token = 'a-long-and-random-text'", [("warning", "files")]),
        ],
    )
    def test_options(self, line: str, findings: list[tuple[str, str]], tmp_path: Path) -> None:
        config = tmp_path / "beat.toml"
        config.write_text(f"port = 0\n{line}\n")
        config.chmod(0o644)
        section = checked(f"--config={config}")
        assert found(section) == findings
        assert "s3cret" not in str(section)
        config.chmod(0o640)
        assert found(checked(f"--config={config}")) == []

    def test_one_that_is_not_there(self) -> None:
        assert found(checked("--tls-cert=/nowhere/x.pem")) == []  # that of the certificate tells

    def test_modes_say_nothing_on_windows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = tmp_path / "key.pem"
        key.write_text("")
        key.chmod(0o644)
        monkeypatch.setattr(sys, "platform", "win32")
        assert found(checked(f"--tls-cert={key}")) == []
