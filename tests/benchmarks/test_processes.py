"""What the kernel is asked of a process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from benchmarks._broker import open_broker
from benchmarks._processes import (
    CPU,
    Failed,
    open_command,
    open_server,
    parse_cpu,
    parse_pss,
    parse_slabs,
    tree,
)

_ROLLUP = """\
55d2a4c00000-7ffe5a1fe000 ---p 00000000 00:00 0                          [rollup]
Rss:               11532 kB
Pss:                7123 kB
Pss_Dirty:          6000 kB
Pss_Anon:           5960 kB
Private_Dirty:      5960 kB
"""
_SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
TCP                 100    120   2368   13    8 : tunables 0 0 0 : slabdata 10 10 0
request_sock_TCP     50     60    304   26    2 : tunables 0 0 0 : slabdata 3 3 0
filp                 10     20    256   16    1 : tunables 0 0 0 : slabdata 2 2 0
kmalloc-512        9999  10000    512    8    1 : tunables 0 0 0 : slabdata 9 9 0
"""


def test_pss_is_the_sum_and_not_one_of_its_parts() -> None:
    assert parse_pss(_ROLLUP) == 7123 * 1024


def test_without_pss_there_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no Pss line"):
        parse_pss("Rss: 1 kB\n")


def test_this_process_has_a_pss_no_larger_than_its_rss() -> None:
    rollup = Path("/proc/self/smaps_rollup").read_text()
    rss = next(line for line in rollup.splitlines() if line.startswith("Rss:"))
    assert 0 < parse_pss(rollup) <= int(rss.split()[1]) * 1024


def test_only_what_sockets_need_is_counted_of_the_kernel() -> None:
    assert parse_slabs(_SLABINFO) == 100 * 2368 + 10 * 256


def _stat(user: int, system: int, name: str = "python") -> str:
    return f"1 ({name}) S " + " ".join(["0"] * 10) + f" {user} {system} 0 0 20 0 1 0"


def test_cpu_is_exact_in_its_sum_and_split_by_ticks() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    cpu = parse_cpu(_stat(3 * tick, tick), ["3100000000 5 6\n", "1000000000 7 8\n"])
    assert cpu.total == pytest.approx(4.1)
    assert cpu.user == pytest.approx(3.0)
    assert cpu.system == pytest.approx(1.1)


def test_a_command_may_have_any_name() -> None:
    assert parse_cpu(_stat(100, 0, "a) S 9 9 (b"), ["1000000000 0 0"]).total == pytest.approx(1.0)


def test_what_ran_for_less_than_a_tick_counts_as_user_time() -> None:
    cpu = parse_cpu(_stat(0, 0), ["2000000 0 0"])
    assert cpu.user == pytest.approx(0.002)
    assert cpu.system == 0.0


def test_a_window_is_a_difference() -> None:
    assert CPU(3.0, 2.0) - CPU(1.0, 0.5) == CPU(2.0, 1.5)


def test_a_tree_begins_with_its_root() -> None:
    assert tree(os.getpid())[0] == os.getpid()


@pytest.mark.real
async def test_a_server_that_ends_while_it_is_measured_has_failed() -> None:
    async with open_server("floor", "idle", interval=1.0) as server:
        assert server.pss() > 0
        assert server.cpu().total > 0
        server.send_signal(signal.SIGKILL)
        with pytest.raises(Failed, match="ended"):
            await server.collect_ends(30)
        with pytest.raises(Failed, match="ended"):
            server.pss()


@pytest.mark.real
async def test_no_worker_outlives_the_scope_of_its_command(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        async with open_broker() as broker:
            arguments = ["trio_beat", "--workers=2", f"--backend={broker.url}", "--port=0"]
            async with open_command(*arguments, log=log) as server:
                health = await server.health()
                assert health["workers"] == 2
                supervisor = [
                    child for child in psutil.Process().children() if "--port=0" in child.cmdline()
                ]
                processes = [*supervisor, *supervisor[0].children()]
                assert len(processes) == 3
            assert not [process for process in processes if process.is_running()]
