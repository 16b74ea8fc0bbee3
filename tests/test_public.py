"""The public names: which they are, that all are documented, and what importing them loads."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator

import pytest

import trio_beat
import trio_beat.asgi
import trio_beat.auth
import trio_beat.backends
import trio_beat.backends.redis
import trio_beat.testing
import trio_beat.trio_websocket

#: What a program imports from, see the page of names.
PACKAGES = (
    trio_beat,
    trio_beat.asgi,
    trio_beat.auth,
    trio_beat.backends,
    trio_beat.backends.redis,
    trio_beat.testing,
    trio_beat.trio_websocket,
)


def exported_names() -> Iterator[tuple[str, object]]:
    for package in PACKAGES:
        for name in package.__all__:
            prefix = package.__name__.removeprefix("trio_beat").removeprefix(".")
            yield f"{prefix}.{name}".removeprefix("."), getattr(package, name)


def public_functions() -> Iterator[tuple[str, types.FunctionType, str | None]]:
    """Exported functions, and the public methods of exported classes, with their docstrings."""
    for name, exported in exported_names():
        if inspect.isfunction(exported):
            yield name, exported, exported.__doc__
        elif inspect.isclass(exported):
            for attribute, value in vars(exported).items():
                function = value.fget if isinstance(value, property) else value
                if isinstance(function, classmethod | staticmethod):
                    function = function.__func__
                if inspect.isfunction(function) and not attribute.startswith("_"):
                    # A method that a contract explains need not say it again.
                    docstring = inspect.getdoc(getattr(exported, attribute))
                    yield f"{name}.{attribute}", function, docstring


EXPORTED = dict(exported_names())
FUNCTIONS = {name: (function, docstring) for name, function, docstring in public_functions()}
CLASSES = {name: exported for name, exported in EXPORTED.items() if inspect.isclass(exported)}


def arguments(function: object) -> list[str]:
    assert callable(function)
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def not_named(names: list[str], docstring: str | None) -> list[str]:
    return [name for name in names if not re.search(rf"\b{name}\b", docstring or "")]


def test_exported_names_are_those_of_all() -> None:
    exported = {
        name
        for name in dir(trio_beat)
        if not name.startswith("_") and not isinstance(getattr(trio_beat, name), types.ModuleType)
    }
    assert exported == set(trio_beat.__all__)
    assert len(trio_beat.__all__) == len(exported)


@pytest.mark.parametrize("name", [*CLASSES, *(name for name in FUNCTIONS if name in EXPORTED)])
def test_every_public_name_has_a_docstring(name: str) -> None:
    docstring = EXPORTED[name].__doc__
    assert docstring
    # Dataclasses and named tuples without one get their signature.
    assert not docstring.startswith(f"{name.rpartition('.')[2]}(")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_names_its_arguments_in_its_docstring(name: str) -> None:
    function, docstring = FUNCTIONS[name]
    assert docstring
    assert not_named(arguments(function), docstring) == []


@pytest.mark.parametrize("name", CLASSES)
def test_class_that_documents_its_arguments_names_all_of_them(name: str) -> None:
    exported = CLASSES[name]
    documented = (exported.__doc__ or "").partition("Args:\n")[2]
    assert not documented or not_named(arguments(exported), documented) == []


def test_both_functions_and_methods_were_looked_at() -> None:
    assert {"serve", "open_hub", "Connection.send", "Connection.peer", "Hub.publish"} <= set(
        FUNCTIONS
    )
    assert {"testing.open_pair", "testing.Pairs.connect", "asgi.application"} <= set(FUNCTIONS)


#: What only an ASGI application, the bundled server or a client needs.
UNNEEDED = {
    *("hypercorn", "h2", "hpack", "hyperframe", "priority", "h11", "wsproto", "trio_websocket"),
    *(
        "pytest",
        "starlette",
        "anyio",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "pythonjsonlogger",
    ),
}
_LOADED = f"""
import sys
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {UNNEEDED}))
"""
_SERVES = r"""
import trio, trio_beat

async def handler(connection):
    await connection.send("hello")

async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_beat.serve, handler, 0)
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            received = b""
            while b"hello" not in received:
                received += await stream.receive_some()
        nursery.cancel_scope.cancel()

trio.run(main)
"""
_FAILS = """
import trio_beat
try:
    trio_beat.no_such_name
except AttributeError as exc:
    print(exc)
"""


#: Messages of both kinds beside a text heartbeat, and one for a key.
_TAKES_BOTH_KINDS = """
import trio
from trio_beat import Heartbeat, Message, connect, serve

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main():
    beat = Heartbeat(message="--heartbeat--")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(lambda **status: serve(echo, 0, heartbeat=beat, **status))
        async with connect(f"ws://127.0.0.1:{server.port}/ws/x", heartbeat=beat) as connection:
            for payload in ("both", b"both"):
                await connection.send(payload)
                print(repr(await connection.receive()))
        server.drain()
    print(len({Message("both"), Message(b"both")}))

trio.run(main)
"""


def run(program: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("program", "loaded"),
    [
        ("import trio_beat", ""),
        ("import trio_beat, trio_beat.testing, trio_beat.backends.memory", ""),
        (_SERVES, ""),
        ("from trio_beat import connect, reconnecting", "h11"),
        ("import trio_beat; trio_beat.connect", "h11"),
    ],
    ids=["import", "testing", "serve", "from", "attribute"],
)
def test_only_what_is_used_is_loaded(program: str, loaded: str) -> None:
    assert run(program + "\n" + _LOADED) == loaded + "\n"


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    assert run(_FAILS) == "module 'trio_beat' has no attribute 'no_such_name'\n"


def test_bytes_are_not_compared_with_texts() -> None:
    """For an application that is run with ``-bb``, which makes it an error."""
    assert run(_TAKES_BOTH_KINDS, "-bb") == "'both'\nb'both'\n2\n"
