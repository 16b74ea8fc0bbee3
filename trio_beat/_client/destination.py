"""Where each attempt of a client goes, and with what: fixed, or asked of the application."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from .._checks import check_async, check_subprotocols
from .address import Address, Headers, check_context, check_headers, make_address

#: The arguments ``url`` and ``headers`` of `connect`.
URL: TypeAlias = str | Callable[[], Awaitable[str]]
RequestHeaders: TypeAlias = Headers | Callable[[], Awaitable[Headers]]


class Destination:
    """The address of each attempt.

    Args:
        url, headers, subprotocols, ssl_context: see `connect`. What is plain is checked here.

    Attributes:
        asked: the callables among the arguments, for people; empty where all of them are plain.

    Raises:
        TypeError: a plain argument is of another type.
        ValueError: a plain argument can never be right.
    """

    def __init__(
        self,
        url: URL,
        headers: RequestHeaders,
        subprotocols: Sequence[str],
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._ask_url = url if callable(url) else None
        self._ask_headers = headers if callable(headers) else None
        pairs = () if callable(headers) else headers
        #: What does not change.
        self._fixed: Address | None = None
        if callable(url):
            check_context(ssl_context)
            self._rest = (
                check_headers(pairs),
                check_subprotocols(subprotocols, secret=True),
                ssl_context,
            )
            # Made once: it reads all certificates.
            self._default_context = functools.cache(ssl.create_default_context)
        else:
            self._fixed = make_address(url, pairs, subprotocols, ssl_context)
        callables = {"url()": self._ask_url, "headers()": self._ask_headers}
        self.asked = " and ".join(name for name, ask in callables.items() if ask is not None)

    @property
    def place(self) -> str | None:
        """Host and port, for people; None: the application is asked for them."""
        return self._fixed.place if self._fixed is not None else None

    async def address(self) -> Address:
        """Ask for what is not plain, and check it.

        Raises:
            TypeError, ValueError: as `make_address` does, or a callable is not an async one.
            Exception: what a callable raises.
        """
        address = self._fixed
        if self._ask_url is not None:
            url = await check_async("url", self._ask_url())
            address = make_address(url, *self._rest, self._default_context)
        assert address is not None
        if self._ask_headers is not None:
            pairs = check_headers(await check_async("headers", self._ask_headers()))
            address = replace(address, headers=pairs)
        return address
