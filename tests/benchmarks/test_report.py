"""What people see of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks._report import (
    figures_table,
    goals_table,
    ratios_table,
    render,
    tables,
    write_json,
)
from benchmarks._suite import Figure, Goal, Options, Report

_FIGURES = (Figure("cpu", "us"), Figure("dead", "s", 2, always=True))
_GOALS = (
    Goal("cpu", 0.5, "websockets"),
    Goal("cpu", 20),
    Goal("cpu", 2, "websockets", at_least=True),
    Goal("dead", 4.3),
    Goal("dead", 1, "hypercorn"),
)


@pytest.fixture
def report() -> Report:
    made = Report("idle", "a title", Options(), _FIGURES, _GOALS)
    for cpu, dead in ((30.0, 4.0), (10.0, 4.4), (20.0, 4.1)):
        made.add("websockets", {"cpu": 3 * cpu, "dead": dead})
        made.add("trio_beat", {"cpu": cpu, "dead": dead})
        made.add("hypercorn", {"cpu": 100.0})
    return made


def test_medians_have_a_spread_and_what_always_holds_is_the_worst(report: Report) -> None:
    assert figures_table(report).rows == [
        ["trio_beat", "20.0 ±10.0", "4.40"],
        ["websockets", "60.0 ±30.0", "4.40"],
        ["hypercorn", "100.0", "-"],
    ]


def test_ratios_are_ours_by_theirs(report: Report) -> None:
    assert ratios_table(report).rows == [
        ["websockets", "0.33", "1.00"],
        ["hypercorn", "0.20", "-"],
    ]


def test_goals_say_what_was_reached(report: Report) -> None:
    assert [row[2:] for row in goals_table(report).rows] == [
        ["at most 0.5", "0.333", "met"],
        ["at most 20", "20.000", "met"],
        ["at least 2", "0.333", "MISSED"],
        ["at most 4.3", "4.400", "MISSED"],
        ["at most 1", "-", "not measured"],
    ]


def test_a_table_is_restructuredtext_too(report: Report) -> None:
    lines = render(figures_table(report), "rst").splitlines()
    assert lines[0] == lines[2] == lines[-1]
    assert set(lines[0]) == {"=", " "}


def test_json_has_every_round(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(str(path), "a machine", [report])
    told = json.loads(path.read_text())
    assert told["environment"] == "a machine"
    (one,) = told["reports"]
    assert one["figures"]["cpu"]["trio_beat"] == [30.0, 10.0, 20.0]
    assert one["figures"]["dead"]["hypercorn"] == [None, None, None]
    assert one["goals"][0]["reached"] == pytest.approx(1 / 3)


def test_a_goal_may_be_a_difference_to_another_server() -> None:
    goals = (
        Goal("p99", 5, "memory", server="redis", above=True),
        Goal("p99", 5, "coredis", server="redis", above=True),
    )
    report = Report("backends", "a title", Options(), (Figure("p99", "ms"),), goals, ours="redis")
    report.add("memory", {"p99": 2.0})
    report.add("redis", {"p99": 6.5})
    report.add("coredis", {})
    assert [row[1:] for row in goals_table(report).rows] == [
        ["ms, above memory", "at most 5", "4.500", "met"],
        ["ms, above coredis", "at most 5", "-", "not measured"],
    ]


def test_ours_is_the_server_that_the_command_is_about() -> None:
    report = Report("backends", "a title", Options(), (Figure("p99", "ms"),), (), ours="redis")
    for server, value in (("coredis", 4.0), ("redis", 3.0), ("memory", 2.0)):
        report.add(server, {"p99": value})
    assert report.servers == ["memory", "redis", "coredis"]
    table = ratios_table(report)
    assert table.rows == [["memory", "1.50"], ["coredis", "0.75"]]
    assert table.headers[0] == "redis by"
    assert table.title.startswith("the same, redis's by each other's")


@pytest.fixture
def parted() -> Report:
    figures = (Figure("cpu", "us"), Figure("cpu_tls", "us", part="over TLS"))
    goals = (Goal("cpu", 9, server="trio_beat_handler"), Goal("cpu_tls", 0.5, "picows"))
    made = Report("idle", "a title", Options(), figures, goals)
    made.add("trio_beat", {"cpu": 1.0, "cpu_tls": 2.0})
    made.add("trio_beat_handler", {"cpu": 8.0, "cpu_tls": 3.0})
    made.add("picows", {"cpu": 2.0, "cpu_tls": 8.0})
    made.add("floor", {"cpu": 0.5})
    return made


def test_figures_of_a_part_have_a_table_of_their_own(parted: Report) -> None:
    titles = [table.title for table in tables(parted)]
    assert titles[0] == "a title"
    assert titles[2] == "over TLS"
    assert [row[0] for row in figures_table(parted).rows][-1] == "floor"


def test_a_part_leaves_out_servers_without_a_result(parted: Report) -> None:
    assert figures_table(parted, "over TLS").rows == [
        ["trio_beat", "2.0"],
        ["trio_beat_handler", "3.0"],
        ["picows", "8.0"],
    ]
    assert ratios_table(parted, "over TLS").rows == [
        ["trio_beat_handler", "0.67"],
        ["picows", "0.25"],
    ]


def test_a_goal_names_its_server_and_transport(parted: Report) -> None:
    assert [row[1:] for row in goals_table(parted).rows] == [
        ["us, of trio_beat_handler", "at most 9", "8.000", "met"],
        ["us, over TLS, by picows", "at most 0.5", "0.250", "met"],
    ]
