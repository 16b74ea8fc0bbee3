"""Where the broker is, how to log in, and how its keys begin: all that a URL says.

1. No error quotes what may be a part of a password. A password that is not percent-encoded moves
   the borders of a URL's parts: behind an unencoded slash it is a path, behind a question mark
   a parameter. So what stands in the place of a port is never quoted, and nothing at all of a URL
   with an ``@`` behind its hosts.
2. What a URL says twice, or says where it has no effect, is refused, not ignored.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, Self
from urllib.parse import SplitResult, unquote_to_bytes

from ..._checks import LONGEST
from ..._exceptions import BackendError
from ..._text import split_url

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
#: Seconds.
TIMEOUT: Final = 5.0
CLIENT_NAME: Final = "trio-beat"

_LAST_PORT: Final = 65535
#: The broker keeps it in 31 bits.
_LAST_DATABASE: Final = 2**31 - 1
#: Bytes of a file with a password.
_PASSWORD_LIMIT: Final = 65536
#: The path is NAME and DATABASE at most.
_SENTINEL_PARTS: Final = 2

SCHEMES: Final = tuple(
    base + how for how in ("", "+sentinel") for base in ("redis", "rediss", "valkey", "valkeys")
)
_TLS: Final = ("rediss", "valkeys")
_PARAMETERS: Final = (
    "prefix",
    "timeout",
    "client_name",
    "password_file",
    "ca",
    "cert",
    "key",
    "sentinel_username",
    "sentinel_password_file",
)
_FILES: Final = ("password_file", "ca", "cert", "key", "sentinel_password_file")
#: What keys without a prefix begin with.
_FIRST_PARTS: Final = ("broadcast", "user", "group", "session", "trio-beat")
_PASSWORDS: Final = re.compile(r".*(pass|pwd|secret|token|auth).*", re.IGNORECASE)
_NODE: Final = re.compile(r"(\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?P<port>:.*)?", re.DOTALL)
#: The name of a host; getaddrinfo decides about the rest.
_NAME: Final = re.compile(r"[^\x00-\x20\x7f\s\"%<>\\^`{|}]+")
_NUMBER: Final = re.compile(r"[0-9]+")
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: CLIENT SETNAME allows these.
_CLIENT_NAME: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the broker is, and how to use it. Its `repr` shows no password."""

    #: Hosts and ports: of the broker one, of Sentinels one or more.
    nodes: tuple[tuple[str, int], ...]
    scheme: str = "redis"
    service: str | None = None  #: Sentinel's name of the primary; None: there is no Sentinel
    database: int = 0
    username: str | None = None  #: None: the broker's default user
    #: Neither this nor a file: without authentication, or with what code gives.
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None  #: read at each connect
    prefix: str = ""  #: of keys and channels, without the colon; empty: none
    #: Seconds within which a publish is answered, and a silent broker noticed.
    timeout: float = TIMEOUT
    client_name: str = CLIENT_NAME  #: as CLIENT LIST shows it
    ca: Path | None = None  #: authorities that are trusted (PEM); None: the system's
    cert: Path | None = None  #: the client's certificate chain (PEM); None: it has none
    key: Path | None = None  #: its private key (PEM); None: it is in the same file
    sentinel_username: str | None = None  #: None: the Sentinels' default user
    sentinel_password_file: Path | None = None  #: None: they ask for none

    @classmethod
    def parse(cls, url: SplitResult) -> Self:
        """Read what a URL says.

        Args:
            url: taken apart.

        Raises:
            ValueError: names the part that is wrong, and what is allowed; quotes no secret.
        """
        _check_scheme(url.scheme)
        if any("@" in part for part in (url.path, url.query, url.fragment)):
            text = "there is an @ behind the hosts; within a password, / ? # and @ are written"
            raise ValueError(f"{text} %2F %3F %23 and %40, elsewhere @ is written %40")
        if url.fragment:
            raise ValueError("a fragment (#...) is not allowed; in a password # is written %23")
        given = _parameters(url.query)
        userinfo, _, hosts = url.netloc.rpartition("@")
        name, _, secret = userinfo.partition(":")
        service, database = _path(url)
        address = cls(
            nodes=_nodes(hosts, PORT if service is None else SENTINEL_PORT),
            scheme=url.scheme,
            service=service,
            database=database,
            username=_decoded("the user name", name) or None,
            password=_decoded("the password", secret) or None,
            prefix=_prefix(given.get("prefix", "")),
            timeout=_timeout(given.get("timeout")),
            client_name=_client_name(given.get("client_name")),
            sentinel_username=given.get("sentinel_username"),
            **{name: Path(given[name]) for name in _FILES if name in given},
        )
        address._check_together()
        return address

    @classmethod
    def from_text(cls, url: str) -> Self:
        """Read what a URL says that is not taken apart yet.

        Raises:
            ValueError: as for `parse`.
        """
        try:
            parts = split_url(url)
        except ValueError:
            parts = None
        if parts is None:  # without the cause, which may quote a password
            raise ValueError("it is not a URL")
        return cls.parse(parts)

    @property
    def tls(self) -> bool:
        """Whether the broker, and its Sentinels, are spoken to over TLS."""
        return self.scheme.startswith(_TLS)

    @property
    def shown(self) -> str:
        """Scheme, hosts, name and database, for logs: nothing of it is secret."""
        places = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes
        )
        name = "" if self.service is None else f"{self.service}/"
        return f"{self.scheme}://{places}/{name}{self.database}"

    def read_password(self) -> str | None:
        """The password as it is now: the URL's, or what the file has.

        A user without a password has the empty one, so that the broker is asked for this user, and
        not for its default one.

        Returns:
            None: without authentication.

        Raises:
            BackendError: the file cannot be used; says why.
        """
        if self.password_file is None:
            return "" if self.password is None and self.username is not None else self.password
        return _read(self.password_file, "password_file")

    def read_sentinel_password(self) -> str | None:
        """The Sentinels' password as it is now; None: they ask for none.

        Raises:
            BackendError: the file cannot be used; says why.
        """
        if self.sentinel_password_file is None:
            return None
        return _read(self.sentinel_password_file, "sentinel_password_file")

    def make_ssl_context(self) -> ssl.SSLContext | None:
        """A TLS context that checks the broker's certificate and host name; None: without TLS.

        It reads files.

        Raises:
            BackendError: a file cannot be used; says which, and why.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError as exc:
            why = f"has no certificate (PEM): {exc.reason or 'nothing in it'}"
            raise BackendError(f"ca: {str(self.ca)!r} {why}") from exc
        except OSError as exc:
            raise BackendError(f"ca: cannot read {str(self.ca)!r}: {exc.strerror}") from exc
        if self.cert is not None:
            self._load_certificate(context, self.cert)
        return context

    def _load_certificate(self, context: ssl.SSLContext, cert: Path) -> None:
        both = repr(str(cert)) + ("" if self.key is None else f" and {str(self.key)!r}")
        try:
            context.load_cert_chain(cert, self.key, _no_password)
        except ssl.SSLError as exc:
            why = exc.reason or "no private key"
            text = f"cert: in {both} are no certificate and key of one another (PEM): {why}"
            raise BackendError(text) from exc
        except OSError as exc:
            raise BackendError(f"cert: cannot read {both}: {exc.strerror}") from exc

    def _check_together(self) -> None:
        if self.service is None and len(self.nodes) > 1:
            expected = f"{_base(self.scheme)}+sentinel:// takes several"
            raise ValueError(f"there are {len(self.nodes)} hosts; one is allowed, {expected}")
        if self.password is not None and self.password_file is not None:
            raise ValueError("there are a password and a password_file; one of them is allowed")
        if self.key is not None and self.cert is None:
            text = "key is of no use without cert; where one file has both, give it as cert"
            raise ValueError(text)
        for name in ("ca", "cert"):
            if getattr(self, name) is not None and not self.tls:
                secure = f"{_base(self.scheme)}s{'' if self.service is None else '+sentinel'}"
                raise ValueError(f"{name} is of no use without TLS; see {secure}://")
        for name in ("sentinel_username", "sentinel_password_file"):
            if getattr(self, name) is not None and self.service is None:
                sentinel = f"{self.scheme}+sentinel"
                raise ValueError(f"{name} is of no use without Sentinel; see {sentinel}://")
        if self.sentinel_username is not None and self.sentinel_password_file is None:
            raise ValueError("sentinel_username is of no use without sentinel_password_file")


def _base(scheme: str) -> str:
    """``redis`` or ``valkey``."""
    return "valkey" if scheme.startswith("valkey") else "redis"


def _check_scheme(scheme: str) -> None:
    if scheme.endswith("+cluster"):
        raise ValueError(
            f"{scheme}: Redis Cluster and Valkey Cluster are not supported yet; a single broker "
            "(redis://) and Sentinel (redis+sentinel://) are"
        )
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is none of {', '.join(SCHEMES)}")


def _decoded(what: str, text: str) -> str:
    """Percent-decode a part of a URL (RFC 3986, section 2.1).

    Args:
        what: the part's name, for the message, which does not quote it.
        text: the part.
    """
    if _BAD_ESCAPE.search(text):
        raise ValueError(f"{what} has a % without two hexadecimal digits; % itself is written %25")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise ValueError(f"{what} is not UTF-8 when percent-decoded") from None


def _parameters(query: str) -> Mapping[str, str]:
    """The parameters of a query. A plus is itself: file names have it."""
    given: dict[str, str] = {}
    for part in query.split("&") if query else ():
        quoted, equals, text = part.partition("=")
        name = _decoded("a parameter's name", quoted)
        if name not in _PARAMETERS:
            allowed = f"allowed are {', '.join(_PARAMETERS)}"
            if _PASSWORDS.fullmatch(name):
                better = "a password stands before the host (user:password@host), or in the file"
                raise ValueError(
                    f"parameter {name!r} is unknown: {better} that password_file names"
                )
            raise ValueError(f"parameter {name!r} is unknown; {allowed}")
        if name in given:
            raise ValueError(f"parameter {name} is given twice")
        value = _decoded(f"parameter {name}", text)
        if not equals or (not value and name != "prefix"):
            raise ValueError(f"parameter {name} has no value")
        if name in _FILES and "\0" in value:
            raise ValueError(f"parameter {name} is no file name: it has a zero byte")
        given[name] = value
    return given


def _path(url: SplitResult) -> tuple[str | None, int]:
    """The name of a primary (None: no Sentinel) and the number of a database."""
    if not url.scheme.endswith("+sentinel"):
        return None, _database(url.path.removeprefix("/"))
    name, *more = url.path.removeprefix("/").split("/")
    expected = f"{url.scheme}://HOST:PORT,HOST:PORT/NAME/DATABASE"
    if not name:
        raise ValueError(f"there is no name of the primary; expected {expected}")
    if len(more) >= _SENTINEL_PARTS:
        raise ValueError(f"the path has more than a name and a database; expected {expected}")
    return _decoded("the name of the primary", name), _database(more[0] if more else "")


def _database(text: str) -> int:
    if not text:
        return 0
    if not _NUMBER.fullmatch(text) or len(text) > len(str(_LAST_DATABASE)):
        raise ValueError(f"database {text!r} is not a number, 0 or more")
    if int(text) > _LAST_DATABASE:
        raise ValueError(f"database {text!r} is more than {_LAST_DATABASE}")
    return int(text)


def _nodes(hosts: str, port: int) -> tuple[tuple[str, int], ...]:
    """Hosts and ports, separated by commas.

    `SplitResult.hostname` and `SplitResult.port` know of one only.

    Args:
        port: where none is given.
    """
    if not hosts:
        raise ValueError("there is no host")
    return tuple(_node(text, port) for text in hosts.split(","))


def _node(text: str, port: int) -> tuple[str, int]:
    found = _NODE.fullmatch(text)
    if found is None:
        raise ValueError("a host is not HOST, HOST:PORT, or an IPv6 address in [brackets]")
    host = found["name"]
    if host is None:
        host = found["v6"]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("what stands in [brackets] is not an IPv6 address") from None
    elif not host:
        raise ValueError("a host is empty")
    elif not _NAME.fullmatch(host):
        raise ValueError("a host has characters that a name has not")
    if found["port"] is None:
        return host, port
    number = found["port"][1:]
    if not (_NUMBER.fullmatch(number) and 1 <= int(number[:9]) <= _LAST_PORT):
        # Not quoted: it may be a password, with its @ and the host forgotten.
        raise ValueError(f"the port of host {host!r} is not a number from 1 to {_LAST_PORT}")
    return host, int(number)


def _prefix(text: str) -> str:
    if text.partition(":")[0] in _FIRST_PARTS:
        names = ", ".join(_FIRST_PARTS)
        raise ValueError(f"prefix {text!r} begins like a key that has none: with one of {names}")
    return text


def _timeout(text: str | None) -> float:
    if text is None:
        return TIMEOUT
    if not _SECONDS.fullmatch(text) or not 0 < float(text) <= LONGEST:
        raise ValueError(f"timeout {text!r} is not a number of seconds > 0, for example 2.5")
    return float(text)


def _client_name(text: str | None) -> str:
    if text is None:
        return CLIENT_NAME
    if not _CLIENT_NAME.fullmatch(text):
        raise ValueError(f"client_name {text!r} may have printable ASCII without spaces only")
    return text


def _read(path: Path, name: str) -> str:
    try:
        data = _read_bytes(path)
    except OSError as exc:
        raise BackendError(f"{name}: cannot read {str(path)!r}: {exc.strerror}") from exc
    if data is None:
        raise BackendError(f"{name}: {str(path)!r} is not a regular file")
    if len(data) > _PASSWORD_LIMIT:
        raise BackendError(f"{name}: {str(path)!r} has more than {_PASSWORD_LIMIT} bytes")
    try:
        # Editors and `echo` end it with a newline.
        password = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeError:
        # Without the cause, which has the bytes.
        raise BackendError(f"{name}: what {str(path)!r} has is not UTF-8") from None
    if not password:
        raise BackendError(f"{name}: {str(path)!r} is empty")
    return password


def _read_bytes(path: Path) -> bytes | None:
    """What a regular file has; None: it is something else.

    Without a thread: one that hangs cannot be ended. Nor can this hang, since a pipe, for example,
    is not waited for.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        return file.read(_PASSWORD_LIMIT + 1)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _no_password() -> NoReturn:
    # Without this OpenSSL prompts at the terminal, and everything waits for the answer.
    raise BackendError("cert: its private key is encrypted, and there is no way to decrypt it")
