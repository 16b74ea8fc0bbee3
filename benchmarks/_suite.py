"""What the commands have in common: options, rounds, figures and goals."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
import trustme
from tqdm import tqdm

from ._processes import Certificate, Failed
from ._statistics import median, ratio, worst
from .peers import BACKENDS, DISTRIBUTIONS, EMBEDDED, PEERS, WORKERS

#: Of the time, above which the load is said to have been the bottleneck.
_BUSY: Final = 0.9
_WARM_UP: Final = 1000
#: What connections ask for that do nothing else but answer PINGs.
TARGET: Final = "/ws/bench?subscribe-broadcast"
#: Share by which the count of PINGs may differ from what was due.
_TOLERANCE: Final = 0.05
OURS: Final = (
    *(peer for peer in (*PEERS, *EMBEDDED) if peer.startswith("trio_beat")),
    "memory",
    "redis",
    *WORKERS,
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be chosen; each command has defaults of its own.

    Args:
        rounds: how often all servers are measured, in turn.
        connections: to each server.
        interval: seconds between PINGs.
        spread: seconds over which connections come; 0: as fast as they are let in.
        seconds: that one measurement lasts.
        messages: that are published.
        channels: with one listener each.
        sizes: connections to measure at, ascending.
        hold: connections of the hold test; 0: none.
        hold_interval: seconds between their PINGs.
        per_process: connections that one server process of the hold test gets at most.
        peers: module names, see `benchmarks.peers`.
    """

    rounds: int = 3
    connections: int = 0
    interval: float = 4.0
    spread: float = 0.0
    seconds: float = 0.0
    messages: int = 0
    channels: int = 0
    sizes: tuple[int, ...] = ()
    hold: int = 0
    hold_interval: float = 25.0
    per_process: int = 18_000
    peers: tuple[str, ...] = PEERS


class Figure(NamedTuple):
    """Something that is measured of each server.

    Args:
        key: its name in JSON.
        label: heading of its column.
        digits: that are shown behind the point.
        always: what counts is the worst of the rounds, and not their median.
        part: title of the table that it stands in; empty: the report's first.
    """

    key: str
    label: str
    digits: int = 1
    always: bool = False
    part: str = ""


class Goal(NamedTuple):
    """What trio-beat must reach.

    Args:
        figure: its key.
        bound: at most so much, or at least.
        peer: of whose figure it is a ratio; None: the figure itself.
        at_least: more is better.
        server: which of trio-beat's servers must reach it.
        above: what counts is by how much it is above the peer's figure, and not the ratio.
    """

    figure: str
    bound: float
    peer: str | None = None
    at_least: bool = False
    server: str = "trio_beat"
    above: bool = False


#: By figure and server, a value for each round; None: not measured, or never reached.
Results = dict[str, dict[str, list[float | None]]]


class Table(NamedTuple):
    """Something beside the figures that a command tells."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]


@dataclass
class Report:
    """What one command measured.

    Args:
        ours: the server that is compared with the others.
    """

    command: str
    title: str
    options: Options
    figures: Sequence[Figure]
    goals: Sequence[Goal]
    results: Results = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    #: By server, PINGs in each part of an interval.
    histograms: dict[str, list[int]] = field(default_factory=dict)
    failed: bool = False
    ours: str = "trio_beat"

    def add(self, server: str, values: Mapping[str, float | None]) -> None:
        """Add one server's figures of one round."""
        for figure in self.figures:
            by_server = self.results.setdefault(figure.key, {})
            by_server.setdefault(server, []).append(values.get(figure.key))

    @property
    def servers(self) -> list[str]:
        """Those that were measured, in the order of the options, `BACKENDS` and `WORKERS`."""
        measured = {server for by_server in self.results.values() for server in by_server}
        order = dict.fromkeys((*self.options.peers, *PEERS, *BACKENDS, *WORKERS))
        known = [name for name in order if name in measured]
        return [*known, *sorted(measured.difference(known))]

    def values(self, key: str, server: str) -> list[float | None]:
        """A server's figure, round by round."""
        return self.results.get(key, {}).get(server, [])

    def value(self, key: str, server: str) -> float | None:
        """A server's figure of all rounds; None where it was not measured in each of them."""
        figure = next(figure for figure in self.figures if figure.key == key)
        return (worst if figure.always else median)(self.values(key, server))

    def absence(self, key: str, server: str) -> str:
        """What to say of a figure that has no value."""
        unnoticed = key.replace("_worst", "_missed")
        known = any(figure.key == unnoticed for figure in self.figures)
        return "never" if known and self.value(unnoticed, server) else "not measured"

    def reached(self, goal: Goal) -> float | None:
        """What was reached of a goal; None where it was not measured."""
        ours = self.value(goal.figure, goal.server)
        if goal.peer is None:
            return ours
        theirs = self.value(goal.figure, goal.peer)
        if goal.above:
            return None if ours is None or theirs is None else ours - theirs
        return ratio(ours, theirs)


def met(goal: Goal, value: float) -> bool:
    """Whether a goal is met."""
    return value >= goal.bound if goal.at_least else value <= goal.bound


class Command(NamedTuple):
    """One of the commands; see the modules that make them."""

    name: str
    title: str
    default: Options
    quick: Options
    flags: Sequence[str]
    figures: Callable[[Options], Sequence[Figure]]
    goals: Callable[[Options], Sequence[Goal]]
    run: Callable[[Run], Awaitable[None]]
    ours: str = "trio_beat"


class Run:
    """One command under way."""

    def __init__(self, report: Report, certificate: Certificate) -> None:
        self.report = report
        self.options = report.options
        self.certificate = certificate
        self._bar: tqdm[Any] | None = None

    @property
    def peers(self) -> list[str]:
        """Those of the servers that are installed here."""
        return [peer for peer in self.options.peers if not missing(peer)]

    def note(self, text: str) -> None:
        """Say something that a reader of the figures must know, once."""
        if text not in self.report.notes:
            self.report.notes.append(text)
            tqdm.write(f"note: {text}")

    def check_load(self, server: str, what: str, busy: float) -> None:
        """Say so where the load may have been the bottleneck.

        Args:
            server: who was measured.
            what: was measured of it.
            busy: share of the time in which the load ran.
        """
        if busy > _BUSY:
            self.note(
                f"the load was busy {_BUSY:.0%} of the time or more with {server}, {what}: "
                f"it may be faster than shown"
            )

    def check_beats(self, server: str, connections: int, pings: float, due: float) -> None:
        """Say so where a server did not send its PINGs in time: late ones are cheaper.

        Args:
            server: who was measured.
            connections: that it had.
            pings: that came.
            due: how many should have.
        """
        if not (1 - _TOLERANCE < pings / due < 1 + _TOLERANCE):
            self.note(
                f"{server} sent {pings / due:.0%} of the PINGs that were due to "
                f"{connections:,} connections"
            )

    @contextlib.contextmanager
    def progress(self, steps: int) -> Iterator[None]:
        """Show a progress bar for so many steps."""
        with tqdm(total=steps, desc=self.report.command, dynamic_ncols=True, disable=None) as bar:
            self._bar = bar
            yield

    async def keep_progress_moving(self) -> None:
        """Show every second that time goes by, until cancelled."""
        while True:
            await trio.sleep(1)
            if self._bar is not None:
                self._bar.refresh()

    def step(self, text: str, done: int = 0) -> None:
        """Say what is done now, and how many steps are behind."""
        assert self._bar is not None
        self._bar.update(done)
        self._bar.set_postfix_str(text)
        if self._bar.disable and text:
            print(f"{self.report.command}: {text}", flush=True)

    async def alternate(
        self,
        measure: Callable[[str], Awaitable[Mapping[str, float | None]]],
        *,
        beside: Sequence[str] = (),
    ) -> None:
        """Measure the servers in turn, several rounds, each round beginning with another one.

        Args:
            measure: gives a server's figures.
            beside: who else is measured.
        """
        servers = [*self.peers, *beside]
        for number in range(self.options.rounds):
            first = number % len(servers)
            for server in servers[first:] + servers[:first]:
                self.step(f"round {number + 1}: {server}")
                self.report.add(server, await self.attempt(server, measure))
                self.step("", 1)

    async def alternate_and_hold(
        self,
        measure: Callable[[str], Awaitable[Mapping[str, float | None]]],
        hold: Callable[[Run], Awaitable[None]],
    ) -> None:
        """Measure the servers in turn, and then do the hold test where one is asked for.

        Args:
            measure: gives a server's figures.
            hold: the test; where it raises `Failed` the reason is noted.
        """
        holding = int(self.options.hold > 0)
        with self.progress(self.options.rounds * len(self.peers) + holding):
            await self.alternate(measure)
            if holding:
                try:
                    await hold(self)
                except Failed as exc:
                    self.note(f"hold: {exc}")
                    self.report.failed = True
                self.step("", 1)

    async def attempt(
        self, peer: str, measure: Callable[[str], Awaitable[Mapping[str, float | None]]]
    ) -> Mapping[str, float | None]:
        """Measure one server; one that fails is reported and has no figures."""
        try:
            return await measure(peer)
        except Failed as exc:
            self.note(f"{peer} failed: {exc}")
            self.report.failed |= peer in OURS
            return {}


def warm_up(connections: int) -> int:
    """How many connections to open before the first look at the memory, those measured on top.

    They use up what a process has free since it was started, in pieces of all sizes: counted with
    the others, that would make those look cheaper than the ones after them.
    """
    return min(_WARM_UP, connections)


def missing(peer: str) -> str | None:
    """The distribution that a peer needs and that is not installed; None: all are."""
    for distribution in DISTRIBUTIONS[peer]:
        try:
            version(distribution)
        except PackageNotFoundError:
            return distribution
    return None


@contextlib.contextmanager
def certificate() -> Iterator[Certificate]:
    """A certificate for 127.0.0.1 (ECDSA, P-256), by an authority of the run's own."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = Certificate(*(str(folder / part) for part in ("cert.pem", "key.pem", "ca.pem")))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(files.cert, append=True)
        issued.private_key_pem.write_to_path(files.key)
        authority.cert_pem.write_to_path(files.ca)
        yield files


async def execute(command: Command, options: Options) -> Report:
    """Run a command."""
    report = Report(
        command.name,
        command.title,
        options,
        command.figures(options),
        command.goals(options),
        ours=command.ours,
    )
    with certificate() as files:
        run = Run(report, files)
        for peer in options.peers:
            if (lacking := missing(peer)) is not None:
                run.note(f"{peer} is left out: {lacking} is not installed, see the bench extra")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.keep_progress_moving)
            await command.run(run)
            nursery.cancel_scope.cancel()
    return report
