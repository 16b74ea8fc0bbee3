"""Pictures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ._suite import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS: Final = "#d1495b"
_THEIRS: Final = "#9db4c0"
#: Of a histogram's axis, at the least: so many times the mean.
_TOP: Final = 10
_INK: Final = "#253237"
_LINES: Final = ("#253237", "#5c6b73", "#2a6f97", "#61a5c2", "#6a994e", "#bc8034", "#7b5ea7")
#: Inches: of bars, and of histograms below them.
_BARS_HEIGHT: Final = 3.2
_HISTOGRAMS_HEIGHT: Final = 1.7
#: Bars of a row.
_COLUMNS: Final = 3
#: The figures that are drawn as bars, with a title; all others are in the tables.
_BARS: Final = {
    "idle": {
        "memory": "memory for a connection, KiB",
        "cpu": "processor time for a beat, us",
        "accept": "to accept a connection, us",
        "memory_tls": "memory for a connection over TLS, KiB",
        "cpu_tls": "processor time for a beat over TLS, us",
        "handshake_tls": "for a TLS handshake, ms",
    },
    "embed": {
        "memory": "memory for a connection, KiB",
        "cpu": "processor time for a beat, us",
    },
    "fanout": {
        "small_cpu": "processor time for a delivery of 100 B, us",
        "large_cpu": "for one of 16 KiB, us",
        "small_p99": "99 of 100 have the 100 B within, ms",
    },
    "deflate": {
        "memory": "memory for a connection that compresses, KiB",
        "cpu": "processor time for a compressed delivery of 4 KiB, us",
        "wire": "bytes of it on the wire",
    },
    "detect": {
        "silent_worst": "a silent peer is noticed within, s",
        "cut_worst": "a cut network is noticed within, s",
        "killed": "live peers dropped",
    },
    "echo": {
        "small_cpu": "processor time for an echo of 100 B, us",
        "large_cpu": "for one of 64 KiB, us",
    },
    "backends": {
        "burst_p99": "99 of 100 messages, in bursts, come within, ms",
        "publish_cpu": "processor time for a confirmed publish, us",
        "fanout_cpu": "processor time for a delivery, us",
    },
    "workers": {
        "accept": "processor time to accept a connection, us",
        "echo": "for an echo over the broker, us",
        "delivery": "for a delivery, us",
    },
}


def _color(server: str) -> str:
    return (
        _OURS if server.startswith("trio_beat") or server in ("redis", "two_workers") else _THEIRS
    )


def _bars(axes: Axes, title: str, report: Report, key: str) -> None:
    places = range(len(report.servers))
    digits = next(figure.digits for figure in report.figures if figure.key == key)
    for place, server in zip(places, report.servers, strict=True):
        values = report.values(key, server)
        middle = report.value(key, server)
        if middle is None:
            axes.text(0, place, f" {report.absence(key, server)}", va="center", fontsize=8)
            continue
        present = [value for value in values if value is not None]
        error = [[middle - min(present)], [max(present) - middle]]
        axes.barh(place, middle, xerr=error, color=_color(server), ecolor=_INK, height=0.7)
        axes.text(
            max(present), place, f"  {middle:,.{digits}f}", va="center", color=_INK, fontsize=8
        )
    axes.set_yticks(places, report.servers)
    axes.set_ylim(len(report.servers) - 0.4, -0.6)  # the first at the top
    axes.margins(x=0.18)
    axes.set_title(title, loc="left")


def _lines(axes: Axes, title: str, report: Report, kind: str) -> None:
    sizes = report.options.sizes
    for place, server in enumerate(report.servers):
        medians = {size: report.value(f"{kind}_{size}", server) for size in sizes}
        known = {size: value for size, value in medians.items() if value is not None}
        ours = server == "trio_beat"
        (line,) = axes.plot(
            list(known),
            list(known.values()),
            marker="o",
            color=_OURS if ours else _LINES[place % len(_LINES)],
            linewidth=2.5 if ours else 1.2,
            label=server,
        )
        line.set_zorder(3 if ours else 2)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_title(title, loc="left")


def _histogram(axes: Axes, server: str, histogram: Sequence[int]) -> None:
    total = sum(histogram) / len(histogram)
    axes.bar(range(len(histogram)), [count / total for count in histogram], 1, color=_color(server))
    axes.set_title(server, loc="left", fontsize=8)
    axes.axhline(1, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylim(bottom=0, top=max(_TOP, *axes.get_ylim()))


def plot(report: Report, path: str) -> None:
    """Draw what can be drawn of a report into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    style: Any = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "font.size": 9,
    }
    with pyplot.rc_context(style):
        if report.command == "scale":
            figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
            _lines(axes[0], "memory for a connection, KiB", report, "memory")
            _lines(axes[1], "processor time for a beat, us", report, "cpu")
            axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        else:
            figure = _figure_of_bars(report, pyplot)
        figure.savefig(path, dpi=100)
        pyplot.close(figure)


def _figure_of_bars(report: Report, pyplot: Any) -> Any:
    bars = list(_BARS[report.command].items())
    rows = [bars[begin : begin + _COLUMNS] for begin in range(0, len(bars), _COLUMNS)]
    heights = [_BARS_HEIGHT] * len(rows) + [_HISTOGRAMS_HEIGHT] * bool(report.histograms)
    figure = pyplot.figure(figsize=(11, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=False):
        axes = part.subplots(1, len(row), sharey=True, squeeze=False)[0]
        for place, (key, title) in zip(axes, row, strict=True):
            _bars(place, title, report, key)
            if place is not axes[0]:
                place.tick_params(left=False)
    if report.histograms:
        last = parts[-1]
        last.suptitle(
            "when beats fall, over one interval (dotted: evenly)", x=0.01, ha="left", fontsize=10
        )
        small = last.subplots(1, len(report.histograms), sharey=False, squeeze=False)[0]
        for place, (server, histogram) in zip(small, report.histograms.items(), strict=True):
            _histogram(place, server, histogram)
    return figure
