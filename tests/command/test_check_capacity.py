"""What so many connections take, and whether it is there."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

from tests.support.checks import found, row
from tests.support.documents import ROOT, document
from trio_beat._command.checks import capacity
from trio_beat._command.checks.capacity import check_capacity
from trio_beat._command.settings import load_settings

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with 8 GiB, and 100,000 file descriptors for a process."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 100_000))
    monkeypatch.setattr(capacity, "available_memory", lambda: 8 * GIB)


def test_figures_are_those_of_the_documents() -> None:
    results = (ROOT / "benchmarks" / "RESULTS.rst").read_text(encoding="utf-8")
    [idle] = [
        line for line in results.splitlines() if line.startswith("trio_beat ") and "±" in line
    ][:1]
    columns = idle.split()
    assert float(columns[1]) == capacity.PLAIN
    assert float(columns[5]) == capacity.KERNEL
    [since] = [
        line.split()
        for line in document("operating").partition("KiB over TLS")[2].splitlines()
        if line.startswith("trio_beat ")
    ]
    assert [float(text) for text in since[2:5]] == [capacity.BEAT, capacity.TLS, capacity.BEAT_TLS]
    assert f"costs some {capacity.WORKER:g} MiB" in document("operating")


def test_all_that_a_server_may_have_open_is_counted() -> None:
    section = check_capacity(load_settings(["--max-connections=1000", "--max-pending=10"]))
    assert section.data["descriptors"] == {"needed": 1084, "soft": 1024, "hard": 100_000}
    expected = (
        "1,084 needed by a process, 100,000 allowed; the server raises its own limit from 1,024"
    )
    assert row(section, "descriptors") == expected
    options = ["--max-connections=1000", "--max-pending=10", "--internal-bind=127.0.0.1:8001"]
    section = check_capacity(load_settings(options))
    assert section.data["descriptors"]["needed"] == 1104
    assert found(section) == []


def test_too_few_descriptors_are_told_with_what_fits() -> None:
    section = check_capacity(load_settings(["--max-connections=99990", "--max-pending=50"]))
    assert found(section) == [("warning", "descriptors")]
    [finding] = section.findings
    assert "100,154 file descriptors are needed, and 100,000 allowed" in finding.text
    assert "99,836 connections fit" in finding.text


def test_a_system_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (infinite, infinite))
    section = check_capacity(load_settings([]))
    assert section.data["descriptors"]["hard"] is None
    assert row(section, "descriptors") == "12,112 needed by a process, any number allowed"
    monkeypatch.setattr(sys, "platform", "win32")
    assert "limits none" in row(check_capacity(load_settings([])), "descriptors")


def test_more_than_the_system_has_for_all() -> None:
    whole = int(Path("/proc/sys/fs/file-max").read_text())
    if whole > 1024 * 10_000:
        pytest.skip("this system has more files than workers can open")
    section = check_capacity(load_settings(["--workers=1024"]))
    assert ("warning", "descriptors") in found(section)


def test_memory_is_that_of_all_workers_and_of_tls() -> None:
    plain = check_capacity(load_settings(["--max-connections=100000"])).data["memory"]
    many = check_capacity(load_settings(["--max-connections=50000", "--workers=2"])).data["memory"]
    secure = check_capacity(load_settings(["--max-connections=100000", "--tls-cert=x"])).data[
        "memory"
    ]
    assert plain["idle"] == round((100_000 * 10.1 + 35 * 1024) * 1024)
    assert many["idle"] - plain["idle"] == 10 * 2**20
    assert secure["idle"] - plain["idle"] == pytest.approx(100_000 * 13.8 * 1024)
    # Each outbox, and what all messages hold of which not all has come.
    assert plain["worst"] - plain["idle"] == 100_000 * 2**20 + 2**26


def test_too_little_memory() -> None:
    section = check_capacity(load_settings(["--max-connections=90000", "--workers=10"]))
    assert ("warning", "memory") in found(section)


def test_unknown_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "available_memory", lambda: None)
    section = check_capacity(load_settings(["--max-connections=90000", "--workers=10"]))
    assert ("warning", "memory") not in found(section)
    assert section.data["memory"]["available"] is None


def test_beats_that_leave_no_time_for_messages() -> None:
    section = check_capacity(load_settings(["--max-connections=90000", "--interval=1"]))
    assert ("warning", "processor") in found(section)
    assert section.data["beat_share"] == 1.62
    rarer = check_capacity(load_settings(["--max-connections=90000", "--interval=25"]))
    assert found(rarer) == []


class TestMemory:
    """A container has less than its machine."""

    def test_the_least_counts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.undo()
        whole = capacity.available_memory()
        assert whole is not None
        limit = tmp_path / "memory.max"
        monkeypatch.setattr(capacity, "CGROUPS", (str(limit), str(tmp_path / "none")))
        for text, expected in (("max\n", None), ("1073741824\n", GIB)):
            limit.write_text(text)
            assert (capacity.available_memory() == GIB) is (expected == GIB)

    def test_nothing_is_known_on_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(sys, "platform", "win32")
        assert capacity.available_memory() is None


class TestCompression:
    def test_off(self) -> None:
        section = check_capacity(load_settings([]))
        assert section.data["compression"] is None
        assert row(section, "compression") == "off"

    @pytest.mark.parametrize(
        ("fast", "level", "library", "findings"),
        [
            ({6: 3}, 6, "ISA-L", []),
            ({}, 6, "zlib", [("info", "compression")]),
            ({}, 9, "zlib", []),
            ({6: 3}, 9, "zlib", []),
        ],
    )
    def test_tells_by_what(
        self,
        fast: dict[int, int],
        level: int,
        library: str,
        findings: list[tuple[str, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(capacity, "FAST", fast)
        options = ["--compression=on", f"--compression-level={level}"]
        section = check_capacity(load_settings(options))
        assert section.data["compression"] == {"level": level, "library": library}
        assert row(section, "compression").startswith(f"level {level} by {library}, ")
        assert found(section) == findings

    def test_figures_are_those_of_the_documents(self) -> None:
        assert f"{capacity.DEFLATE} us at {capacity.FAST_LEVEL}" in document("compression")
