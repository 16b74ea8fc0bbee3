"""The page about Redis and Valkey: its URLs can be used, and its program runs."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.broker import open_broker
from tests.support.documents import document, examples, program
from tests.support.peer import dial
from trio_beat.backends.redis.address import SCHEMES, Address

_URL = re.compile(r"^    (\S+://\S+)$", re.MULTILINE)


def test_its_urls_say_what_is_said_of_them() -> None:
    urls = _URL.findall(document("redis").partition("\nExamples\n")[2])
    first, acl, file, tls, sentinel, valkey = [Address.from_text(url) for url in urls]
    assert first == Address(nodes=(("127.0.0.1", 6379),), prefix="myapp")
    assert (acl.username, acl.password) == ("bob", "p@ss/word")
    assert (file.username, file.password_file) == ("bob", Path("/run/secrets/redis"))
    assert tls.tls
    assert (tls.ca, tls.cert, tls.key) == (Path("ca.pem"), Path("bob.pem"), Path("bob.key"))
    assert (len(sentinel.nodes), sentinel.service, sentinel.tls) == (3, "main", False)
    assert valkey.tls


def test_it_names_each_scheme_and_parameter() -> None:
    text = document("redis")
    with pytest.raises(ValueError, match="allowed are prefix") as caught:
        Address.from_text("redis://h?x")
    parameters = str(caught.value).partition("allowed are ")[2].split(", ")
    assert {"prefix", "timeout"} <= set(parameters) <= {field.name for field in fields(Address)}
    for name in [*SCHEMES, *parameters]:
        assert re.search(rf"^.*``{re.escape(name)}`` ", text, re.MULTILINE), name


@pytest.mark.real
async def test_its_program_asks_for_the_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    (text,) = examples("redis", "python")
    async with open_broker(config=["requirepass s3cret"]) as broker:
        text = text.replace("/run/secrets/redis", str(file)).replace("6379", str(broker.port))
        async with program(text) as running:
            peer = await dial(*await running.target())
            other = await dial(peer.plain.socket.getpeername()[1])
            await peer.send_text("hello")
            assert await other.text() == "hello"
            await peer.aclose()
            await other.aclose()
