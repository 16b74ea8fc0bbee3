"""What trio-beat costs, and how surely it notices a dead peer, beside its peers in one run.

Every server is a process of its own, and so is the load, on another core where there is one. The
servers take turns, several rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import trio

try:
    from . import backends, deflate, detect, echo, embed, fanout, idle, scale, workers
    from ._plot import plot
    from ._processes import most_connections, raise_file_limit
    from ._report import environment, terminal, write_json
    from ._results import write_results
    from ._suite import Command, Options, Report, execute, warm_up
    from .peers import BACKENDS, DEFLATING, EMBEDDED, PEERS, WORKERS
except ModuleNotFoundError as exc:
    sys.exit(f"{exc.name} is missing: install the bench extra, pip install '.[bench]'")

COMMANDS: Final = {
    module.COMMAND.name: module.COMMAND
    for module in (idle, embed, scale, fanout, deflate, detect, echo, backends, workers)
}
_RESULTS: Final = Path(__file__).parent / "RESULTS.rst"


def _at_least(least: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {least:g} or more")
        return value

    return parse


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or sizes[0] < 20 or list(sizes) != sorted(set(sizes)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not two or more ascending numbers, 20 or more, such as 1000,16000"
        )
    return sizes


def _peers(known: Sequence[str], ours: str) -> Callable[[str], tuple[str, ...]]:
    """Takes some of those that are known; ours is always among them."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return (ours, *(name for name in names if name != ours))

    return parse


_FLAGS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "connections": (_at_least(4, int), "to each server"),
    "interval": (_at_least(0.1, float), "seconds between PINGs"),
    "spread": (_at_least(0, float), "seconds over which connections come; 0: at once"),
    "seconds": (_at_least(0.1, float), "that a measurement lasts"),
    "messages": (_at_least(1, int), "that are published in a round"),
    "channels": (_at_least(1, int), "with one listener each"),
    "sizes": (_sizes, "connections to measure at, such as 1000,4000,16000"),
    "hold": (_at_least(0, int), "connections of the hold test; 0: none"),
    "hold-interval": (_at_least(0.1, float), "seconds between PINGs in the hold test"),
    "per-process": (_at_least(1, int), "connections that one process holds at most"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.title, description=command.title)
        for flag in command.flags:
            flag = flag.replace("_", "-")
            kind, text = _FLAGS[flag]
            default = getattr(command.default, flag.replace("-", "_"))
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            sub.add_argument(f"--{flag}", type=kind, help=f"{text} (default: {shown})")
        known = {
            "backends": BACKENDS,
            "workers": WORKERS,
            "embed": EMBEDDED,
            "deflate": DEFLATING,
        }.get(name, PEERS)
        _add_common(sub, known, command.ours)
    everything = subparsers.add_parser("all", help="all of them, one after the other")
    _add_common(everything, PEERS, "trio_beat")
    everything.add_argument(
        "--results", action="store_true", help=f"write {_RESULTS.name} and its pictures"
    )
    return parser


def _add_common(parser: argparse.ArgumentParser, peers: Sequence[str], ours: str) -> None:
    parser.add_argument("--quick", action="store_true", help="small and short: for a first look")
    parser.add_argument("--rounds", type=_at_least(1, int), help="(default: 3, with --quick 1)")
    peers_help = f"(default: {','.join(peers)})"
    parser.add_argument("--peers", type=_peers(peers, ours), help=peers_help)
    parser.add_argument("--json", metavar="FILE", help="write every figure of every round")
    parser.add_argument("--plot", metavar="FILE.png", help="draw a picture (all: one for each)")


def _arguments() -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args()
    for name in ("json", "plot"):
        path = getattr(arguments, name)
        # Now, and not when all has been measured.
        if path and not os.access(Path(path).parent, os.W_OK):
            parser.error(f"--{name}: no file can be written in {Path(path).parent}")
        if path and Path(path).is_dir():
            parser.error(f"--{name}: {path} is a directory")
    if arguments.plot and not arguments.plot.endswith(".png"):
        parser.error(f"--plot: {arguments.plot!r} does not end with .png")
    if getattr(arguments, "results", False) and (arguments.quick or arguments.peers):
        parser.error("--results: only of a full run, without --quick and --peers")
    pictures = arguments.plot or getattr(arguments, "results", False)
    if pictures and importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is missing: install the bench extra, pip install '.[bench]'")
    for command in _commands(arguments):
        options = _options(command, arguments)
        wanted = max(options.connections, options.channels, *options.sizes)
        most = most_connections()
        if wanted + warm_up(wanted) > most:
            parser.error(
                f"{wanted} connections to one server, and {warm_up(wanted)} before, are too many: "
                f"open files (ulimit -Hn) and local ports are enough for {most}"
            )
    return arguments


def _commands(arguments: argparse.Namespace) -> list[Command]:
    if arguments.command == "all":
        return list(COMMANDS.values())
    return [COMMANDS[arguments.command]]


def _options(command: Command, arguments: argparse.Namespace) -> Options:
    options = command.quick if arguments.quick else command.default
    names = {field.name for field in dataclasses.fields(Options)}
    chosen = {
        name: value
        for name, value in vars(arguments).items()
        if name in names and value is not None
    }
    if "peers" in chosen and arguments.command == "all":
        few = tuple(peer for peer in chosen["peers"] if peer in options.peers)
        chosen["peers"] = few or options.peers
    return dataclasses.replace(options, **chosen)


async def _run(arguments: argparse.Namespace, line: str) -> list[Report] | None:
    """Run the commands; None when a signal ended that."""
    reports: list[Report] | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(_end_on_signal, nursery.cancel_scope)
        done = []
        for command in _commands(arguments):
            report = await execute(command, _options(command, arguments))
            print(f"\n{terminal(report)}\n", flush=True)
            done.append(report)
            # After each, so that an hour's figures are not lost with the last command.
            if arguments.json:
                write_json(arguments.json, line, done)
        reports = done
        nursery.cancel_scope.cancel()
    return reports


async def _end_on_signal(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


def main() -> int:
    """Run what is asked for; exit 1 when trio-beat failed or lost a live connection."""
    raise_file_limit()
    arguments = _arguments()
    line = environment()
    print(line, flush=True)
    reports = trio.run(_run, arguments, line)
    if reports is None:
        return 130
    if arguments.plot:
        for report in reports:
            path = Path(arguments.plot)
            if len(reports) > 1:
                path = path.with_stem(f"{path.stem}-{report.command}")
            plot(report, str(path))
    if getattr(arguments, "results", False):
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        write_results(_RESULTS, line, command, reports)
    return int(any(report.failed for report in reports))


if __name__ == "__main__":
    sys.exit(main())
