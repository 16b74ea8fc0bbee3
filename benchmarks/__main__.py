"""Compare trio-beat with websockets, side by side in one run: ``python -m benchmarks``.

Each server is a process of its own, and so is the load, on another core where there is one. The
two take turns, several rounds; the medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from ._load import Load

PEERS = ("trio_beat", "websockets")
MESSAGE = b"x" * 100
#: What to measure, and what trio-beat must reach: at most, or (negative) at least.
GOALS = {
    "private KiB per connection": 0.55,
    "CPU us per beat": 0.50,
    "CPU us per delivery": 0.75,
    "accepted per second": -1.2,
}


def private_memory(pid: int) -> int:
    """Bytes of a process that it shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def cpu_time(pid: int) -> float:
    """Seconds that a process's threads have run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9


def measure(peer: str, connections: int, interval: float, messages: int) -> dict[str, float]:
    """Run one server through one round."""
    server = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.peers.{peer}", str(interval)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            os.sched_setaffinity(server.pid, {cores[0]})
            os.sched_setaffinity(0, set(cores[1:]))
        try:
            return _measure(server.pid, Load(port), connections, interval, messages)
        finally:
            os.sched_setaffinity(0, set(cores))
    finally:
        server.terminate()
        server.wait()


def _measure(
    pid: int, load: Load, connections: int, interval: float, messages: int
) -> dict[str, float]:
    before = private_memory(pid)
    took = load.connect(connections, "/ws/bench?subscribe-broadcast")
    load.run(2 * interval)
    grown = private_memory(pid) - before
    pings, cpu = load.pings, cpu_time(pid)
    load.run(4 * interval)
    beat = (cpu_time(pid) - cpu) / (load.pings - pings)
    load.connect(1, "/ws/bench?publish-broadcast")
    cpu = cpu_time(pid)
    for _ in range(messages):
        load.send(MESSAGE)
        load.receive(connections * (2 + len(MESSAGE)), 30)
    delivery = (cpu_time(pid) - cpu) / (messages * connections)
    if load.lost:
        raise RuntimeError(f"{load.lost} connections lost")
    load.close()
    return {
        "private KiB per connection": grown / connections / 1024,
        "CPU us per beat": 1e6 * beat,
        "CPU us per delivery": 1e6 * delivery,
        "accepted per second": connections / took,
    }


def main() -> int:
    """Run all rounds, print the table; exit 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--connections", type=int, default=3000)
    parser.add_argument("--interval", type=float, default=4.0, help="seconds between beats")
    parser.add_argument("--messages", type=int, default=40, help="broadcasts in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, trio {version('trio')}, "
        f"websockets {version('websockets')}; {options.connections} connections, "
        f"{options.interval:g} s beats, {options.rounds} rounds"
    )
    results: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    for number in range(options.rounds):
        for peer in PEERS:
            begun = time.perf_counter()
            results[peer].append(
                measure(peer, options.connections, options.interval, options.messages)
            )
            took = time.perf_counter() - begun
            print(f"round {number + 1}: {peer} took {took:.0f} s", file=sys.stderr)
    missed = False
    print(f"{'':28}" + "".join(f"{peer:>12}" for peer in PEERS) + f"{'ratio':>8}{'goal':>12}")
    for figure, goal in GOALS.items():
        ours, theirs = (statistics.median(r[figure] for r in results[peer]) for peer in PEERS)
        ratio = ours / theirs
        reached = ratio <= goal if goal > 0 else ratio >= -goal
        missed |= not reached
        bound = f"{'<=' if goal > 0 else '>='} {abs(goal):.2f}"
        print(
            f"{figure:28}{ours:12.1f}{theirs:12.1f}{ratio:8.2f}{bound:>12}{'' if reached else ' !'}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
