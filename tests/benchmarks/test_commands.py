"""A tiny round of each command, over every server; and what is said to wrong arguments."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.peers import BACKENDS, DEFLATING, EMBEDDED, IDLE_ONLY, PEERS, WORKERS

from ..support.command import clean_environment

_ROOT = Path(__file__).parent.parent.parent
_PNG = b"\x89PNG\r\n\x1a\n"
_TINY = {
    "idle": ["--connections", "20", "--interval", "0.3"],
    "embed": ["--connections", "20", "--interval", "0.3"],
    "scale": ["--sizes", "20,40", "--interval", "0.3", "--hold", "50", "--hold-interval", "0.3"],
    "fanout": ["--connections", "10", "--messages", "8"],
    "deflate": ["--connections", "10", "--messages", "4", "--interval", "0.3"],
    "detect": ["--connections", "4", "--interval", "0.5"],
    "echo": ["--connections", "4", "--seconds", "0.2"],
    "workers": ["--connections", "60", "--messages", "50", "--seconds", "0.2"],
    "backends": ["--connections", "8", "--channels", "8", "--messages", "40", "--seconds", "0.1"],
}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=clean_environment(),
        cwd=_ROOT,
        check=False,
    )


@pytest.mark.real
@pytest.mark.benchmark
@pytest.mark.parametrize("command", [name for name in _TINY if name not in ("backends", "workers")])
def test_a_tiny_round_measures_every_server(command: str, tmp_path: Path) -> None:
    told, picture = tmp_path / "run.json", tmp_path / "run.png"
    more = ["--per-process", "25"] if command == "scale" else []
    files = ["--json", str(told), "--plot", str(picture)]
    done = _run(command, "--quick", *_TINY[command], *more, *files)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    assert "failed" not in done.stdout
    (report,) = json.loads(told.read_text())["reports"]
    others = {"idle": set(PEERS), "embed": set(EMBEDDED), "deflate": set(DEFLATING)}
    expected = others.get(command, set(PEERS) - set(IDLE_ONLY))
    for figure, by_server in report["figures"].items():
        assert expected <= set(by_server), figure
        value = by_server["trio_beat"][0]
        if figure.startswith("cut") and value is None:
            assert "no network is cut" in done.stdout
        else:
            assert value is not None, figure
    assert picture.read_bytes().startswith(_PNG)
    if command == "scale":
        (held,) = report["tables"]
        assert held["rows"][0][:3] == [50, 0, 2]
    if command == "detect":
        figures = report["figures"]
        assert figures["killed"]["trio_beat"] == [0]
        assert figures["silent_missed"]["trio_beat"] == [0]
        # A server that checks no answer never knows.
        assert figures["silent_missed"]["hypercorn"] == [4]
        # A server that waits for a PONG behind data drops live peers.
        assert figures["killed_slow"]["websockets"] == [1]
        assert figures["killed_large"]["websockets"] == [1]
    if command == "fanout":
        for kind in ("small", "large", "slow"):
            assert report["figures"][f"{kind}_lost"]["trio_beat"] == [0]


@pytest.mark.real
@pytest.mark.benchmark
def test_a_tiny_round_measures_workers_and_holds_connections(tmp_path: Path) -> None:
    told, picture = tmp_path / "run.json", tmp_path / "run.png"
    hold = ["--hold", "90", "--hold-interval", "1", "--per-process", "30"]
    files = ["--json", str(told), "--plot", str(picture)]
    done = _run("workers", "--quick", *_TINY["workers"], *hold, *files)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "failed" not in done.stdout
    (report,) = json.loads(told.read_text())["reports"]
    for figure, by_server in report["figures"].items():
        assert set(by_server) == set(WORKERS), figure
        assert by_server["two_workers"][0] > 0, figure
        assert (by_server["one_worker"][0] is None) == (figure in ("largest", "more")), figure
    (held,) = report["tables"]
    rows = dict(held["rows"])
    assert (rows["open"], rows["live ones lost"], rows["not noticed"]) == ("90", "0", "0")
    assert rows["workers that noticed one"] == "3 of 3"
    assert rows["live ones lost in the end"] == "0"
    assert picture.read_bytes().startswith(_PNG)


@pytest.mark.real
@pytest.mark.benchmark
def test_a_tiny_round_measures_every_backend(tmp_path: Path) -> None:
    told, picture = tmp_path / "run.json", tmp_path / "run.png"
    files = ["--json", str(told), "--plot", str(picture)]
    done = _run("backends", "--quick", *_TINY["backends"], *files)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    assert "failed" not in done.stdout
    (report,) = json.loads(told.read_text())["reports"]
    figures = report["figures"]
    for figure, by_way in figures.items():
        assert set(by_way) == set(BACKENDS), figure
        measured = {name for name, (value,) in by_way.items() if value is not None}
        if figure.startswith("publish"):
            assert measured == set(BACKENDS), figure
        else:
            # There is no broker to restart where there is only memory.
            assert measured == {"redis"} | ({"memory"} if figure != "again" else set()), figure
    for figure in ("paced_lost", "fanout_lost", "deaf"):
        assert figures[figure]["redis"] == figures[figure]["memory"] == [0]
    # Within the time that the broker was away it was tried for, and then once more.
    assert 0 < figures["again"]["redis"][0] < 10
    assert picture.read_bytes().startswith(_PNG)


@pytest.mark.real
@pytest.mark.benchmark
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "benchmarks", "detect", "--connections", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        cwd=_ROOT,
        process_group=0,
    )
    with process:
        children: list[psutil.Process] = []
        while len(children) < 4:
            assert process.poll() is None
            children = psutil.Process(process.pid).children()
            time.sleep(0.1)
        # As a terminal does it: to all that are in the foreground.
        os.killpg(process.pid, number)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert not any(child.is_running() for child in children)
    assert f"beat-{process.pid}-" not in _namespaces()


def _namespaces() -> str:
    if shutil.which("ip") is None:
        return ""
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def _run_with_limit(limit: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run with another limit of open files; `limit` is as in ulimit(1p)."""
    return subprocess.run(
        ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        cwd=_ROOT,
        check=False,
    )


@pytest.mark.real
def test_a_soft_limit_of_files_is_raised() -> None:
    few = ["--connections", "80", "--seconds", "0.2", "--rounds", "1", "--peers", "websockets"]
    done = _run_with_limit("-Sn 60", "benchmarks", "echo", *few)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout


@pytest.mark.real
def test_more_connections_than_files_are_refused() -> None:
    done = _run_with_limit("-n 1000", "benchmarks", "idle", "--connections", "400")
    assert done.returncode == 2
    assert "400 connections to one server, and 400 before, are too many" in done.stderr
    assert "744" in done.stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["guess"], "invalid choice: 'guess'"),
        (["idle", "--connections", "few"], "'few' is not a number of 4 or more"),
        (["idle", "--interval", "0"], "'0' is not a number of 0.1 or more"),
        (["idle", "--sizes", "20,40"], "unrecognized arguments"),
        (["scale", "--sizes", "40,20"], "ascending numbers, 20 or more"),
        (["echo", "--peers", "gopher"], "'gopher' is not one of trio_beat, "),
        (["backends", "--peers", "websockets"], "'websockets' is not one of memory, redis, "),
        (["embed", "--peers", "picows"], "'picows' is not one of trio_beat, trio_beat_unix, "),
        (["workers", "--peers", "redis"], "'redis' is not one of one_worker, two_workers"),
        (["backends", "--channels", "0"], "'0' is not a number of 1 or more"),
        (["echo", "--seconds", "inf"], "'inf' is not a number of 0.1 or more"),
        (["echo", "--json", "/tmp"], "--json: /tmp is a directory"),
        (["echo", "--json", "/nowhere/a"], "--json: no file can be written in /nowhere"),
        (["echo", "--plot", "a.gif"], "'a.gif' does not end with .png"),
        (["all", "--results", "--quick"], "--results: only of a full run"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert re.search(r"Traceback", done.stderr) is None
