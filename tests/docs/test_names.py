"""The page of names has each public one once, and no other."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import trio_beat
from tests.support.documents import document
from tests.test_public import PACKAGES


def _packages() -> list[str]:
    """The packages from which a program imports names."""
    found = pkgutil.walk_packages(trio_beat.__path__, "trio_beat.")
    public = [package.name for package in found if not re.search(r"\._", package.name)]
    return [
        name
        for name in ["trio_beat", *public]
        if name != "trio_beat.__main__" and hasattr(importlib.import_module(name), "__all__")
    ]


def _shown() -> dict[str, list[str]]:
    """The names of the page, by the package under whose title they stand."""
    titles = re.split(r"\n(trio_beat[\w.]*)\n=+\n", document("names"))
    return {
        package: [
            name
            for terms in re.findall(r"^``.*$", text, re.MULTILINE)
            for name in re.findall(r"``(\w+)``", terms)
        ]
        for package, text in zip(titles[1::2], titles[2::2], strict=True)
    }


def test_it_has_all_packages() -> None:
    assert set(_shown()) == set(_packages())
    assert set(_packages()) == {package.__name__ for package in PACKAGES}


@pytest.mark.parametrize("package", _packages())
def test_it_has_the_names_of(package: str) -> None:
    assert sorted(_shown()[package]) == sorted(importlib.import_module(package).__all__)
