"""Tests for code of your own: a handler without a network, and a backend's contract."""

from __future__ import annotations

from .backend import check_backend
from .cancelling import cancelled_at
from .client_end import SeenClose
from .pair import Pairs, ServeOptions, open_pair, open_pairs
from .peer import Peer, PeerClosed

__all__ = [
    # a handler's tests
    "open_pair",
    "open_pairs",
    "Pairs",
    "Peer",
    "PeerClosed",
    "SeenClose",
    "ServeOptions",
    # a backend's
    "check_backend",
    "cancelled_at",
]
