"""Tests for a backend of your own: does it keep the contract?"""

from __future__ import annotations

from .backend import check_backend
from .cancelling import cancelled_at

__all__ = ["check_backend", "cancelled_at"]
