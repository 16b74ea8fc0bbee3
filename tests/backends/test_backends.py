from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from trio_beat import BackendError, UnknownBackend, open_hub
from trio_beat.backends import backend_from_url

PIGEON = """
from trio_beat.backends.memory import MemoryBackend


class PigeonBackend(MemoryBackend):
    @classmethod
    def from_url(cls, url):
        if url.hostname != "loft":
            raise ValueError(f"pigeons live in a loft, not in {url.hostname}")
        return cls(7)
"""


@pytest.fixture
def pigeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another distribution that provides a backend, as an installer would leave it."""
    (tmp_path / "pigeon_post.py").write_text(PIGEON)
    info = tmp_path / "pigeon_post-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon-post\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[trio_beat.backends]\n"
        "carrier-pigeon = pigeon_post:PigeonBackend\n"
        "owl = pigeon_post_owls:OwlBackend\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pigeon_post", raising=False)


@pytest.mark.usefixtures("pigeon")
async def test_a_backend_of_another_distribution_is_found() -> None:
    backend = backend_from_url("carrier-pigeon://loft")
    assert type(backend).__name__ == "PigeonBackend"
    async with open_hub("carrier-pigeon://loft") as hub:
        await hub.publish("news", "coo")
        assert hub.statistics().published == 1


@pytest.mark.usefixtures("pigeon")
def test_a_url_that_the_backend_refuses() -> None:
    with pytest.raises(BackendError, match="'carrier-pigeon://mews': pigeons live in a loft") as e:
        backend_from_url("carrier-pigeon://mews")
    assert isinstance(e.value.__cause__, ValueError)


@pytest.mark.usefixtures("pigeon")
def test_a_backend_that_cannot_be_imported() -> None:
    with pytest.raises(
        BackendError, match=r"owl:// cannot be imported.*pigeon_post_owls"
    ) as caught:
        backend_from_url("owl://")
    assert not isinstance(caught.value, UnknownBackend)
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.usefixtures("pigeon")
def test_an_unknown_scheme_tells_what_there_is() -> None:
    with pytest.raises(UnknownBackend) as caught:
        backend_from_url("raven://tower")
    assert caught.value.url == "raven://tower"
    assert {"carrier-pigeon", "memory", "owl"} <= set(caught.value.known)
    assert caught.value.known == sorted(caught.value.known)
    assert "carrier-pigeon://, memory://, owl://" in str(caught.value)


def test_what_another_distribution_provides_goes_with_it() -> None:
    with pytest.raises(UnknownBackend):
        backend_from_url("carrier-pigeon://loft")


@pytest.mark.parametrize("url", ["", "memory", "//localhost", "localhost:6379", "MEMORY"])
def test_no_scheme_that_is_known(url: str) -> None:
    with pytest.raises(UnknownBackend) as caught:
        backend_from_url(url)
    assert repr(url) in str(caught.value)


def test_a_scheme_is_written_in_any_case() -> None:
    assert type(backend_from_url("Memory://")) is type(backend_from_url("memory://"))


def test_not_a_url() -> None:
    with pytest.raises(BackendError, match="is not a URL: Invalid IPv6 URL") as caught:
        backend_from_url("memory://[")
    assert not isinstance(caught.value, UnknownBackend)


async def test_opening_a_hub_tells_the_same() -> None:
    with pytest.raises(UnknownBackend, match="raven"):
        async with open_hub("raven://tower"):
            pass


@pytest.mark.parametrize("expire", [-1, -0.001, float("nan")])
async def test_a_hub_refuses_to_keep_for_less_than_no_time(expire: float) -> None:
    with pytest.raises(
        ValueError, match=r"expire is .*; it must be a number of seconds, 0 or more"
    ):
        async with open_hub(expire=expire):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "raven://:s3cret@tower/0?a=b",
        "raven://bob:12/s3cret@tower",
        "raven://bob:12#s3cret@tower",
        "raven://bob:12?s3cret@tower",
        "raven://bob:s3cret",
        "raven://tower?password=s3cret",
        "memory://:s3cret@[",
        "memory://bob:s3 cret@[",
        "memory://:s3cret[::1]",
        "memory://bob:s3cret\u2100@x",
        "memory://:s3cret@x/?a=b",
        "memory://bob:12/s3cret@x",
        "memory://?password=s3cret",
        "redis://bob:12/s3cret@x",
        "redis://bob:s3cret@x/y",
        "redis+cluster://bob:s3cret@x",
        "redis://bob:s3cret",
    ],
)
def test_url_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(BackendError) as caught:
        backend_from_url(url)
    told = "".join(traceback.format_exception(caught.value.with_traceback(None)))
    assert "s3cret" not in told
    assert "s3cret" not in repr(vars(caught.value))
