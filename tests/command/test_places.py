"""The options that say where the server listens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.settings import load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TRIO_BEAT_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("options", "given", "port"),
    [
        ([], False, True),
        ([], True, False),
        (["--uds=x"], False, False),
        (["--uds=x", "--port=8000"], False, True),
        (["--uds=x", "--host=127.0.0.1"], True, True),
        (["--port=0"], True, True),
        (["--host="], True, True),
    ],
)
def test_there_is_a_port_where_nothing_else_is_or_it_is_asked_for(
    options: list[str], given: bool, port: bool
) -> None:
    assert load_settings(options).listens_on_port(given=given) is port


def test_a_port_is_asked_for_by_the_environment_and_by_a_file_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "beat.toml"
    file.write_text("port = 8000\nuds = '/x'\nuds-mode = '0600'\nfd = [3, 4]\n")
    settings = load_settings([f"--config={file}"])
    assert settings.listens_on_port(given=False)
    assert (settings.uds, settings.mode, settings.fd) == ("/x", 0o600, [3, 4])
    monkeypatch.setenv("TRIO_BEAT_HOST", "::1")
    assert load_settings(["--uds=x"]).listens_on_port(given=False)


def test_a_mode_is_octal() -> None:
    assert load_settings(["--uds=x"]).mode == 0o660
    for text in ("0600", "600", "0o600"):
        assert load_settings(["--uds=x", f"--uds-mode={text}"]).mode == 0o600


def test_descriptors_are_given_by_several_flags_or_with_commas() -> None:
    assert load_settings(["--fd=3"]).fd == [3]
    assert load_settings(["--fd=3, 4", "--fd", "5"]).fd == [3, 4, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--uds="], "--uds: '' string should have at least 1 character"),
        (["--uds=@x"], "--uds: '@x' is the name of an abstract socket, which has no mode"),
        (["--uds=a\0b"], r"--uds: 'a\\x00b' has a NUL"),
        (["--uds-mode=0600"], "--uds-mode: '0600' is of no use without --uds"),
        (["--uds=x", "--uds-mode=rw"], "--uds-mode: 'rw' should be a mode in octal, as text"),
        (["--uds=x", "--uds-mode=0888"], "--uds-mode: '0888' should be a mode in octal"),
        (["--uds=x", "--uds-mode=1777"], "--uds-mode: '1777' should be a mode in octal"),
        (["--fd=x"], "--fd: 'x' should be a valid integer"),
        (["--fd=-1"], "--fd: '-1' should be greater than or equal to 0"),
        (["--fd=3,,4"], "--fd: '' should be a valid integer"),
    ],
)
def test_misuse_is_told(options: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_settings(options)
    assert "\n" not in str(caught.value)


def test_a_number_in_a_file_is_no_mode(tmp_path: Path) -> None:
    # 440 is 0o670.
    file = tmp_path / "beat.toml"
    file.write_text("uds = 'x'\nuds-mode = 440\n")
    with pytest.raises(ConfigurationError, match=r"--uds-mode: '440' should be .* octal, as text"):
        load_settings([f"--config={file}"])
