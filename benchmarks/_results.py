"""``RESULTS.rst``: the last full run, as reStructuredText."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ._plot import plot
from ._report import render, tables
from ._suite import Report, Table

#: Columns of the summary: heading, command, the figures whose worst is shown, and digits.
_SUMMARY: Final = (
    ("memory, KiB", "idle", ("memory",), 1),
    ("over TLS", "idle", ("memory_tls",), 1),
    ("us a beat", "idle", ("cpu",), 0),
    ("over TLS", "idle", ("cpu_tls",), 0),
    ("us to accept", "idle", ("accept",), 0),
    ("ms, TLS handshake", "idle", ("handshake_tls",), 1),
    ("us a delivery", "fanout", ("small_cpu",), 1),
    ("us an echo", "echo", ("small_cpu",), 0),
    ("dead noticed, s", "detect", ("silent_worst", "cut_worst"), 1),
    ("live dropped", "detect", ("killed",), 0),
)


def summary(reports: Sequence[Report]) -> Table:
    """One row for each server, of medians and worst cases."""
    by_command = {report.command: report for report in reports}
    servers = by_command["idle"].options.peers
    rows = []
    for server in servers:
        row = [server]
        for _, command, keys, digits in _SUMMARY:
            values = [by_command[command].value(key, server) for key in keys]
            present = [value for value in values if value is not None]
            if len(present) < len(values):
                absent = {by_command[command].absence(key, server) for key in keys}
                row.append("never" if "never" in absent else "-")
            else:
                row.append(f"{max(present):,.{digits}f}")
        rows.append(row)
    return Table("Summary", ("server", *(heading for heading, *_ in _SUMMARY)), rows)


def write_results(path: Path, environment: str, command: str, reports: Sequence[Report]) -> None:
    """Write the file, and its pictures beside it."""
    parts = [
        "=======",
        "Results",
        "=======",
        "",
        f"Written by ``{command}``; not edited. Medians of the rounds, ± half the distance between",
        "their extremes; of worst delays and losses the worst of all rounds.",
        "A dash stands for what was not measured, or never came to pass.",
        "",
        environment,
        "",
        render(summary(reports), "rst"),
        "",
    ]
    for report in reports:
        picture = f"results-{report.command}.png"
        plot(report, str(path.parent / picture))
        options = ", ".join(
            f"{name} {value}" for name, value in _chosen(report).items() if name != "peers"
        )
        title = f"{report.command}: {report.title}"
        parts += ["", title, "=" * len(title), "", f"{options}.", "", f".. image:: {picture}", ""]
        for table in tables(report):
            parts += [f"**{table.title}**", "", render(table, "rst"), ""]
        if report.notes:
            parts += ["Notes::", "", *(f"    {note}" for note in report.notes), ""]
    path.write_text("\n".join(parts).rstrip() + "\n")


def _chosen(report: Report) -> dict[str, object]:
    options = report.options
    names = ("rounds", "connections", "sizes", "interval", "spread", "messages", "channels")
    chosen = {name: getattr(options, name) for name in (*names, "seconds", "hold")}
    return {name: value for name, value in chosen.items() if value}
