"""Every document is valid, is linked, and says what it must."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import docutils.core
import docutils.nodes
import pytest

import trio_beat
import trio_beat.testing
from tests.support.command import run_command
from tests.support.documents import DOCS, DOCUMENTS, README, ROOT, document, examples
from trio_beat import EndReason


def _doctree(path: Path) -> docutils.nodes.document:
    # Raises on whatever is not valid.
    return docutils.core.publish_doctree(
        path.read_text(encoding="utf-8"), settings_overrides={"halt_level": 2}
    )


def _links(path: Path) -> set[str]:
    references = _doctree(path).findall(docutils.nodes.reference)
    return {reference["refuri"] for reference in references if "refuri" in reference}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_is_valid(path: Path) -> None:
    _doctree(path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_fits_in_lines(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 500
    # A table of the benchmarks is as wide as it is.
    results = (ROOT / "benchmarks" / "RESULTS.rst").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100 and line not in results] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for link in _links(path):
        parts = urlsplit(link)
        if not parts.scheme:
            assert (path.parent / parts.path).is_file(), link


@pytest.mark.parametrize("check", [["format", "--check"], ["check", "--ignore=T20,SIM105,S110"]])
def test_examples_keep_the_style(check: list[str], tmp_path: Path) -> None:
    for path in DOCUMENTS:
        for number, example in enumerate(examples(path.stem, "python")):
            (tmp_path / f"{path.stem}_{number}.py").write_text(example)
    assert len(list(tmp_path.iterdir())) > 10
    config = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    if "check" in check:  # for a reader all packages are those of others
        config += ["--config", "lint.isort.known-third-party = ['trio_beat', 'my_package']"]
    ruff = [sys.executable, "-m", "ruff", *check, *config, str(tmp_path)]
    ran = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_the_readme_links_to_each() -> None:
    linked = {(README.parent / link).resolve() for link in _links(README)}
    assert set(DOCS.glob("*")) <= linked


def test_distributions_hold_them() -> None:
    # Wheels hold the package, without a pattern that leaves something out; sdists, too.
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert targets["targets"]["wheel"] == {"packages": ["trio_beat"]}
    assert "trio_beat" in targets["targets"]["sdist"]["include"]
    assert not {"exclude", "only-include"} & {*targets, *targets["targets"]["sdist"]}


def test_every_reason_for_an_end_is_explained() -> None:
    for reason in EndReason:
        assert f"\n``{reason}`` " in document("operating")


@pytest.mark.parametrize("failure", trio_beat.ConnectFailed.__subclasses__())
def test_every_reason_why_there_is_no_connection_is_explained(failure: type) -> None:
    for name in failure.__subclasses__() or [failure]:
        assert f"\n``{name.__name__}`` " in document("clients")


@pytest.mark.parametrize("name", [*trio_beat.__all__, *trio_beat.testing.__all__])
def test_every_public_name_is_mentioned(name: str) -> None:
    everything = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert re.search(rf"\b{name}\b", everything)


@functools.cache
def _help(*arguments: str) -> str:
    return run_command(*arguments, "--help").stdout


@pytest.mark.real
@pytest.mark.parametrize(("arguments", "least"), [([], 22), (["listen"], 5), (["publish"], 3)])
def test_every_option_is_explained(arguments: list[str], least: int) -> None:
    shown = _help(*arguments)
    options = set(re.findall(r"--[a-z][a-z-]*", shown)) - {"--heartbeat--"}
    assert len(options) >= least
    for option in options:
        assert re.search(rf"``{option}\b", document("operating")), option


@pytest.mark.real
def test_every_option_of_the_check_is_explained() -> None:
    own = set(re.findall(r"--[a-z][a-z-]*", _help("check"))) - set(
        re.findall(r"--[a-z][a-z-]*", _help())
    )
    assert own == {"--behind", "--idle-timeout", "--json"}
    for option in own:
        assert f"``{option}``" in document("check")


@pytest.mark.real
def test_no_option_is_explained_that_is_not_there() -> None:
    shown = _help() + _help("listen") + _help("publish") + _help("check")
    text = document("operating").partition("What it costs\n")[0]
    for option in set(re.findall(r"(?<!=)--[a-z][a-z-]*\b", text)) - {"--heartbeat--"}:
        assert option in shown
