"""What the broker answers, before a server needs it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.support.broker import Kind, open_broker
from tests.support.checks import found, row
from trio_beat._command.checks import backend
from trio_beat._command.checks.backend import check_backend
from trio_beat._command.checks.section import Section
from trio_beat._command.settings import load_settings


async def checked(*options: str) -> Section:
    return await check_backend(load_settings(options))


async def test_memory_needs_no_broker() -> None:
    section = await checked()
    assert section.data == {"url": "memory://", "software": None, "latency": None}
    assert found(section) == []


async def test_workers_need_a_broker() -> None:
    section = await checked("--workers=2")
    assert found(section) == [("error", "backend")]
    assert section.findings[0].text.startswith("--workers: 2 processes would not hear")


async def test_an_unknown_scheme() -> None:
    section = await checked("--backend=pigeon://:s3cret@loft")
    assert found(section) == [("error", "backend")]
    assert "s3cret" not in str(section)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_broker_tells_what_it_is(kind: Kind) -> None:
    async with open_broker(kind) as broker:
        section = await checked(f"--backend={broker.url}", "--workers=2")
        assert await broker.ask("PUBSUB", "NUMPAT") == 0
        assert await broker.ask("PUBSUB", "CHANNELS") == []
        assert await broker.ask("DBSIZE") == 0
    assert found(section) == []
    assert section.data["software"].startswith(f"{kind} ")
    assert row(section, "broker") == section.data["software"]
    assert 0 < section.data["latency"] < 60


@pytest.mark.real
@pytest.mark.parametrize(
    ("config", "words"),
    [
        (["requirepass right"], "does not accept the user name or the password"),
        (["user default on >s3cret ~* &* +@all -subscribe"], "refuses to subscribe"),
        (["user default on >s3cret ~* &* +@all -eval"], "refuses to tell a last message"),
    ],
)
async def test_one_that_cannot_be_used(config: list[str], words: str) -> None:
    async with open_broker(config=config) as broker:
        section = await checked(f"--backend={broker.url.replace('//', '//:s3cret@')}")
    assert found(section) == [("error", "backend")]
    assert words in section.findings[0].text
    assert "s3cret" not in str(section)


@pytest.mark.real
async def test_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "SLOW", 0.0)
    async with open_broker() as broker:
        section = await checked(f"--backend={broker.url}")
    assert found(section) == [("warning", "backend")]


@pytest.mark.real
async def test_one_that_is_away() -> None:
    async with open_broker() as broker:
        broker.kill()
        section = await checked(f"--backend={broker.url.replace('//', '//:s3cret@')}")
    assert found(section) == [("error", "backend")]
    assert "Connection refused" in section.findings[0].text
    assert "s3cret" not in str(section)


async def test_one_that_does_not_answer(autojump_clock: MockClock) -> None:
    """It has as long as its own timeout, and all of it together ten seconds."""
    for query, seconds, words in (("", 5, "no answer"), ("?timeout=60", 10, "for 10 s")):
        with trio.socket.socket() as deaf:
            await deaf.bind(("127.0.0.1", 0))
            deaf.listen(1)
            begun = trio.current_time()
            section = await checked(f"--backend=redis://127.0.0.1:{deaf.getsockname()[1]}/0{query}")
            assert trio.current_time() - begun == pytest.approx(seconds, abs=1)
        assert found(section) == [("error", "backend")], words
