"""``python -m trio_beat check``: what it prints, its exit codes, and what it is told."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.certificates import ServerFiles
from tests.support.command import clean_environment, run_command
from tests.support.documents import document
from tests.support.terminal import run_in_terminal
from trio_beat._command.check import _wrapped
from trio_beat._command.checks.beats import PROXIES

LABELS = ("heartbeat", "proxy", "listening", "certificate", "access", "backend", "capacity")


def checked(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_command("check", "--port=0", *options, **variables)


def as_data(*options: str, **variables: str) -> dict[str, Any]:
    ran = checked("--json", *options, **variables)
    data: dict[str, Any] = json.loads(ran.stdout)
    assert (ran.returncode, ran.stderr) == (data["exit_code"], "")
    return data


@given(st.text(max_size=200))
def test_lines_are_short_and_lose_nothing(text: str) -> None:
    words = " ".join(f"{part[:30]}" for part in text.split())
    lines = _wrapped("  label", f"x {words}", 80)
    assert lines[0].startswith("  label" + " " * 13)
    assert all(line[:20] == " " * 20 for line in lines[1:])


@pytest.mark.real
class TestText:
    def test_each_section_and_a_verdict(self) -> None:
        ran = checked()
        assert (ran.returncode, ran.stderr) == (0, "")
        lines = ran.stdout.splitlines()
        assert tuple(line for line in lines if re.fullmatch("[a-z]+", line)) == LABELS
        assert lines[-1] == "all is well"
        assert max(map(len, lines)) <= 80
        # Labels stand in one column, and what is so in another.
        assert all(line[:2] == "  " and line[18:20] == "  " for line in lines if line[:1] == " ")

    def test_findings_stand_at_the_end(self) -> None:
        ran = checked("--behind=nginx", "--interval=60", "--host=0.0.0.0", "--log-level=debug")
        assert (ran.returncode, ran.stderr) == (2, "")
        begins = [line.split() for line in ran.stdout.splitlines() if not line.startswith(" ")]
        found = [words[:2] for words in begins if words and words[0] in ("error", "warning")]
        assert found == [
            ["error", "proxy:"],
            ["warning", "forwarding:"],
            ["warning", "exposure:"],
        ]
        assert begins[-1] == ["1", "error", "and", "2", "warnings"]

    def test_as_wide_as_the_terminal(self) -> None:
        options = ["check", "--port=0", "--tls-cert=/nowhere/cert.pem"]
        for columns, most in ((60, 60), (300, 100), (10, 60)):
            lines = run_in_terminal(columns, *options).splitlines()
            assert most - 20 < max(map(len, lines)) <= most

    def test_what_comes_from_outside_controls_no_terminal(self) -> None:
        ran = checked("--tls-cert=\x1b[31m.pem")
        assert ran.returncode == 2
        assert "\x1b" not in ran.stdout


@pytest.mark.real
class TestData:
    def test_keys_are_those_of_the_documentation(self, tmp_path: Path) -> None:
        files = ServerFiles(tmp_path)
        data = as_data(*files.options)
        keys = {key for section in LABELS for key in (section, *data[section])}
        for key in {"version", "exit_code", "findings", *keys}:
            assert f"``{key}``" in document("check"), key
        assert set(data) == {"version", "exit_code", "findings", *LABELS}

    def test_findings_have_a_level_and_what_they_are_about(self) -> None:
        data = as_data("--host=0.0.0.0", "--allow=")
        assert data["exit_code"] == 1
        [finding] = data["findings"]
        assert set(finding) == {"level", "what", "text"}
        assert (finding["level"], finding["what"]) == ("warning", "tls")


@pytest.mark.real
class TestOptions:
    def test_come_from_the_places_of_the_server(self, tmp_path: Path) -> None:
        file = tmp_path / "beat.toml"
        file.write_text("misses = 5\n")
        data = as_data(
            "--behind=haproxy", "--idle-timeout", "3600", TRIO_BEAT_INTERVAL="7",
            TRIO_BEAT_CONFIG=str(file),
        )  # fmt: skip
        assert (data["heartbeat"]["interval"], data["heartbeat"]["misses"]) == (7, 5)
        assert data["proxy"] == {"behind": "haproxy", "idle_timeout": 3600, "interval": 7}

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("--behind=squid", "invalid choice: 'squid'"),
            ("--idle-timeout=soon", "'soon' should be a number of seconds, more than 0"),
            ("--idle-timeout=0", "'0' should be a number of seconds, more than 0"),
            ("--interval=0", "--interval: '0' should be greater"),
            ("--nonsense=s3cret", "unrecognized arguments: --nonsense"),
        ],
    )
    def test_misuse_is_one_line(self, option: str, words: str) -> None:
        ran = checked(option)
        assert (ran.returncode, ran.stdout) == (2, "")
        [line] = ran.stderr.splitlines()
        assert line.startswith("trio-beat: ")
        assert words in line
        assert "s3cret" not in line

    def test_those_of_the_check_are_no_options_of_the_server(self) -> None:
        assert checked(TRIO_BEAT_BEHIND="nginx").returncode == 2
        assert run_command("--behind=nginx").returncode == 2

    def test_secrets_are_not_shown(self) -> None:
        ran = checked(
            "--publish-token=s3cret-of-the-api", "--backend=redis://:s3cret@127.0.0.1:1/0",
            "--auth=http://user:s3cret@127.0.0.1:1/?s3cret", "--json",
        )  # fmt: skip
        assert ran.returncode == 2
        assert "s3cret" not in ran.stdout + ran.stderr


@pytest.mark.real
def test_an_interrupt_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(60)
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0?timeout=60"
        with subprocess.Popen(
            [sys.executable, "-m", "trio_beat", "check", "--port=0", f"--backend={url}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        ) as process:
            accepted, _ = deaf.accept()
            with accepted:
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=60) == ("", "trio-beat: interrupted\n")
        assert process.returncode == 2


def test_the_documentation_has_each_proxy() -> None:
    for key, proxy in PROXIES.items():
        assert re.search(rf"^``{key}`` +{proxy.idle:g} s +\S", document("check"), re.MULTILINE), key


def test_the_documentation_has_each_finding() -> None:
    """What findings are about, as they stand in the code."""
    package = Path(__file__).parent.parent.parent / "trio_beat" / "_command" / "checks"
    text = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    about = set(re.findall(r"section\.(?:note|warn|fail)\(\s*\"(\w+)\"", text))
    listed = re.findall(
        r"^``(\w+)`` ", document("check").partition("What is found")[2], re.MULTILINE
    )
    assert set(listed) == about
