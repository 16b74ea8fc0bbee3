"""A network that can be cut: two namespaces with a cable between them (ip-netns(8))."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

SERVER: Final = "198.51.100.1"  # RFC 5737: addresses for documentation
_CLIENT: Final = "198.51.100.2"
_CLIENT_MAC: Final = "02:00:00:00:00:02"


class NoNamespaces(Exception):  # noqa: N818 - says why something is left out
    """Network namespaces cannot be made here."""


@dataclass(frozen=True)
class Network:
    """Names of two namespaces that reach each other, until `cut`."""

    server: str
    client: str

    def cut(self) -> None:
        """From now on packets are dropped, and neither side's network says so."""
        # A host without an address takes no packet, and answers none.
        _ip("-n", self.client, "address", "flush", "dev", "cable")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def network(name: str) -> Iterator[Network]:
    """Make a network, and remove it on the way out.

    Args:
        name: tells it from others that this process makes.

    Raises:
        NoNamespaces: there is no ``ip``, or no privilege.
    """
    if shutil.which("ip") is None:
        raise NoNamespaces("there is no ip (iproute2) here")
    names = [f"beat-{os.getpid()}-{name}-{side}" for side in ("server", "client")]
    with ExitStack() as made:
        try:
            for namespace in names:
                _ip("netns", "add", namespace)
                made.callback(_ip, "netns", "delete", namespace)
            server, client = names
            end = ("peer", "cable", "address", _CLIENT_MAC, "netns", client)
            _ip("-n", server, "link", "add", "cable", "type", "veth", *end)
            for namespace, address in ((server, SERVER), (client, _CLIENT)):
                _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "cable")
                _ip("-n", namespace, "link", "set", "cable", "up")
            # Otherwise the server's kernel would ask for this after the cut, and know.
            neighbour = ("lladdr", _CLIENT_MAC, "dev", "cable", "nud", "permanent")
            _ip("-n", server, "neighbour", "replace", _CLIENT, *neighbour)
        except subprocess.CalledProcessError as exc:
            raise NoNamespaces(exc.stderr.strip()) from exc
        yield Network(server, client)
