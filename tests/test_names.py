"""Tests use public names, or those of what they mirror.

1. A test module imports `trio_beat`, `trio_beat.testing`, `trio_beat.backends`, and the package or
   the flat module that it mirrors: ``tests/server/test_drain.py`` that of ``trio_beat._server``.
2. Private names (``_x``) it uses only of the module that it mirrors: ``test_http_pace.py`` of
   ``http_pace``, and of ``http``.

`tests.support` is where inner parts are put together, and may use what it likes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import trio_beat

TESTS: Final = Path(__file__).parent
PACKAGE: Final = Path(trio_beat.__file__).parent
#: Those of the benchmarks look into the benchmarks.
MODULES: Final = sorted(
    path.relative_to(TESTS).as_posix()
    for path in TESTS.rglob("test_*.py")
    if path.parent.name != "benchmarks"
)
#: Public all the same (`collections.namedtuple`).
NAMED_TUPLE: Final = {"_asdict", "_fields", "_make", "_replace"}


def mirrored(module: str) -> set[Path]:
    """The modules whose private names a test module may use."""
    path = Path(module)
    stem = path.stem.removeprefix("test_")
    directory = PACKAGE
    if path.parent.name:
        directory /= f"_{path.parent.name}"
        if not directory.exists():
            directory = PACKAGE / path.parent.name
    return {
        source
        for source in directory.glob("*.py")
        for name in [source.stem.lstrip("_")]
        if stem == name or stem.startswith(f"{name}_")
    }


def is_allowed(name: str, module: str) -> bool:
    """Whether a test module may import a dotted name."""
    top = name.split(".")[1:2]
    if not top or not top[0].startswith("_"):
        return True
    path = Path(module)
    if path.parent.name:
        return top[0] == f"_{path.parent.name}"
    return PACKAGE / f"{top[0]}.py" in mirrored(module)


def imported(tree: ast.Module) -> Iterator[str]:
    """The dotted names of this package that are imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] == "trio_beat")
        elif isinstance(node, ast.ImportFrom):
            base = "" if node.level or node.module is None else node.module
            if base.partition(".")[0] == "trio_beat":
                yield from (f"{base}.{alias.name}" for alias in node.names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NAMED_TUPLE | {"_"}


def defined(tree: ast.Module) -> set[str]:
    """The private names that a module gives to its own: functions, classes, attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return set(filter(is_private, names))


def used(tree: ast.Module) -> set[str]:
    """The private names of others that a module uses."""
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {name.rpartition(".")[2] for name in imported(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            # What `getattr` and `monkeypatch.setattr` are given.
            names.add(node.value)
    return set(filter(is_private, names))


SOURCES: Final = {path: ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
FILES: Final = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
OURS: Final = {name for tree in SOURCES.values() for name in defined(tree)}


def tree_of(module: str) -> ast.Module:
    return ast.parse((TESTS / module).read_text("utf-8"))


def wrong_imports(module: str) -> list[str]:
    return sorted({n for n in imported(tree_of(module)) if not is_allowed(n, module)})


def wrong_names(module: str) -> list[str]:
    tree = tree_of(module)
    own = {name for path in mirrored(module) for name in defined(SOURCES[path])}
    return sorted((used(tree) & OURS) - own - defined(tree) - FILES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_what_is_public_or_mirrored(module: str) -> None:
    assert wrong_imports(module) == []


@pytest.mark.parametrize("module", MODULES)
def test_uses_private_names_of_what_it_mirrors_only(module: str) -> None:
    assert wrong_names(module) == []


@pytest.mark.parametrize(
    ("name", "module", "allowed"),
    [
        ("trio_beat", "test_log.py", True),
        ("trio_beat.Heartbeat", "test_log.py", True),
        ("trio_beat.backends.memory.MemoryBackend", "server/test_drain.py", True),
        ("trio_beat._log.get_logger", "test_log.py", True),
        ("trio_beat._log.get_logger", "test_summary.py", False),
        ("trio_beat._server.pending.LINGER", "server/test_drain.py", True),
        ("trio_beat._turns.Turns", "server/test_drain.py", False),
        ("trio_beat._server.server", "test_log.py", False),
    ],
)
def test_what_may_be_imported(name: str, module: str, allowed: bool) -> None:
    assert is_allowed(name, module) == allowed


def test_a_module_mirrors_those_whose_names_begin_its_own() -> None:
    def names(module: str) -> set[str]:
        return {path.relative_to(PACKAGE).as_posix() for path in mirrored(module)}

    assert names("server/test_http_pace.py") == {"_server/http.py", "_server/http_pace.py"}
    assert names("backends/test_memory.py") == {"backends/memory.py"}
    assert names("test_turns.py") == {"_turns.py"}
    assert names("test_readme.py") == set()


def test_private_names_are_found_wherever_they_stand() -> None:
    tree = ast.parse("from trio_beat._log import _a\nx._b.c\nf(x, '_c')\n_d = x.__e__ + x._asdict")
    assert used(tree) == {"_a", "_b", "_c"}
    assert defined(ast.parse("_a = 1\nx._b = 2\ndef _c(): pass\nclass _D: pass")) == {
        *("_a", "_b", "_c", "_D")
    }
