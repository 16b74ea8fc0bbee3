"""The package's loggers."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from trio_beat import EndReason, connect
from trio_beat._log import get_logger

from .support.peer import dial
from .support.serving import ask, deserted, serving

#: What would pass for a record of its own, and what would command a terminal.
FORGED = "a\r\n2026-01-01 ERROR forged\x1b[2J\x9b\u2028\u202e"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What an application with a plain handler of its own would write."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("trio_beat")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def lines(log: io.StringIO) -> list[str]:
    return re.split("[\r\n\x85\u2028]", log.getvalue())[:-1]


def test_arguments_are_escaped(log: io.StringIO) -> None:
    get_logger("trio_beat.test").error("%s said %d, %r", FORGED, 1, FORGED)
    (line,) = lines(log)
    assert line.startswith(r"ERROR a\r\n2026-01-01 ERROR forged\x1b[2J\x9b\u2028\u202e said 1, 'a")
    assert line.isprintable()


def test_message_without_arguments_is_escaped(log: io.StringIO) -> None:
    get_logger("trio_beat.test").error(FORGED + " 100 %")
    (line,) = lines(log)
    assert line.isprintable()
    assert line.endswith(" 100 %")


def test_fields_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("trio_beat.test").error("x", extra={"path": FORGED, "code": 1000})
    (record,) = caplog.records
    assert vars(record)["path"].isprintable()
    assert vars(record)["code"] == 1000


def test_traceback_cannot_forge_a_record(
    log: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    logger = get_logger("trio_beat.test")
    try:
        try:
            raise KeyError(FORGED)
        except KeyError as exc:
            raise ExceptionGroup(FORGED, [ValueError(FORGED)]) from exc
    except ExceptionGroup:
        logger.exception("failed: %s", FORGED)
    first, *rest = lines(log)
    assert first.startswith("ERROR failed")
    assert any("test_log.py" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    # Handlers that report exceptions in their own way still can.
    (record,) = caplog.records
    assert record.exc_info is not None


def test_argument_that_cannot_be_shown_raises_nothing(log: io.StringIO) -> None:
    class Broken:
        def __str__(self) -> str:
            raise KeyError

    get_logger("trio_beat.test").error("it is %s", Broken())
    get_logger("trio_beat.test").error("it is %d", "one")
    assert lines(log) == [
        "ERROR it is %s (cannot be shown: KeyError)",
        "ERROR it is %d (cannot be shown: TypeError)",
    ]


def test_every_module_of_the_package_gets_its_logger_here() -> None:
    package = Path(__file__).parent.parent / "trio_beat"
    elsewhere = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"logging\.getLogger\(\"trio_beat", path.read_text(encoding="utf-8"))
    ]
    assert elsewhere == []


async def test_header_of_a_refused_request_is_not_told(
    log: io.StringIO, patient_clock: trio.testing.MockClock
) -> None:
    request = b"GET /ws/news HTTP/1.1\r\nHost: x\r\nX: a\r2026-01-01 forged\x1b[2J\x9b\r\n\r\n"
    async with serving() as server:
        await ask(server.port, request)
        await deserted(server)
    refused = [line for line in lines(log) if "refused: 400" in line]
    assert len(refused) == 1
    assert "forged" not in refused[0]
    assert all(line.isprintable() and line.startswith("INFO ") for line in lines(log))


@pytest.mark.parametrize(
    "line",
    [
        "GET /ws/news?token=s3cret HTTP/1.1",
        "GET http://user:s3cret@host/ws/news?token=s3cret HTTP/1.1",
        "GET /ws/news?token=s3cret HTTP/1.9",
        "GET /ws/news?token=s3cret\x01 HTTP/1.1",
        "GET /other?token=s3cret HTTP/1.1",
        "GET /ws/news?subscribe-x=s3cret HTTP/1.1",
    ],
)
async def test_refused_request_is_logged_without_its_query(
    line: str, caplog: pytest.LogCaptureFixture, patient_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")
    async with serving() as server:
        await ask(server.port, line.encode() + b"\r\nHost: x\r\n\r\n")
        await deserted(server)
    assert " refused: " in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "header",
    [
        "Sec-WebSocket-Key: s3cret",
        "Sec-WebSocket-Protocol: s3cret, b c",
        "Sec-WebSocket-Version: s3cret",
        "Authorization Bearer s3cret",
        "Authorization: Bearer s3cret\x01",
        'Connection: "s3cret',
    ],
)
async def test_no_header_s_value_is_logged_at_any_level(
    header: str, caplog: pytest.LogCaptureFixture, patient_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG)  # of other packages, too
    given = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    name, _, value = header.partition(": ")
    given[name] = value
    lines = [f"{name}: {value}" if value else name for name, value in given.items()]
    async with serving() as server:
        request = "\r\n".join(["GET /ws/news HTTP/1.1", *lines, "", ""])
        await ask(server.port, request.encode())
        await deserted(server)
    assert " refused: " in caplog.text
    assert "s3cret" not in caplog.text


async def test_end_is_logged_without_the_query(
    caplog: pytest.LogCaptureFixture, patient_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG, "trio_beat")
    async with serving() as server:
        peer = await dial(server.port, "/ws/news?token=s3cret&subscribe-broadcast")
        await peer.aclose()
        await deserted(server)
        url = f"ws://user:s3cret@127.0.0.1:{server.port}/ws/news?token=s3cret"
        async with connect(url) as connection:
            # The application may well know.
            assert connection.path == "/ws/news?token=s3cret"
        await deserted(server)
    ended = [record for record in caplog.records if "ended: " in record.getMessage()]
    assert {vars(record)["path"] for record in ended} == {"/ws/news"}
    assert {vars(record)["by"] for record in ended} == {EndReason.PEER, EndReason.HANDLER}
    assert all(" /ws/news ended: " in record.getMessage() for record in ended)
    assert "s3cret" not in caplog.text
