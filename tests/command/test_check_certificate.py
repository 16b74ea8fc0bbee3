"""Whether a certificate can be used, and for how long."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.checks import found, row
from trio_beat._command.checks.certificate import check_certificate
from trio_beat._command.checks.section import Section
from trio_beat._command.settings import load_settings

PRIVATE = ("info", "certificate")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def checked(authority: trustme.CA, path: Path, *names: str, **how: Any) -> Section:
    """The check of a certificate that is issued for it."""
    issued = authority.issue_cert(*names, **how)
    (path / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    options = [f"--tls-cert={path / 'cert.pem'}", f"--tls-key={path / 'key.pem'}"]
    return check_certificate(load_settings(options))


def test_there_may_be_none() -> None:
    section = check_certificate(load_settings([]))
    assert section.data == {"tls": False}
    assert found(section) == []


def test_what_is_in_it(authority: trustme.CA, tmp_path: Path) -> None:
    begin, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 12, 31, 23, 59, tzinfo=UTC)
    how = {"not_before": begin, "not_after": end}
    section = checked(authority, tmp_path, "chat.example", "*.example.com", "::1", **how)
    names = section.data.pop("names")
    assert names[:2] == ["chat.example", "*.example.com"]
    assert row(section, "names") == ", ".join(names)
    days = section.data.pop("days_left")
    assert days == (end - datetime.now(UTC)).days
    times = {"not_before": begin.timestamp(), "not_after": end.timestamp()}
    assert section.data == {"tls": True, **times}
    assert row(section, "valid until") == f"2999-12-31 23:59 UTC, {days} days left"
    assert found(section) == [PRIVATE]


@pytest.mark.parametrize(
    ("begin", "end", "level", "words"),
    [
        (-30, 14.1, None, ""),
        (-30, 13.9, "warning", "expires in 13 days"),
        (-30, 0.1, "warning", "expires in 0 days"),
        (-30, -0.1, "error", "has expired"),
        (1, 30, "error", "is not valid before"),
    ],
)
def test_when_it_is_valid(
    begin: float, end: float, level: str | None, words: str, authority: trustme.CA, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    how = {"not_before": now + timedelta(begin), "not_after": now + timedelta(end)}
    section = checked(authority, tmp_path, "chat.example", **how)
    findings = [it for it in section.findings if it.level != "info"]
    assert [it.level for it in findings] == ([] if level is None else [level])
    assert all(words in it.text for it in findings)


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (-30, 30, None),
        (-30, 3.5, "that of Between expires in 3 days; then clients"),
        (-30, -1, "that of Between has expired, it was valid until"),
        (1, 30, "that of Between is not valid before"),
    ],
)
def test_when_those_behind_it_are_valid(
    begin: float, end: float, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients refuse it with one that has expired, though it is valid and its authority trusted."""
    now = datetime.now(UTC)
    root, between, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))

    def issued(
        name: str, of: str, span: tuple[float, float], by: ec.EllipticCurvePrivateKey, key: Any
    ) -> bytes:
        issuer, subject = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, it)]) for it in (of, name)
        )
        serial, (since, until) = x509.random_serial_number(), (now + timedelta(it) for it in span)
        alternative = x509.SubjectAlternativeName([x509.DNSName(name.lower())])
        constraints = x509.BasicConstraints(ca=key is not own, path_length=None)
        made = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), serial, since, until)
            .add_extension(constraints, critical=True)
            .add_extension(alternative, critical=False)
            .sign(by, hashes.SHA256())
        )
        return made.public_bytes(Encoding.PEM)

    (tmp_path / "ca.pem").write_bytes(issued("Root", "Root", (-99, 99), root, root))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    path = tmp_path / "all.pem"
    path.write_bytes(
        issued("chat.example", "Between", (-1, 90), between, own)
        + issued("Between", "Root", (begin, end), root, between)
        + own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    section = check_certificate(load_settings([f"--tls-cert={path}"]))
    assert found(section) == ([] if words is None else [("warning", "certificate")])
    assert all(words in it.text for it in section.findings if words is not None)


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="there is no /dev/fd")
def test_one_that_can_be_read_once(authority: trustme.CA, tmp_path: Path) -> None:
    """A pipe, as a shell's ``<(...)`` is, has nothing more when it is read again."""
    issued = authority.issue_cert("chat.example")
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    reading, writing = os.pipe()
    try:
        os.write(writing, issued.cert_chain_pems[0].bytes())
        os.close(writing)
        options = [f"--tls-cert=/dev/fd/{reading}", f"--tls-key={tmp_path / 'key.pem'}"]
        section = check_certificate(load_settings(options))
    finally:
        os.close(reading)
    assert found(section) == [PRIVATE]


def test_one_that_this_machine_trusts(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The way to add an authority to those of the machine (SSL_CTX_set_default_verify_paths(3)).
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert found(checked(authority, tmp_path, "chat.example")) == []
    # Others come first, such as its date.
    old = {
        "not_after": datetime(2021, 1, 1, tzinfo=UTC),
        "not_before": datetime(2020, 1, 1, tzinfo=UTC),
    }
    assert found(checked(authority, tmp_path, "chat.example", **old)) == [("error", "certificate")]


def test_without_a_name_no_browser_takes_it(authority: trustme.CA, tmp_path: Path) -> None:
    section = checked(authority, tmp_path, common_name="chat.example")
    assert ("error", "certificate") in found(section)
    assert row(section, "names") == "none"


def test_one_that_cannot_be_used(authority: trustme.CA, tmp_path: Path) -> None:
    checked(authority, tmp_path, "chat.example")
    other = tmp_path / "other.pem"
    other.write_bytes(authority.issue_cert("chat.example").private_key_pem.bytes())
    for options, words in (
        ([f"--tls-cert={tmp_path / 'none.pem'}"], "No such file"),
        ([f"--tls-cert={tmp_path / 'cert.pem'}"], "no certificate and key of one another"),
        ([f"--tls-cert={tmp_path / 'cert.pem'}", f"--tls-key={other}"], "KEY_VALUES_MISMATCH"),
    ):
        section = check_certificate(load_settings(options))
        assert found(section) == [("error", "certificate")]
        assert words in section.findings[0].text


def test_one_that_is_not_for_servers(tmp_path: Path) -> None:
    """No client takes it, whatever authority it is of."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chat.example")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("chat.example")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "both.pem"
    form = PrivateFormat.PKCS8, NoEncryption()
    path.write_bytes(made.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, *form))
    section = check_certificate(load_settings([f"--tls-cert={path}"]))
    assert found(section) == [("error", "certificate")]
    assert "unsuitable certificate purpose" in section.findings[0].text
