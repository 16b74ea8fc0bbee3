"""The command's options. Flags override environment variables, and both override a TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliSettingsSource,
    CliToggleFlag,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .._channels.permissions import EVERYTHING
from .._checks import FASTEST, LONGEST, MOST_MISSES, check_prefix, check_rate
from .._server.origins import parse_allowed
from .._server.proxies import wrong_proxy
from .._text import public_backend, utf8
from .arguments import ConfigurationError, Parser
from .compressing import Level, Switch, Threshold, WindowBits
from .places import Listening
from .sources import EPILOG, PREFIX, ConfigFile, Environment, environment

#: Options whose values are names of files: bytes, which need not be UTF-8.
_FILES: Final = ("tls_cert", "tls_key", "jwt_key", "api_tokens", "internal_bind", "uds", "config")


class Settings(Listening):
    """The options of ``python -m trio_beat``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        hide_input_in_errors=False,
    )

    path_prefix: str = Field("/ws/", description="what the path of a WebSocket begins with")
    interval: float = Field(
        4.0,
        ge=0.1,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds from one beat to the next",
    )
    misses: int = Field(
        3, ge=1, le=MOST_MISSES, description="missed beats in a row after which a peer is dead"
    )
    heartbeat_message: str | None = Field(
        None,
        min_length=1,
        description="text that is sent with every beat, and swallowed when it is received; "
        "where it begins with a dash write --heartbeat-message=TEXT",
    )
    expire: float = Field(
        3600.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds for which a channel's last message is kept; 0: not at all",
    )
    backend: str = Field(
        "memory://",
        repr=False,  # it may have a password
        description="URL of what connects several servers: memory://, redis://HOST, "
        "rediss://HOST, redis+sentinel://HOST,HOST/NAME, or valkey for redis",
    )
    backend_lost: Literal["close", "keep"] = Field(
        "close",
        description="what happens to peers that may have missed messages, because the backend was "
        "away",
    )
    backend_grace: float = Field(
        10.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds for which is waited for a backend that is away; then peers that may "
        "have missed messages are told, and new ones get 503",
    )
    auth: str | None = Field(
        None,
        min_length=1,
        repr=False,  # a URL may have a password
        description="who tells who a peer is: jwt (a signed token), the URL of an application that "
        "is asked (http://HOST/PATH), or MODULE:FUNCTION, an async function in Python",
    )
    allow_anonymous: CliImplicitFlag[bool] = Field(
        False,
        description="let peers in that have no credential; so it is anyway where there is no "
        "--auth",
    )
    allow: Annotated[list[str], NoDecode] = Field(
        [*EVERYTHING],
        description="what everybody may do to broadcast: subscribe-broadcast, publish-broadcast, "
        "both with a comma between, or nothing",
    )
    denied: Literal["refuse", "drop"] = Field(
        "refuse",
        description="what happens to a peer that asks for what it may not do: 403, or it gets only "
        "what is allowed",
    )
    refuse_by: Literal["status", "close"] = Field(
        "status",
        description="how a peer is refused with 401 or 403: by that status, or (as pages cannot "
        "see it) by closing an open WebSocket with 3000 or 4003",
    )
    allowed_origin: Annotated[list[str], NoDecode] = Field(
        [],
        description="origin of pages that may connect beside those of the server itself "
        "(https://example.com); *.example.com: its subdomains; *: all pages; may be given several "
        "times, or with commas",
    )
    jwt_key: Path | None = Field(
        None,
        description="file with the key of --auth jwt: a public key (PEM), a JWK or a set of them "
        "(JSON), or a secret",
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="iss that tokens must have")
    jwt_audience: Annotated[list[str], NoDecode] = Field(
        [],
        description="aud of which tokens must have one; may be given several times, or with commas",
    )
    jwt_leeway: float = Field(
        10.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds by which the clocks of issuer and server may differ",
    )
    jwt_no_expiry: CliToggleFlag[bool] = Field(
        False, description="let tokens in that never expire (without exp)"
    )
    jwt_query: str | None = Field(
        None, min_length=1, description="name in a URL's query that may have the token"
    )
    jwt_cookie: str | None = Field(
        None, min_length=1, description="name of a cookie that may have the token"
    )
    auth_timeout: float = Field(
        5.0,
        gt=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds that the application of --auth http://... has for an answer",
    )
    auth_concurrency: int = Field(
        20, ge=1, description="requests to it at a time; further peers wait"
    )
    auth_header: Annotated[list[str], NoDecode] = Field(
        [],
        description="header of a peer's request that is passed on to it, beside Cookie and "
        "Authorization; may be given several times, or with commas",
    )
    publish_token: SecretStr | None = Field(
        None,
        description="bearer token that allows to publish over HTTP; without it and --api-tokens "
        "that is off",
    )
    api_tokens: Path | None = Field(
        None,
        description="TOML file with bearer tokens that allow to publish and to disconnect over "
        "HTTP, a table for each",
    )
    api_rate: float = Field(
        200.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="requests a second of one token; then 429. 0: no limit",
    )
    api_byte_rate: float = Field(
        4.0 * 2**20,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="bytes a second that one token sends; then 429. 0: no limit",
    )
    internal_bind: str | None = Field(
        None,
        min_length=1,
        description="where health and the API are, HOST:PORT or unix:/PATH, in place of the public "
        "port; plain HTTP",
    )
    tls_cert: Path | None = Field(None, description="certificate chain (PEM): speak TLS")
    tls_key: Path | None = Field(
        None, description="its private key (PEM), where it is not in the same file"
    )
    trusted_proxy: Annotated[list[str], NoDecode] = Field(
        [],
        description="address or network of a proxy, or unix, whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed; may be given several times, or with commas",
    )
    forwarded_host: CliToggleFlag[bool] = Field(
        False,
        description="believe X-Forwarded-Host of trusted proxies, too: for those that set it",
    )
    max_connections: int = Field(10_000, ge=1, description="open WebSockets; then 503")
    max_pending: int = Field(
        1024,
        ge=1,
        description="handshakes under way, and as many sockets again that speak plain HTTP",
    )
    max_message_size: int = Field(
        2**20, ge=1, description="bytes of a message that a peer sends; then 1009"
    )
    message_timeout: float = Field(
        60.0,
        gt=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds from a message's first byte to its last, and one for each KiB; "
        "then 1013",
    )
    max_unfinished: int = Field(
        2**26,
        ge=1,
        description="bytes that all messages hold of which not all has come; then 1013",
    )
    outbox_size: int = Field(2**20, ge=1, description="bytes that may wait for a slow peer")
    slow_policy: Literal["disconnect", "drop-oldest"] = Field(
        "disconnect", description="what happens to a peer whose outbox is full"
    )
    compression: Switch = "off"
    compression_level: Level = 6
    compression_window_bits: WindowBits = 15
    compression_threshold: Threshold = 256
    max_connections_per_address: int | None = Field(
        None,
        ge=0,
        description="of them, those of an address (IPv6: of a /64); then 429; 0: any; unless "
        "given: 1000, except for loopback, Unix and private addresses",
    )
    max_connections_per_user: int = Field(
        0, ge=0, description="of them, those of a user; then 429; 0: any"
    )
    handshake_rate: float | None = Field(
        None,
        ge=0,
        le=FASTEST,
        allow_inf_nan=False,
        description="WebSocket handshakes a second of an address, four times as many at once; then "
        "429; 0: any; unless given: 50, with the same exception",
    )
    message_rate: float = Field(
        1000.0,
        ge=0,
        le=FASTEST,
        allow_inf_nan=False,
        description="messages a second of a connection, twice as many at once; then it is held "
        "back; 0: any",
    )
    byte_rate: float = Field(
        2**24,
        ge=0,
        le=FASTEST,
        allow_inf_nan=False,
        description="bytes a second of a connection, twice as many at once; then it is held back; "
        "0: any",
    )
    rate_policy: Literal["disconnect", "wait"] = Field(
        "disconnect",
        description="what happens to a peer that is held back for 30 seconds without a break: "
        "1008, or it waits on",
    )
    max_channels: int = Field(
        128, ge=0, description="channels of a connection; then 403; 0: any number"
    )
    handshake_timeout: float = Field(
        10.0,
        gt=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds for a request's headers; then 408",
    )
    grace: float = Field(
        8.0,
        ge=0,
        le=LONGEST,
        allow_inf_nan=False,
        description="seconds that shutting down may take",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe messages that are logged, to standard error"
    )
    log_format: Literal["text", "json"] = Field("text", description="how they are written")
    config: Path | None = Field(
        None, description="TOML file with options by these names; flags and environment override it"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list):
            return [utf8(item) if isinstance(item, str) else item for item in value]
        if not isinstance(value, str) or info.field_name in _FILES:
            return value
        return utf8(value)

    @field_validator(
        "allow", "allowed_origin", "jwt_audience", "auth_header", "trusted_proxy", mode="before"
    )
    @classmethod
    def _list(cls, value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return names
        return [name.strip() for given in names for name in given.split(",") if name.strip()]

    @field_validator("allow")
    @classmethod
    def _allowed(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in EVERYTHING:
                raise ValueError(f"should be {', '.join(EVERYTHING)}, or empty")
        return value

    @field_validator("trusted_proxy")
    @classmethod
    def _proxies(cls, value: list[str]) -> list[str]:
        for name in value:
            if wrong := wrong_proxy(name):
                raise ValueError(f"has {name!r}, which {wrong}")
        return value

    @field_validator("forwarded_host")
    @classmethod
    def _host_needs_proxy(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("trusted_proxy", True):
            raise ValueError("is of no use without --trusted-proxy")
        return value

    @field_validator("allowed_origin")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_allowed(text)
        return value

    @field_validator("handshake_rate", "message_rate", "byte_rate")
    @classmethod
    def _not_too_slow(cls, value: float | None) -> float | None:
        if value:
            try:
                check_rate("it", value)
            except ValueError as exc:
                raise ValueError("should " + str(exc).partition("; it must ")[2]) from None
        return value

    @field_validator("publish_token")
    @classmethod
    def _not_empty(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value():
            raise ValueError("is empty; leave it out to turn publishing over HTTP off")
        return value

    @field_validator("path_prefix")
    @classmethod
    def _slashes(cls, value: str) -> str:
        if value == "/":
            raise ValueError("is where the page is")
        try:
            check_prefix(value)
        except ValueError as exc:
            raise ValueError(str(exc).partition("; it ")[2]) from None
        return value

    @field_validator("tls_key")
    @classmethod
    def _key_needs_cert(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert") is None:
            raise ValueError("is of no use without --tls-cert")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls), ConfigFile(settings_cls)


def load_settings(arguments: Sequence[str], parser: Parser | None = None) -> Settings:
    """Read the options from flags, environment and file.

    Args:
        arguments: the flags.
        parser: gets the options, and may have some of its own that leave nothing in the namespace;
            None: that of the server.

    Raises:
        ConfigurationError: an option is unknown, or its value is not allowed.
        SystemExit: help or the version was asked for, and has been printed.
    """
    parser = parser or _parser()
    unknown = [
        name
        for name in sorted(environment())
        if name.startswith(PREFIX)
        and name.removeprefix(PREFIX).lower() not in Settings.model_fields
    ]
    if unknown:
        raise ConfigurationError(f"unknown environment variable {unknown[0]}")
    flags: CliSettingsSource[Any] = CliSettingsSource(
        Settings, root_parser=parser, cli_parse_args=list(arguments)
    )
    try:
        return Settings(_cli_settings_source=flags)
    except ValidationError as exc:
        raise ConfigurationError(_explain(exc, flags())) from None
    except SettingsError as exc:
        raise ConfigurationError(str(exc)) from None


def _parser() -> Parser:
    parser = Parser(
        prog="trio-beat",
        description="A WebSocket server in which every connection knows when it is dead; and "
        "two clients: %(prog)s listen URL, %(prog)s publish URL MESSAGE. %(prog)s check says what "
        "the options mean.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"trio-beat {version('trio-beat')}")
    return parser


def _explain(errors: ValidationError, flags: dict[str, Any]) -> str:
    error = errors.errors()[0]
    name = str(error["loc"][0])
    flag = "--" + name.replace("_", "-")
    if name not in flags and PREFIX + name.upper() in environment():
        flag = PREFIX + name.upper()
    if error["type"] == "extra_forbidden":
        return f"--config: unknown option {name!r} in the file"
    what = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    # Names within it keep their case: SCHEME://HOST.
    return f"{flag}: {_shown(name, error['input'])} {what[:1].lower()}{what[1:]}"


def _shown(name: str, value: object) -> str:
    """The value of an option, for people, without what may be secret."""
    if name == "publish_token":
        return "the token"
    if name == "backend":
        return repr(public_backend(value)) if isinstance(value, str) else "the URL"
    text = str(value)
    # It may be meant for another option.
    return repr(public_backend(text) if "://" in text and "@" in text else text)
