"""Certificates as files: of an authority, a server and a client."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files.

    Args:
        ca: the authority's certificate, that both sides trust.
        server: the server's certificate.
        server_key: its key.
        client: the client's certificate.
        client_key: its key.
    """

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def client_context(self) -> ssl.SSLContext:
        """A context that checks the server, and shows the client's certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.client, self.client_key)
        return context


def write_certificates(directory: Path, host: str) -> Certificates:
    """Issue certificates, and write them to files.

    Args:
        directory: where they are written.
        host: the name or address that the server's is for.
    """
    authority = trustme.CA()
    ca = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    return Certificates(
        ca, *_issue(authority, host, directory), *_issue(authority, "client.test", directory)
    )


def _issue(authority: trustme.CA, name: str, directory: Path) -> tuple[Path, Path]:
    """Issue a certificate; returns the paths of it and of its key."""
    issued = authority.issue_cert(name)
    certificate, key = directory / f"{name}.pem", directory / f"{name}-key.pem"
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


class ServerFiles:
    """The files of a server that can be renewed, and a context that trusts them.

    Args:
        directory: where they are.
        names: addresses and names that the certificate is for; none: 127.0.0.1.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        self.authority = trustme.CA()
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        self.context = ssl.create_default_context()
        self.authority.configure_trust(self.context)
        self.options = (f"--tls-cert={self.certificate}", f"--tls-key={self.key}")
        self._names = names or ("127.0.0.1",)
        self.renew()

    def renew(self) -> None:
        issued = self.authority.issue_cert(*self._names)
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    def seen(self, port: int) -> str:
        """The serial number of the certificate that a new handshake gets."""
        with socket.create_connection(("127.0.0.1", port)) as sock:
            with self.context.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
                certificate = secure.getpeercert()
                assert certificate is not None
                return str(certificate["serialNumber"])
