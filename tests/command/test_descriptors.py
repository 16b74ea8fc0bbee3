"""The limit of file descriptors, as far as the system lets it be raised."""

from __future__ import annotations

import resource
import sys

import pytest

from trio_beat._command.descriptors import raise_descriptor_limit


class TestDescriptors:
    """macOS refuses to have no limit, and Windows has none."""

    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        limits = [(256, resource.RLIM_INFINITY)]

        def set_limit(_: int, limit: tuple[int, int]) -> None:
            if limit[0] == resource.RLIM_INFINITY or limit[0] > 10_000:
                raise ValueError
            limits.append(limit)

        monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
        monkeypatch.setattr(resource, "setrlimit", set_limit)
        return limits

    def test_as_many_as_are_needed(
        self, limit: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
    ) -> None:
        raise_descriptor_limit(5000)
        assert limit[-1] == (5064, resource.RLIM_INFINITY)
        assert not caplog.records

    def test_too_many(self, limit: list[tuple[int, int]], caplog: pytest.LogCaptureFixture) -> None:
        raise_descriptor_limit(20_000)
        assert limit[-1] == (256, resource.RLIM_INFINITY)
        assert "limited to 256 (ulimit -n), too few for 20000 peers" in caplog.text

    def test_windows_has_no_such_limit(
        self, limit: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        raise_descriptor_limit(20_000)
        assert len(limit) == 1
