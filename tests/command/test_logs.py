"""What the command writes to standard error, and what Python would have written there."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from ..support.command import clean_environment

_PROGRAM = """
import logging, warnings
from trio_beat._command.logs import set_up_logging
set_up_logging("info", "{}", {})

class Broken:
    def __del__(self):
        raise KeyError("a\\r2026 forged")

Broken()
warnings.warn("careful")
logging.getLogger("another").error("a\\r2026 forged %s", "\\x1b[2J\\x7f")
raise ValueError("at last\\n2026 forged")
"""


def run(style: str, worker: int | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(style, worker)],
        capture_output=True,
        check=False,
        env=clean_environment(),
        timeout=20,
    )
    assert done.returncode == 1
    assert b"\r" not in done.stderr
    return done.stderr.decode().splitlines()


@pytest.mark.real
def test_what_python_would_print_is_logged_and_escaped() -> None:
    lines = run("text")
    records = [line for line in lines if not line.startswith("    ")]
    assert [line.split()[2] for line in records] == ["ERROR", "WARNING", "ERROR", "CRITICAL"]
    assert "__del__" in records[0]
    assert "UserWarning: careful" in records[1]
    assert records[2].endswith(r"a\r2026 forged \x1b[2J\x7f")
    assert records[3].endswith("this ends the command: ValueError")
    assert all(line.isprintable() for line in lines)


@pytest.mark.real
def test_as_objects() -> None:
    records = [json.loads(line) for line in run("json")]
    assert [record["level"] for record in records] == ["ERROR", "WARNING", "ERROR", "CRITICAL"]
    assert "2026 forged" in records[3]["exc_info"]
    assert records[2]["logger"] == "another"


def test_each_line_has_the_number_of_its_worker() -> None:
    lines = [line for line in run("text", 3) if line.startswith("20")]
    assert len(lines) == 4
    assert all(re.match(r"\S+ \S+ [A-Z]+ +worker 3: ", line) for line in lines)
    assert {json.loads(line)["worker"] for line in run("json", 3)} == {3}
    assert not any("worker" in json.loads(line) for line in run("json"))
