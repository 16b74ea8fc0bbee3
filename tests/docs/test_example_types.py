"""Strict type checkers pass on every example in Python, as users of them would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.documents import DOCUMENTS, ROOT, examples
from tests.support.programs import missing

_PYRIGHT: Final = ROOT / ".venv-node" / "node_modules" / ".bin" / "pyright"
#: Packages without types: what is wrong there is not said of the examples.
_UNTYPED: Final = ("django", "ws4redis", "my_package")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them."""
    folder = tmp_path_factory.mktemp("examples")
    for path in DOCUMENTS:
        for number, example in enumerate(examples(path.stem, "python")):
            name = path.stem.replace("-", "_")
            (folder / f"{name}_{number}.py").write_text(example)
    assert len(list(folder.iterdir())) > 20
    # The module that another example imports.
    (folder / "my_app.py").write_text(examples("asgi", "python")[1])
    return folder


def _run(*command: str | Path, folder: Path) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.real
@pytest.mark.slow
def test_mypy(written: Path) -> None:
    lines = ["[mypy]", "strict = True"]
    for package in _UNTYPED:
        lines += [f"[mypy-{package},{package}.*]", "ignore_missing_imports = True"]
    config = written / "mypy.ini"
    config.write_text("\n".join(lines))
    _run(sys.executable, "-m", "mypy", "--config-file", config, *written.glob("*.py"), folder=ROOT)


@pytest.mark.real
@pytest.mark.slow
def test_pyright(written: Path) -> None:
    if not _PYRIGHT.exists():
        missing("pyright is not installed, tests/run does that")
    typed = [
        path
        for path in sorted(written.glob("*.py"))
        if not any(f"from {package}" in path.read_text() for package in _UNTYPED)
    ]
    assert len(typed) > 20
    _run(_PYRIGHT, "--pythonpath", sys.executable, *typed, folder=written)
