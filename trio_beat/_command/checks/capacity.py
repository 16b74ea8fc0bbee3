"""What so many connections take: file descriptors, memory, and a core's time."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from ..._protocol.deflate import FAST
from ..descriptors import OWN, descriptor_limit, most_sockets
from ..settings import Settings
from .section import Section

_KIB: Final = 2**10

# Measured with Python 3.11 on Linux; tests/command/test_check.py compares them with what the
# documents say.

#: KiB of private memory of an idle connection of a hub: benchmarks/RESULTS.rst, idle connections.
PLAIN: Final = 6.1
#: The same over TLS, and microseconds of a core for a beat, plain and over TLS: measured since, see
#: trio_beat/docs/operating.rst, "What it costs".
TLS: Final = 19.9
BEAT: Final = 18.0
BEAT_TLS: Final = 35.0
#: KiB that the kernel has for a connection, outside of the process: benchmarks/RESULTS.rst.
KERNEL: Final = 4.0
#: MiB of the server's process without a connection, and of each worker more (operating.rst).
PROCESS: Final = 35.0
WORKER: Final = 10.0

#: The highest level of compression for which there is something faster than zlib, and the
#: microseconds that a message of 4 KiB takes there, by zlib (compression.rst).
FAST_LEVEL: Final = 6
DEFLATE: Final = 33

#: Share of a core above which beats leave too little for messages.
_BUSY: Final = 0.5
#: Where a container's limit of memory is, of both versions of control groups (cgroups(7)).
CGROUPS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_capacity(settings: Settings) -> Section:
    """Say what so many connections take, and whether it is there."""
    section = Section("capacity")
    workers = settings.workers
    each = f" in each of {workers} workers" if workers > 1 else ""
    section.row("connections", f"at most {settings.max_connections:,}{each}")
    section.data = {"connections": settings.max_connections, "workers": workers}
    _check_descriptors(section, settings)
    _check_memory(section, settings)
    _check_beats(section, settings)
    _check_compression(section, settings)
    return section


def _check_descriptors(section: Section, settings: Settings) -> None:
    ports = 1 if settings.internal_bind is None else 2
    sockets = most_sockets(settings.max_connections, settings.max_pending, ports)
    needed = sockets + OWN
    limit = descriptor_limit()
    section.data["descriptors"] = {
        "needed": needed,
        "soft": None if limit is None else limit.soft,
        "hard": None if limit is None else limit.hard,
    }
    if limit is None:
        section.row("descriptors", f"{needed:,} are needed; this system limits none")
        return
    hard = "any number" if limit.hard is None else f"{limit.hard:,}"
    raised = ""
    if limit.soft is not None and limit.soft != limit.hard:
        raised = f"; the server raises its own limit from {limit.soft:,}"
    section.row("descriptors", f"{needed:,} needed by a process, {hard} allowed{raised}")
    if limit.hard is not None and limit.hard < needed:
        section.warn(
            "descriptors",
            f"{needed:,} file descriptors are needed, and {hard} allowed (ulimit -Hn, or "
            f"LimitNOFILE= of systemd): {_fitting(limit.hard, sockets, settings):,} connections "
            "fit",
        )
    with contextlib.suppress(OSError, ValueError):
        whole = int(Path("/proc/sys/fs/file-max").read_text())
        if settings.workers * needed > whole:
            text = f"{settings.workers * needed:,} open files are needed, and the system has"
            section.warn("descriptors", f"{text} {whole:,} (sysctl fs.file-max)")


def _fitting(hard: int, sockets: int, settings: Settings) -> int:
    """Connections that fit while as many handshakes are under way as may be."""
    return max(0, hard - OWN - (sockets - settings.max_connections))


def _check_memory(section: Section, settings: Settings) -> None:
    each = TLS if settings.tls_cert is not None else PLAIN
    peers = settings.max_connections * settings.workers
    process = (PROCESS + WORKER * (settings.workers - 1)) * _KIB
    idle = (peers * (each + KERNEL) + process) * _KIB
    slow = idle + peers * settings.outbox_size + settings.workers * settings.max_unfinished
    there = available_memory()
    section.data["memory"] = {"idle": round(idle), "worst": round(slow), "available": there}
    secure = "with TLS" if settings.tls_cert is not None else "without TLS"
    section.row(
        "memory, idle", f"{_size(idle)}: {each:g} KiB a peer {secure}, and the kernel's {KERNEL:g}"
    )
    section.row("memory, worst", f"{_size(slow)}, if every peer is slow and fills its outbox")
    if there is None:
        return
    section.row("memory, here", _size(there))
    if idle > there:
        text = f"idle connections take {_size(idle)}, and this machine or container has"
        section.warn("memory", f"{text} {_size(there)}: lower --max-connections")


def _check_beats(section: Section, settings: Settings) -> None:
    beat = BEAT_TLS if settings.tls_cert is not None else BEAT
    share = settings.max_connections / settings.interval * beat / 1e6
    section.data["beat_share"] = round(share, 4)
    section.row("beats", f"{share:.1%} of a core{' for each worker' * (settings.workers > 1)}")
    if share > _BUSY:
        section.warn(
            "processor",
            f"beats alone take {share:.0%} of a core: raise --interval, or use more --workers with "
            "fewer connections each",
        )


def _check_compression(section: Section, settings: Settings) -> None:
    level = settings.compression_level
    if settings.compression == "off":
        section.data["compression"] = None
        section.row("compression", "off")
        return
    library = "ISA-L" if level in FAST else "zlib"
    section.data["compression"] = {"level": level, "library": library}
    section.row(
        "compression",
        f"level {level} by {library}, of messages from {settings.compression_threshold:,} bytes; "
        "idle connections take nothing for it",
    )
    if level <= FAST_LEVEL and library == "zlib":
        section.note(
            "compression",
            f"zlib takes about {DEFLATE} us of a core for 4 KiB at level {FAST_LEVEL}, and ISA-L "
            "half of that: pip install 'trio-beat[deflate]'",
        )


def available_memory() -> int | None:
    """Bytes that this machine or container has; None: that is not known here."""
    if sys.platform == "win32":
        return None
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (OSError, ValueError):
        return None
    for path in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            found.append(int(Path(path).read_text()))
    return min(found)


def _size(number: float) -> str:
    mib = number / 2**20
    return f"{mib:,.0f} MiB" if mib < _KIB else f"{mib / _KIB:,.1f} GiB"
