"""The conformance suite of backends: all conditions, one after the other."""

from __future__ import annotations

from .._checks import check_trio
from .calling import (
    check_cancellation,
    check_concurrency,
    check_hubs,
    check_leaving,
    check_waiting,
)
from .delivering import (
    check_batches,
    check_delivery,
    check_equal,
    check_foreign,
    check_messages,
    check_names,
    check_refused,
)
from .hub import Foreign, Make, Outage
from .lasting import check_joining, check_last
from .outages import check_outages


async def check_backend(
    make: Make,
    *,
    shared: bool = False,
    foreign: Foreign | None = None,
    refused: str | None = None,
    outage: Outage | None = None,
    within: float = 10.0,
) -> None:
    """Check that a backend keeps the contract that is written at `trio_beat.backends.Backend`.

    It may run on a virtual clock where the backend uses nothing outside of the process. On a
    real one it takes some seconds, most of them to see that what should not come does not come, and
    some more for each outage. Channels have names that are used for nothing else, save `refused`.

    For example, with pytest-trio::

        async def test_it_keeps_the_contract(autojump_clock):
            await trio_beat.testing.check_backend(PigeonBackend)

    Args:
        make: makes a backend; called many times, for one object each.
        shared: what is published with one of those objects reaches the others, as with a broker
            that is a process of its own: then what goes between hubs is checked as well.
        foreign: publishes bytes to a channel at the broker, in whatever way others do. They are
            expected as a text where they are UTF-8, else as binary. None: no other can publish.
        refused: a channel that the broker refuses to this backend; None: there is none.
        outage: makes a context in which the broker is away: it does not answer, or cannot be
            reached. Used some ten times, one after the other. None: what happens then is not
            checked.
        within: seconds in which a call ends, and an outage is told, while the broker is away.

    Raises:
        AssertionError: it does not; the message quotes the sentence of the contract that is
            broken, and says what was seen.
    """
    check_trio()
    await check_delivery(make)
    await check_last(make)
    await check_names(make)
    await check_messages(make)
    await check_equal(make)
    await check_concurrency(make)
    await check_waiting(make)
    await check_batches(make)
    await check_joining(make, shared=shared)
    await check_cancellation(make)
    await check_leaving(make)
    if shared:
        await check_hubs(make)
    if refused is not None:
        await check_refused(make, refused)
    if foreign is not None:
        await check_foreign(make, foreign)
    if outage is not None:
        await check_outages(make, outage, within, shared=shared, foreign=foreign)
