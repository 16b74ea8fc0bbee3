"""How ends are reported, and the tree of exceptions."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable

import pytest

import trio_beat
from trio_beat import (
    BackendError,
    Closed,
    ConnectionClosed,
    ConnectionLost,
    EndReason,
    HandshakeRefused,
    HubClosed,
    Refused,
    StartupFailed,
    TLSFailed,
    TrioBeatError,
    UnknownBackend,
    _exceptions,
)


def test_reasons_are_these() -> None:
    assert {str(reason) for reason in EndReason} == {
        "peer",
        "missed-beats",
        "slow",
        "handler",
        "shutdown",
        "protocol-error",
        "too-big",
        "too-fast",
        "inbox-full",
        "refused",
        "backend-lost",
        "expired",
        "disconnected",
        "lost",
        "internal-error",
    }


@pytest.mark.parametrize(
    ("closed", "text"),
    [
        (Closed(EndReason.PEER, 1000, ""), "peer (1000)"),
        (Closed(EndReason.MISSED_BEATS, 1006, "3 in a row"), "missed-beats (1006 '3 in a row')"),
    ],
)
def test_closed_reads_as_reason_code_and_text(closed: Closed, text: str) -> None:
    assert str(closed) == text


def test_connection_closed_says_how_it_ended() -> None:
    closed = Closed(EndReason.SLOW, 1013, "too slow, outbox full")
    exc = ConnectionClosed(closed)
    assert exc.closed is closed
    assert str(exc) == "connection ended by slow (1013 'too slow, outbox full')"


def test_unknown_backend_names_what_is_installed() -> None:
    exc = UnknownBackend("carrier-pigeon://", ["memory", "redis"])
    assert exc.url == "carrier-pigeon://"
    assert exc.known == ["memory", "redis"]
    assert str(exc) == "no backend for 'carrier-pigeon://'; installed are memory://, redis://"


@pytest.mark.parametrize(
    "exc",
    [
        ConnectionLost(Closed(EndReason.LOST, 1006, "reset")),
        TLSFailed("not trusted", untrusted=True),
        HandshakeRefused("rejected", 403, (("x-why", "because"),), b"no"),
        StartupFailed("not started"),
        Refused(403, "no", {"X-Why": "because"}, logged="no, because"),
        HubClosed("ended"),
        UnknownBackend("carrier-pigeon://", ["memory"]),
    ],
    ids=lambda exc: type(exc).__name__,
)
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda exc: pickle.loads(pickle.dumps(exc))]
)
def test_exceptions_can_be_copied_and_pickled(
    exc: TrioBeatError, duplicate: Callable[[TrioBeatError], TrioBeatError]
) -> None:
    exc.add_note("noted")
    other = duplicate(exc)
    assert type(other) is type(exc)
    assert (str(other), other.args, vars(other)) == (str(exc), exc.args, vars(exc))


def drawn_tree() -> dict[str, str | None]:
    """The tree in the module's docstring: each name with the name that it hangs on."""
    parents: dict[str, str | None] = {}
    branch: list[tuple[int, str]] = []
    for line in (_exceptions.__doc__ or "").splitlines():
        match = re.match(r"    [ │├└─]*(\w+)", line)
        if match is None:
            continue
        depth = match.start(1)
        while branch and branch[-1][0] >= depth:
            branch.pop()
        parents[match[1]] = branch[-1][1] if branch else None
        branch.append((depth, match[1]))
    return parents


def test_tree_is_as_drawn() -> None:
    tree = {
        name: next((base.__name__ for base in value.__bases__ if base is not Exception), None)
        for name, value in vars(_exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert drawn_tree() == tree
    assert list(tree) == list(drawn_tree())


def test_every_exception_is_public_and_has_the_root_for_a_base() -> None:
    for name in drawn_tree():
        assert issubclass(getattr(trio_beat, name), TrioBeatError)


def test_unknown_backend_is_caught_as_a_backend_error() -> None:
    with pytest.raises(BackendError, match=r"^no backend for 'x://'; installed are memory://$"):
        raise UnknownBackend("x://", ["memory"])
