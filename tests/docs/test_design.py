"""What the documentation says of the code is so: packages, files, and names in them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import trio_beat
from tests.support.documents import DOCUMENTS, ROOT, document

_PACKAGE = Path(trio_beat.__file__).parent
_REFERENCE = re.compile(r"((?:\w+/)*\w+\.py)(?:: (\w+(?:\.\w+)*))?(?![\w/])")


def _references() -> list[tuple[str, str]]:
    found = set()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        # One may be broken at the end of a line.
        for quoted in re.findall(r"``([^`]+)``", text):
            if match := _REFERENCE.fullmatch(re.sub(r"\s+", " ", quoted)):
                found.add((match[1], match[2] or ""))
    return sorted(found)


def _names(tree: ast.AST) -> dict[str, ast.AST]:
    names: dict[str, ast.AST] = {}
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names[node.name] = node
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                names[name] = node
    return names


def test_there_are_references() -> None:
    assert len(_references()) > 40


@pytest.mark.parametrize(("path", "name"), _references())
def test_what_is_named_exists(path: str, name: str) -> None:
    file = (ROOT if path.startswith("tests/") else _PACKAGE) / path
    node: ast.AST = ast.parse(file.read_text(encoding="utf-8"))
    for part in filter(None, name.split(".")):
        node = _names(node)[part]


def test_every_package_has_its_line() -> None:
    (listing,) = re.findall(
        r"::\n\n((?:    \S+ .+\n)+)", document("design").partition("One conn")[0]
    )
    listed = [line.split()[0].rstrip("/") for line in listing.splitlines()]
    there = {path.name for path in _PACKAGE.iterdir() if path.name != "__pycache__"}
    assert sorted(listed) == sorted(there)
    for line in listing.splitlines():
        name = line.split()[0]
        assert name.endswith("/") == (_PACKAGE / name).is_dir()


@pytest.mark.parametrize("package", ["_channels", "backends/redis"])
def test_every_module_of_the_hub_and_its_broker_has_its_line(package: str) -> None:
    (listing,) = re.findall(
        rf"^    {package}/\n((?:      \S+ .+\n)+)", document("design"), re.MULTILINE
    )
    listed = [line.split()[0] for line in listing.splitlines()]
    there = {path.name for path in (_PACKAGE / package).glob("*.py")} - {"__init__.py"}
    assert sorted(listed) == sorted(there)


def test_the_heart_is_where_it_says() -> None:
    (path, name) = re.findall(
        r"^    (\S+\.py): (\S+) +one nursery", document("design"), re.MULTILINE
    )[0]
    assert (path, name) in _references()
