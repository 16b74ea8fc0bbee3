"""What becomes of what an application's `admit` raises."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from trio_beat import Refused
from trio_beat._server.gate import asked

PEER = "192.0.2.1:5"


async def failing(exc: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise exc


def group(*excs: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("several", excs)


async def test_a_refusal_may_come_out_of_a_nursery() -> None:
    refused = Refused(403, "no")
    with pytest.raises(Refused) as caught:
        await asked(partial(failing, group(group(refused))), "admit", PEER)
    assert caught.value is refused


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x"),
        group(ValueError("x")),
        group(Refused(403, "no"), ValueError("x")),
        group(Refused(403, "no"), Refused(404, "no")),
    ],
)
async def test_what_is_no_refusal_is_500(
    exc: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Refused) as caught:
        await asked(partial(failing, exc), "admit", PEER)
    assert caught.value.status == 500
    assert caught.value.__cause__ is None
    [record] = caplog.records
    assert record.getMessage() == "192.0.2.1:5 admit failed"


@pytest.mark.parametrize("leaving", [KeyboardInterrupt(), SystemExit(1), group(SystemExit(1))])
async def test_an_exit_goes_on(leaving: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(type(leaving)):
        await asked(partial(failing, leaving), "admit", PEER)
    assert caplog.records == []


async def test_an_exit_goes_on_and_what_failed_besides_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.RaisesGroup(SystemExit):
        await asked(partial(failing, group(SystemExit(1), ValueError("x"))), "admit", PEER)
    assert "ValueError: x" in caplog.text


async def test_a_cancellation_goes_on_and_what_failed_besides_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def admit() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("x")

    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Refused):
            await asked(admit, "admit", PEER)
    assert "ValueError: x" in caplog.text
