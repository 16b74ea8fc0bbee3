"""Modules import only from below: layers of the package, and modules of a layer.

Imports within functions and under ``TYPE_CHECKING`` count. Layers are packages and flat modules
of `trio_beat`; ``__init__`` is the public entry and stands outside of the order.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

import trio_beat

#: From the top to the bottom. Layers of one row do not import one another.
LAYERS: Final = (
    ("__main__",),
    ("_command",),
    ("_site",),
    ("asgi", "testing", "trio_websocket"),
    ("_client", "_server", "auth"),
    ("_channels",),
    ("backends",),
    ("_connection",),
    ("_transports",),
    ("_protocol",),
    # the ground floor
    ("_metronome", "_observer"),
    ("_heartbeat",),
    ("_summary",),
    ("_log",),
    ("_exceptions", "_identity"),
    ("_checks", "_parking", "_plain", "_rate", "_text", "_turns"),
)
#: The same within each package that has more than four modules.
WITHIN: Final = {
    "auth": (
        ("__init__",),
        ("hook", "jwt"),
        ("exchange",),
        ("answer", "claims", "credentials", "keys", "pause"),
    ),
    "backends": (
        ("redis.__init__",),
        ("redis.backend",),
        ("redis.pubsub", "redis.sentinel"),
        ("redis.opening",),
        ("redis.connection", "redis.locating"),
        ("redis.replies",),
        ("redis.address", "redis.errors", "redis.payload"),
        ("memory",),
        ("__init__",),
    ),
    "asgi": (
        ("__init__",),
        ("making",),
        ("serving",),
        ("answers", "block", "running"),
        ("scopes",),
    ),
    "_channels": (
        ("consumer",),
        ("hub", "permissions"),
        ("control", "members"),
        ("registry",),
        ("availability", "gaps", "keys"),
        ("grammar", "subscriptions"),
    ),
    "_client": (
        ("connect", "reconnecting"),
        ("backoff", "context"),
        ("session",),
        ("consumer", "dial", "options"),
        ("destination", "sockets"),
        ("address", "parts"),
    ),
    "_command": (
        ("main",),
        ("check", "clients", "serve", "token"),
        (
            "checks.access",
            "checks.backend",
            "checks.beats",
            "checks.capacity",
            "checks.certificate",
            "checks.listening",
            "process",
            "supervisor",
        ),
        ("prepared",),
        ("announcement",),
        ("internal", "listening"),
        ("auth", "certificate", "exposure", "tokens", "workers"),
        ("origins",),
        ("logs", "settings", "worker"),
        ("extras", "inherited", "places", "sources"),
        ("arguments", "compressing"),
        ("checks.section", "descriptors", "notify", "signals", "streams", "title"),
        ("checks.__init__",),
    ),
    "_connection": (
        ("handler", "life"),
        ("connection", "consumer", "inbox"),
        ("holding",),
        ("compressing",),
        ("beating",),
        ("ending",),
        ("sending",),
        ("shared",),
        ("expiry", "following", "pacing"),
    ),
    "_protocol": (
        ("extensions",),
        ("client_handshake", "deflate", "events", "handshake", "parser", "refusal", "request"),
        ("offer",),
        ("addresses", "compression", "head", "headers", "masking", "messages", "statuses"),
        ("frames",),
    ),
    "_server": (
        ("server",),
        ("peers",),
        ("accepting", "admission", "http"),
        ("service",),
        ("gate",),
        ("consumers", "disconnects", "origins"),
        ("blocks", "parts", "proxies", "refusals"),
        ("http_pace", "http_protocol", "http_tasks", "lifespan", "endpoints", "pending"),
        ("listeners", "places"),
        ("given", "unix"),
        ("limited", "limits"),
    ),
    "testing": (
        ("__init__",),
        ("backend", "pair"),
        ("outages", "peer"),
        ("calling", "client_end", "lasting"),
        ("delivering",),
        ("hub",),
        ("cancelling", "sentences"),
    ),
    "trio_websocket": (
        ("__init__",),
        ("keeping", "opening"),
        ("service",),
        ("listeners",),
        ("stream",),
        ("sockets",),
        ("lent", "watching"),
        ("clock", "frames", "kernel", "private"),
    ),
    "_transports": (
        ("client",),
        ("asgi", "tls"),
        ("staged",),
        ("tcp", "tls_session"),
        ("kernel", "polling"),
        ("epoll", "framing", "readiness"),
        ("__init__",),
        ("inflating", "outbox", "tcp_info", "unfinished"),
    ),
}

ROOT: Final = Path(trio_beat.__file__).parent


def module_name(path: Path) -> str:
    """A module's name below `trio_beat`; a package's ends in ``__init__``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


SOURCES: Final = {module_name(path): path.read_text("utf-8") for path in ROOT.rglob("*.py")}


def resolve(name: str, modules: Iterable[str]) -> str:
    """The module that is loaded for a dotted name, which may be an attribute of it."""
    parts = name.split(".") if name else []
    while parts:
        for candidate in (".".join(parts), ".".join([*parts, "__init__"])):
            if candidate in modules:
                return candidate
        parts.pop()
    return "__init__"


def imported(name: str, source: str, modules: Iterable[str]) -> Iterator[str]:
    """The modules of this package that a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            names = [n for n in names if n.partition(".")[0] == "trio_beat"]
            yield from (resolve(n.partition(".")[2], modules) for n in names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = name.split(".")[: -node.level]
            elif node.module is not None and node.module.partition(".")[0] == "trio_beat":
                base = []
            else:
                continue
            below = (node.module or "").split(".")[0 if node.level else 1 :]
            parts = [*base, *filter(None, below)]
            yield from (resolve(".".join([*parts, alias.name]), modules) for alias in node.names)


IMPORTS: Final = {name: set(imported(name, SOURCES[name], SOURCES)) for name in SOURCES}


def upward(
    edges: Iterable[tuple[str, str]], order: Iterable[tuple[str, ...]]
) -> Iterator[tuple[str, str]]:
    """The edges that do not go down."""
    rank = {name: row for row, names in enumerate(order) for name in names}
    for importer, target in edges:
        # What has no place is reported by another test; `trio_beat.__init__` has none.
        if not (importer in rank and target in rank and rank[importer] < rank[target]):
            yield importer, target


def layer_edges() -> Iterator[tuple[str, str, str]]:
    """Imports between layers: both layers, and the modules."""
    for name, targets in IMPORTS.items():
        for target in targets:
            layer, other = name.partition(".")[0], target.partition(".")[0]
            if name != "__init__" and layer != other:
                yield layer, other, f"{name} imports {target}"


def edges_within(package: str) -> Iterator[tuple[str, str]]:
    """Imports between modules of a package."""
    prefix = package + "."
    for name, targets in IMPORTS.items():
        for target in targets:
            if name.startswith(prefix) and target.startswith(prefix):
                yield name.removeprefix(prefix), target.removeprefix(prefix)


PACKAGES: Final = sorted({name.partition(".")[0] for name in SOURCES if "." in name})


def modules_of(package: str) -> set[str]:
    """The modules of a package; ``__init__`` only where it is more than a docstring."""
    prefix = package + "."
    names = {name.removeprefix(prefix) for name in SOURCES if name.startswith(prefix)}
    if len(ast.parse(SOURCES[prefix + "__init__"]).body) == 1:
        names.remove("__init__")
    return names


def test_each_layer_has_its_place() -> None:
    there = {name.partition(".")[0] for name in SOURCES} - {"__init__"}
    assert sorted(name for row in LAYERS for name in row) == sorted(there)


def test_layers_import_only_from_below() -> None:
    wrong = set(upward({(layer, other) for layer, other, _ in layer_edges()}, LAYERS))
    assert [text for layer, other, text in layer_edges() if (layer, other) in wrong] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_each_module_of_a_large_package_has_its_place(package: str) -> None:
    modules = modules_of(package)
    order = WITHIN.get(package)
    if order is None:
        assert len(modules) <= 4
    else:
        assert sorted(name for row in order for name in row) == sorted(modules)


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_of_a_package_import_only_from_below(package: str) -> None:
    edges = set(edges_within(package))
    if package in WITHIN:
        assert list(upward(sorted(edges), WITHIN[package])) == []
    graph: dict[str, set[str]] = {}
    for name, target in edges:
        graph.setdefault(name, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail(f"{package}: {' imports '.join(reversed(exc.args[1]))}")


@pytest.mark.parametrize(
    ("statement", "targets"),
    [
        ("from . import beside", {"p.beside"}),
        ("from . import Name", {"p.__init__"}),
        ("from .beside import Name", {"p.beside"}),
        ("from .. import flat, other", {"flat", "other.__init__"}),
        ("from ..other.deep import Name", {"other.deep"}),
        ("from .. import Name", {"__init__"}),
        ("import trio_beat", {"__init__"}),
        ("import trio, trio_beat.other.deep", {"other.deep"}),
        ("from trio_beat import flat, Name", {"flat", "__init__"}),
        ("from trio_beat.other import Name", {"other.__init__"}),
        ("from trio import flat", set()),
        ("def function():\n    from ..flat import Name", {"flat"}),
        ("if TYPE_CHECKING:\n    from ..flat import Name", {"flat"}),
    ],
)
def test_every_kind_of_import_is_found(statement: str, targets: set[str]) -> None:
    modules = ["__init__", "flat", "p.__init__", "p.beside", "other.__init__", "other.deep"]
    assert set(imported("p.one", statement, modules)) == targets


def test_what_goes_up_is_named() -> None:
    order = (("a",), ("b", "c"), ("d",))
    edges = [("a", "d"), ("b", "c"), ("d", "a"), ("b", "d"), ("c", "__init__")]
    assert list(upward(edges, order)) == [("b", "c"), ("d", "a"), ("c", "__init__")]
