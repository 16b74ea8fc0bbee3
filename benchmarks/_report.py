"""What people see of a run: tables for the terminal, JSON, and ``RESULTS.rst``."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ._statistics import ratio, spread
from ._suite import Figure, Report, Table, met
from .peers import DISTRIBUTIONS


def environment() -> str:
    """One line on what it ran on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    names = dict.fromkeys(name for needed in DISTRIBUTIONS.values() for name in needed)
    versions = []
    for name in ("trio", *names):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}; {', '.join(dict.fromkeys(versions))}"
    )


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _cell(report: Report, figure: Figure, server: str) -> str:
    value = report.value(figure.key, server)
    if value is None:
        return "-"
    text = _number(value, figure.digits)
    around = spread(report.values(figure.key, server))
    return f"{text} ±{_number(around, figure.digits)}" if around and not figure.always else text


def _parts(report: Report) -> list[str]:
    return list(dict.fromkeys(figure.part for figure in report.figures))


def figures_table(report: Report, part: str = "") -> Table:
    """Every server's figures: the median, and half the distance between the extremes.

    Where it counts what always holds, the worst of all rounds stands alone.

    Args:
        report: of a command.
        part: of the figures, see `Figure`; a server that has none of them is left out.
    """
    figures = [figure for figure in report.figures if figure.part == part]
    rows = []
    for server in report.servers:
        measured = [value for figure in figures for value in report.values(figure.key, server)]
        if not part or any(value is not None for value in measured):
            rows.append([server, *(_cell(report, figure, server) for figure in figures)])
    headers = ("server", *(figure.label for figure in figures))
    return Table(part or report.title, headers, rows)


def ratios_table(report: Report, part: str = "") -> Table:
    """Our figures by those of each other server; of a part, as `figures_table`."""
    figures = [figure for figure in report.figures if figure.part == part]
    rows = []
    for server, *_ in figures_table(report, part).rows:
        if server == report.ours:
            continue
        row: list[str] = [str(server)]
        for figure in figures:
            ours, theirs = (report.value(figure.key, str(name)) for name in (report.ours, server))
            quotient = ratio(ours, theirs)
            row.append("-" if quotient is None else f"{quotient:.2f}")
        rows.append(row)
    headers = (f"{report.ours} by", *(figure.label for figure in figures))
    name = report.ours.replace("_", "-")
    title = f"the same, {name}'s by each other's (less is better, except of what is a second)"
    return Table(title, headers, rows)


def goals_table(report: Report) -> Table:
    """What was to be reached, and whether it was."""
    labels = {
        figure.key: f"{figure.label}, {figure.part}" if figure.part else figure.label
        for figure in report.figures
    }
    rows = []
    for goal in report.goals:
        value = report.reached(goal)
        relation = "above" if goal.above else "by"
        what = labels[goal.figure] + (f", {relation} {goal.peer}" if goal.peer else "")
        if goal.server != report.ours:
            what += f", of {goal.server}"
        bound = f"{'at least' if goal.at_least else 'at most'} {goal.bound:g}"
        if value is None:
            rows.append([goal.figure, what, bound, "-", "not measured"])
        else:
            verdict = "met" if met(goal, value) else "MISSED"
            rows.append([goal.figure, what, bound, f"{value:.3f}", verdict])
    return Table("goals", ("figure", "", "goal", "reached", ""), rows)


def tables(report: Report) -> list[Table]:
    """All of a report."""
    figures = [
        table
        for part in _parts(report)
        for table in (figures_table(report, part), ratios_table(report, part))
    ]
    return [*figures, *report.tables, goals_table(report)]


def render(table: Table, form: str = "simple") -> str:
    """A table as text, or as reStructuredText with `form` "rst"."""
    return tabulate(
        [list(row) for row in table.rows],
        headers=list(table.headers),
        tablefmt=form,
        disable_numparse=True,
        colalign=("left", *["right"] * (len(table.headers) - 1)),
    )


def terminal(report: Report) -> str:
    """A report as a person at a terminal reads it."""
    parts = [f"{table.title}\n\n{render(table)}\n" for table in tables(report)]
    return "\n".join([*parts, *(f"note: {note}" for note in report.notes)])


def to_json(environment_line: str, reports: Sequence[Report]) -> dict[str, Any]:
    """Everything that was measured, round by round."""
    return {
        "environment": environment_line,
        "reports": [
            {
                "command": report.command,
                "options": dataclasses.asdict(report.options),
                "figures": report.results,
                "goals": [
                    {**goal._asdict(), "reached": report.reached(goal)} for goal in report.goals
                ],
                "tables": [table._asdict() for table in report.tables],
                "histograms": report.histograms,
                "notes": report.notes,
            }
            for report in reports
        ],
    }


def write_json(path: str, environment_line: str, reports: Sequence[Report]) -> None:
    """Write `to_json` to a file."""
    Path(path).write_text(json.dumps(to_json(environment_line, reports), indent=1) + "\n")
