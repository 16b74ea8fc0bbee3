"""The options of compression."""

from typing import Any

import pytest

from trio_beat import Compression
from trio_beat._protocol.compression import Counts


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"level": 0}, "level is 0; it must be a whole number of 1 to 9"),
        ({"level": 10}, "level is 10; it must be a whole number of 1 to 9"),
        ({"window_bits": 8}, "window_bits is 8; it must be a whole number of 9 to 15"),
        ({"window_bits": 16}, "window_bits is 16; it must be a whole number of 9 to 15"),
        ({"threshold": -1}, "threshold is -1; it must be 0 or more"),
    ],
)
def test_what_cannot_be_right_is_named_with_what_is_allowed(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is compared
        Compression(**options)
    assert str(raised.value) == text


@pytest.mark.parametrize("name", ["level", "window_bits", "threshold"])
@pytest.mark.parametrize("value", ["6", 6.0, True, None])
def test_options_are_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name} is {value!r}; it must be a whole number"):
        Compression(**{name: value})  # type: ignore[arg-type]


def test_counts_begin_at_zero() -> None:
    counts = Counts()
    counts.declined += 1
    assert counts.statistics()._asdict() == dict.fromkeys(counts.__slots__, 0) | {"declined": 1}
