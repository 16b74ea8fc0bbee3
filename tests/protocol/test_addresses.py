from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_beat._protocol.addresses import Address, read_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("1.2.3.4:5", "1.2.3.4"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::1]:65535", "::1"),
        ("1::2:3", "1::2:3"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("[::ffff:102:304]:5", "1.2.3.4"),
        ("::ffff:1.2.3.4%0", "1.2.3.4"),
        # not mapped, but of IPv6
        ("::1.2.3.4", "::102:304"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
    ],
)
def test_an_address_is_read(text: str, address: str) -> None:
    assert str(read_address(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "unknown",
        "_hidden",
        "local",
        "unix:",
        "localhost",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:x",
        "1.2.3.4:123456",
        "1.2.3.4%eth0",
        "1.2.3.4 ",
        "1.2.3.4\n",
        "1.2.3.4/8",
        "[1.2.3.4]:5",
        "[1.2.3.4]",
        "[::1",
        "::1]",
        "[[::1]]",
        "[::1]:",
        "[::1]5",
        "[::1]:5:6",
        "[]:5",
        "[%]",
        ":::",
        '"[::1]:5"',
        "for=1.2.3.4",
        "\xb9.2.3.4",
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert read_address(text) is None


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    address = read_address(text)
    assert address is None or read_address(str(address)) == address


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_the_same_with_a_port(address: Address, port: int) -> None:
    bare = read_address(str(address))
    host = f"[{address}]" if address.version == 6 else str(address)
    assert bare is not None
    assert bare == read_address(f"{host}:{port}")
    assert bare.version == 4 or bare == address
