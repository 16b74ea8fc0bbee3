"""Whether the certificate can be used, what is in it, and for how long it is valid.

1. A handshake in memory shows what a client would be shown. Nothing but the standard library reads
   it: the extra ``server`` has no other.
2. Python tells what is in a certificate only where the client trusts it. So it trusts this very one
   (`ssl.VERIFY_X509_PARTIAL_CHAIN`), at any time.
3. Those behind it in the file are of authorities; a client checks their dates as well (RFC 5280,
   section 6.1.3).
"""

from __future__ import annotations

import ssl
import time
from typing import Any, Final

from ..arguments import ConfigurationError
from ..certificate import load_certificate
from ..settings import Settings
from .section import Section

#: Days below which a certificate should be renewed; those of Let's Encrypt are by then.
SOON: Final = 14
_DAY: Final = 86_400
#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL (X509_VERIFY_PARAM_set_flags(3)); Python has no name for it.
_ANY_TIME: Final = 0x200000
#: Turns of both ends after which a handshake in memory is over, or hangs.
_TURNS: Final = 10
_NEED: Final = "clients that need it refuse"
#: What an authority's name in the standard library is missing with.
_UNKNOWN_ISSUER: Final = frozenset({18, 19, 20, 21})


def check_certificate(settings: Settings) -> Section:
    """Say whether the certificate can be used."""
    section = Section("certificate")
    section.data = {"tls": settings.tls_cert is not None}
    if settings.tls_cert is None:
        section.row("TLS", "no: the server speaks plain HTTP")
        return section
    try:
        context = load_certificate(settings)
        assert context is not None
        shown = _shown(context)
    except ConfigurationError as exc:
        section.fail("certificate", str(exc))
        return section
    except ssl.SSLError as exc:
        why = exc.verify_message if isinstance(exc, ssl.SSLCertVerificationError) else str(exc)
        section.fail("certificate", f"--tls-cert: no handshake with {settings.tls_cert}: {why}")
        return section
    names = [value for _, value in shown.get("subjectAltName", ())]
    section.data["names"] = names
    section.row("certificate", str(settings.tls_cert))
    section.row("names", ", ".join(names) or "none")
    if not names:
        text = "has no subjectAltName: no browser accepts it (RFC 9110, section 4.3.4)"
        section.fail("certificate", f"--tls-cert: {settings.tls_cert} {text}")
    _check_time(section, shown)
    _check_chain(section, str(settings.tls_cert), shown)
    if not _is_trusted(context):
        section.note(
            "certificate",
            "this machine does not trust the certificate: it is of a private authority, or the "
            "file lacks those between it and its authority",
        )
    return section


def _check_time(section: Section, shown: dict[str, Any]) -> None:
    begin, end = (ssl.cert_time_to_seconds(shown[name]) for name in ("notBefore", "notAfter"))
    now = time.time()
    days = int((end - now) // _DAY)
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(end))
    section.data |= {"days_left": days, "not_before": begin, "not_after": end}
    section.row("valid until", f"{until}, {days} days left" if end > now else until)
    if begin > now:
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begin))
        section.fail("certificate", f"the certificate is not valid before {since}")
    elif end <= now:
        section.fail("certificate", f"the certificate has expired: it was valid until {until}")
    elif days < SOON:
        section.warn(
            "certificate", f"the certificate expires in {days} days: renew it, then SIGHUP"
        )


def _check_chain(section: Section, path: str, shown: dict[str, Any]) -> None:
    """Say which of the authorities' certificates in the file are out of date, or soon will be.

    That is a warning, as a client may know another way to an authority that it trusts.
    """
    file = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        file.load_verify_locations(path)
    except OSError:  # it is a pipe, or is renewed right now: it could be read a moment ago
        return
    now, own = time.time(), (shown["issuer"], shown["serialNumber"])
    # Of the standard library's types for these values some do not fit.
    others: list[dict[str, Any]] = file.get_ca_certs()
    for other in others:
        if (other["issuer"], other["serialNumber"]) == own:
            continue
        begin, end = (ssl.cert_time_to_seconds(other[it]) for it in ("notBefore", "notAfter"))
        names = [value for part in other["subject"] for _, value in part] or ["an authority"]
        what = f"behind the certificate in the file, that of {names[-1]}"
        since, until = (time.strftime("%Y-%m-%d", time.gmtime(it)) for it in (begin, end))
        days = int((end - now) // _DAY)
        if begin > now:
            section.warn("certificate", f"{what} is not valid before {since}: {_NEED}")
        elif end <= now:
            section.warn("certificate", f"{what} has expired, it was valid until {until}: {_NEED}")
        elif days < SOON:
            section.warn("certificate", f"{what} expires in {days} days; then {_NEED}")


def _shown(server: ssl.SSLContext) -> dict[str, Any]:
    """What is in the certificate that a client is shown.

    Raises:
        ssl.SSLError: there is no handshake.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    binary = _shake_hands(client, server).getpeercert(binary_form=True)
    assert binary is not None
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cadata=binary)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_ANY_TIME)
    shown: dict[str, Any] | None = _shake_hands(trusting, server).getpeercert()
    assert shown is not None
    return shown


def _is_trusted(server: ssl.SSLContext) -> bool:
    """Whether this machine knows the authority; an expired certificate is told of elsewhere."""
    client = ssl.create_default_context()
    client.check_hostname = False
    try:
        _shake_hands(client, server)
    except ssl.SSLCertVerificationError as exc:
        return exc.verify_code not in _UNKNOWN_ISSUER
    return True


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """Shake hands in memory; returns the client's end."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [here, there]
    for _ in range(_TURNS):
        for end in waiting.copy():
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if here not in waiting:
            return here
    raise AssertionError("a handshake in memory comes to an end")
