"""What a close frame may say."""

from __future__ import annotations

import pytest

from trio_beat._protocol.frames import check_close, forbids


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 5000])
def test_close_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
        check_close(code, "")


def test_close_reasons_are_limited_in_bytes() -> None:
    check_close(1000, "é" * 61 + "x")
    with pytest.raises(ValueError, match="takes 124 bytes"):
        check_close(1000, "é" * 62)


def test_which_codes_forbid_to_come_back() -> None:
    assert [code for code in range(1000, 5000) if forbids(code)] == [1008, *range(4000, 4100)]
