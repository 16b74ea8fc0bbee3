"""The public door: what it exports, and that all of it is documented."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator

import pytest

import trio_beat


def public_functions() -> Iterator[tuple[str, types.FunctionType]]:
    """Exported functions, and the public methods of exported classes."""
    for name in trio_beat.__all__:
        exported = getattr(trio_beat, name)
        if inspect.isfunction(exported):
            yield name, exported
        elif inspect.isclass(exported):
            for attribute, value in vars(exported).items():
                function = value.fget if isinstance(value, property) else value
                if isinstance(function, classmethod | staticmethod):
                    function = function.__func__
                if inspect.isfunction(function) and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", function


FUNCTIONS = dict(public_functions())
CLASSES = [name for name in trio_beat.__all__ if inspect.isclass(getattr(trio_beat, name))]


def arguments(function: object) -> list[str]:
    assert callable(function)
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def not_named(names: list[str], docstring: str | None) -> list[str]:
    return [name for name in names if not re.search(rf"\b{name}\b", docstring or "")]


def test_exported_names_are_those_of_all() -> None:
    exported = {
        name
        for name, value in vars(trio_beat).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert exported == set(trio_beat.__all__)
    assert len(trio_beat.__all__) == len(exported)


@pytest.mark.parametrize("name", trio_beat.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    docstring = getattr(trio_beat, name).__doc__
    assert docstring
    # Dataclasses and named tuples without one get their signature.
    assert not docstring.startswith(f"{name}(")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_names_its_arguments_in_its_docstring(name: str) -> None:
    docstring = FUNCTIONS[name].__doc__
    assert docstring
    assert not_named(arguments(FUNCTIONS[name]), docstring) == []


@pytest.mark.parametrize("name", CLASSES)
def test_class_that_documents_its_arguments_names_all_of_them(name: str) -> None:
    exported = getattr(trio_beat, name)
    documented = (exported.__doc__ or "").partition("Args:\n")[2]
    assert not documented or not_named(arguments(exported), documented) == []


def test_both_functions_and_methods_were_looked_at() -> None:
    assert {"serve", "open_hub", "Connection.send", "Connection.peer", "Hub.publish"} <= set(
        FUNCTIONS
    )
