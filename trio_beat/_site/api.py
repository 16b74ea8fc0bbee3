"""The API of the bundled server: publishing and disconnecting over HTTP, by bearer tokens.

1. Nothing is looked at before the token: without one, an answer tells only that it is missing.
2. A parameter that is not known is refused. One that is misspelt would else be left out, and
   a message to one user would go to all.
3. A message goes to all audiences that are named, or to none: what the token may do is decided
   before the first one.
4. Names of users and keys of sessions are in no log. A key of a session is as good as a password.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .._channels.grammar import AUDIENCES, ChannelError, below, parse_facility
from .._channels.hub import Hub
from .._channels.keys import OPEN, channel_key
from .._exceptions import BackendError
from .._log import get_logger
from .._protocol.messages import Message
from .._text import printable
from .tokens import Allowance, Token, Tokens

_log = get_logger("trio_beat.api")

Endpoint = Callable[[Request], Awaitable[Response]]

PUBLISH: Final = "/api/publish/"
DISCONNECT: Final = "/api/disconnect"
LATER: Final = {"Retry-After": "5"}
#: Audiences of one message.
MOST_AUDIENCES: Final = 100
#: Bytes of a form.
_MOST_FORM: Final = 16_384
_FORM: Final = "application/x-www-form-urlencoded"
_TEXT_TYPES: Final = frozenset(
    {
        "",
        "application/json",
        "application/xml",
        # curl's default; the body is taken as it is.
        _FORM,
    }
)
_DISCONNECT: Final = ("user", "session", "code", "reason", "block")
_CODE: Final = re.compile(r"[0-9]{1,9}")
_SECONDS: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class API:
    """What the API uses.

    Args:
        hub: where it publishes and disconnects.
        tokens: those that it takes.
        max_message_size: most bytes of a published message.

    Attributes:
        answers: how many there were so far, by status.
    """

    hub: Hub
    tokens: Tokens
    max_message_size: int
    answers: Counter[int] = field(default_factory=Counter)


def api_routes(api: API) -> list[Route]:
    """The routes of the API."""
    return [
        Route(PUBLISH + "{facility:path}", _counted(api, _publish(api)), methods=["POST"]),
        Route(DISCONNECT, _counted(api, _disconnect(api)), methods=["POST"]),
    ]


def _counted(api: API, endpoint: Endpoint) -> Endpoint:
    async def counted(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except HTTPException as exc:
            api.answers[exc.status_code] += 1
            raise
        api.answers[response.status_code] += 1
        return response

    return counted


def _publish(api: API) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        token, allowance = _authorize(api, request)
        quoted = below(request.scope["raw_path"].decode("latin-1"), PUBLISH)
        assert quoted is not None
        try:
            facility = parse_facility(quoted)
            keys = _keys(facility, _parameters(request.scope["query_string"], "query"))
        except ChannelError as exc:
            raise HTTPException(exc.status, str(exc)) from exc
        for key, audience in keys.items():
            if not token.may_publish(key):
                text = f"this token may not publish to {audience!r} at {facility!r}"
                raise HTTPException(403, text)
        allowance.take(trio.current_time(), requests=len(keys) - 1)
        body = await _body(request, api.max_message_size, allowance, len(keys))
        message = _message(body, request.headers.get("content-type", ""))
        await _publish_to_each(api.hub, keys, Message(message))
        shown = printable(facility), " ".join(_counts(keys.values()))
        _log.debug("%s published %d bytes at '%s' to %s", token.name, len(body), *shown)
        return Response(status_code=204)

    return endpoint


def _keys(facility: str, parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The keys of the channels that a request names, each with its audience.

    Raises:
        HTTPException, ChannelError: 400; an audience is not known, has no name, or has one that it
            cannot have, or there are too many.
    """
    keys: dict[str, str] = {}
    for audience, name in parameters:
        if audience not in AUDIENCES:
            raise _unknown(audience, AUDIENCES)
        if audience == OPEN and name:
            raise HTTPException(400, f"{OPEN!r} has a value; it is given without one")
        keys[channel_key(audience, facility, None if audience == OPEN else name)] = audience
    if len(keys) > MOST_AUDIENCES:
        text = f"{len(keys)} audiences are named; at most {MOST_AUDIENCES} may be"
        raise HTTPException(400, text)
    return keys or {channel_key(OPEN, facility): OPEN}


def _counts(audiences: Iterable[str]) -> list[str]:
    """How many there are of each audience; their names are not told."""
    return [f"{name}:{count}" for name, count in Counter(audiences).items()]


async def _publish_to_each(hub: Hub, keys: Iterable[str], message: Message) -> None:
    """Publish a message to all channels at the same time: a broker takes them in one go."""
    failed: list[BackendError] = []
    confirmed = 0

    async def publish(key: str) -> None:
        nonlocal confirmed
        try:
            await hub.publish(key, message)
        except BackendError as exc:
            failed.append(exc)
        else:
            confirmed += 1

    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(publish, key)
    if failed:
        some = f" ({confirmed} of {confirmed + len(failed)} audiences have it)" if confirmed else ""
        raise HTTPException(503, f"{failed[0]}{some}, try again later", LATER) from failed[0]


def _disconnect(api: API) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        token, allowance = _authorize(api, request)
        if not token.disconnect:
            raise HTTPException(403, "this token may not disconnect")
        body = await _body(request, _MOST_FORM, allowance)
        parameters = _parameters(request.scope["query_string"], "query")
        if body:
            if _media_type(request.headers.get("content-type", "")) != _FORM:
                text = f"the body is no form; send parameters in the query, or as {_FORM}"
                raise HTTPException(415, text)
            parameters += _parameters(body, "form")
        given = _distinct(parameters)
        try:
            await api.hub.disconnect(
                user=given.get("user"),
                session=given.get("session"),
                code=int(given["code"]),
                reason=given["reason"],
                block=float(given["block"]),
            )
        except ValueError as exc:
            raise HTTPException(400, str(exc)) from exc
        except BackendError as exc:
            raise HTTPException(503, f"{exc}, try again later", LATER) from exc
        kind = "a user" if "user" in given else "a session"
        shown = kind, given["code"], given["block"]
        _log.debug("%s disconnected %s, code %s, blocked for %s s", token.name, *shown)
        return Response(status_code=204)

    return endpoint


def _distinct(parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parameters of an order to disconnect, with defaults for those that are left out.

    Raises:
        HTTPException: 400; one is not known, is there twice, or is no number where it must be.
    """
    given: dict[str, str] = {}
    for name, value in parameters:
        if name not in _DISCONNECT:
            raise _unknown(name, _DISCONNECT)
        if name in given:
            raise HTTPException(400, f"{name!r} is given twice")
        given[name] = value
    given = {"code": "4003", "reason": "disconnected", "block": "0", **given}
    if not _CODE.fullmatch(given["code"]):
        raise HTTPException(400, "'code' is no number; it must be a close code such as 4003")
    if not _SECONDS.fullmatch(given["block"]):
        raise HTTPException(400, "'block' is no number; it must be seconds, such as 60 or 0.5")
    return given


def _authorize(api: API, request: Request) -> tuple[Token, Allowance]:
    """Tell whose request it is, and count it.

    Raises:
        HTTPException: 401 without a token that is known, 429 where it has sent too much.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Headers are bytes, and Starlette shows them as Latin-1.
    token = api.tokens.find(given.strip().encode("latin-1"))
    if token is None or scheme.lower() != "bearer":
        text = "the API needs the header Authorization: Bearer <token>"
        raise HTTPException(401, text, {"WWW-Authenticate": "Bearer"})
    allowance = api.tokens.allowance(token)
    wait = math.ceil(allowance.wait(trio.current_time()))
    if wait:
        text = f"requests or bytes of this token are over its rate, try again in {wait} s"
        raise HTTPException(429, text, {"Retry-After": str(wait)})
    allowance.take(trio.current_time(), requests=1)
    return token, allowance


def _parameters(data: bytes, where: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(data.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as exc:
        raise HTTPException(400, f"the {where} is not UTF-8") from exc


def _unknown(name: str, allowed: Iterable[str]) -> HTTPException:
    return HTTPException(400, f"unknown parameter {name!r}, allowed are {', '.join(allowed)}")


async def _body(request: Request, limit: int, allowance: Allowance, times: int = 1) -> bytes:
    """Read the body.

    Args:
        limit: most bytes of it.
        allowance: pays for them, also where there are too many.
        times: as often as the body will be sent on.

    Raises:
        HTTPException: 413 for a longer one, 400 where it is cut off.
    """
    body = bytearray()
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                allowance.take(trio.current_time(), size=len(chunk) * times)
                if len(body) > limit:
                    raise HTTPException(413, f"the body is over {limit} bytes")
    except ClientDisconnect as exc:
        raise HTTPException(400, "the body ended early") from exc
    return bytes(body)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _message(body: bytes, content_type: str) -> str | bytes:
    """The message as text or binary, by its content type."""
    media_type = _media_type(content_type)
    if media_type not in _TEXT_TYPES and not media_type.startswith("text/"):
        return body
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        text = "message is not UTF-8; for binary send it as application/octet-stream"
        raise HTTPException(400, text) from exc
