from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from trio_beat._command.arguments import ConfigurationError
from trio_beat._command.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TRIO_BEAT_"):
            monkeypatch.delenv(name)


def test_needs_no_option() -> None:
    settings = load_settings([])
    assert (settings.host, settings.port, settings.path_prefix) == (["127.0.0.1"], 8000, "/ws/")
    assert (settings.interval, settings.misses, settings.heartbeat_message) == (4.0, 3, None)
    assert (settings.expire, settings.backend, settings.publish_token) == (3600, "memory://", None)


def test_workers_for_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that this process may use, where the system tells."""
    assert load_settings([]).workers == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7})
    assert load_settings(["--workers=auto"]).workers == 3
    monkeypatch.setattr(sys, "platform", "darwin")
    for count, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        monkeypatch.setenv("TRIO_BEAT_WORKERS", "auto")
        assert load_settings([]).workers == expected


def test_every_option_comes_from_all_three_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "beat.toml"
    for name in Settings.model_fields:
        if name in ("config", "tls_key", "forwarded_host", "uds_mode"):
            continue
        value = {
            "path_prefix": "/x/",
            "slow_policy": "drop-oldest",
            "compression": "on",
            "compression_window_bits": "10",
            "backend_lost": "keep",
            "log_level": "error",
            "log_format": "json",
            "tls_cert": "/x.pem",
            "jwt_key": "/x.pem",
            "allow": "subscribe-broadcast",
            "denied": "drop",
            "rate_policy": "wait",
            "refuse_by": "close",
            "allow_anonymous": "true",
            "jwt_no_expiry": "true",
            "trusted_proxy": "10.0.0.0/8",
        }.get(name, "7")
        flag = f"--{name.replace('_', '-')}"
        by_flag = load_settings([flag if value == "true" else f"{flag}={value}"])
        monkeypatch.setenv(f"TRIO_BEAT_{name.upper()}", value)
        by_environment = load_settings([])
        monkeypatch.delenv(f"TRIO_BEAT_{name.upper()}")
        quoted = f'"{value}"' if isinstance(getattr(by_flag, name), str) else value
        texts = {"host", "publish_token", "tls_cert", "jwt_key"}
        texts |= {"allow", "jwt_audience", "auth_header", "trusted_proxy", "api_tokens"}
        texts |= {"allowed_origin"}
        quoted = f'"{value}"' if name in texts else quoted
        file.write_text(f"{name.replace('_', '-')} = {quoted}\n")
        by_file = load_settings([f"--config={file}"])
        values = [getattr(s, name) for s in (by_flag, by_environment, by_file)]
        assert values[0] == values[1] == values[2] != Settings.model_fields[name].default, name


def test_flag_goes_before_environment_goes_before_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "beat.toml"
    file.write_text("port = 1\nmisses = 1\ninterval = 1\n")
    monkeypatch.setenv("TRIO_BEAT_CONFIG", str(file))
    monkeypatch.setenv("TRIO_BEAT_MISSES", "2")
    monkeypatch.setenv("TRIO_BEAT_INTERVAL", "2")
    settings = load_settings(["--interval=3"])
    assert (settings.port, settings.misses, settings.interval) == (1, 2, 3)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--port=65536", ["--port", "'65536'", "less than or equal to 65535"]),
        ("--port=http", ["--port", "'http'", "integer"]),
        ("--interval=0.09", ["--interval", "'0.09'", "greater than or equal to 0.1"]),
        ("--interval=inf", ["--interval", "'inf'", "finite"]),
        ("--misses=0", ["--misses", "'0'", "greater than or equal to 1"]),
        ("--expire=-1", ["--expire", "'-1'", "greater than or equal to 0"]),
        ("--path-prefix=ws", ["--path-prefix", "'ws'", "slash"]),
        ("--path-prefix=/", ["--path-prefix", "'/'", "page"]),
        ("--slow-policy=wait", ["--slow-policy", "'wait'", "'disconnect' or 'drop-oldest'"]),
        ("--compression=yes", ["--compression", "'yes'", "'on' or 'off'"]),
        ("--compression-level=0", ["--compression-level", "'0'", "greater than or equal to 1"]),
        ("--compression-level=10", ["--compression-level", "'10'", "less than or equal to 9"]),
        (
            "--compression-window-bits=8",
            ["--compression-window-bits", "greater than or equal to 9"],
        ),
        ("--compression-threshold=-1", ["--compression-threshold", "greater than or equal to 0"]),
        ("--log-level=loud", ["--log-level", "'loud'", "'debug'"]),
        ("--tls-key=/key.pem", ["--tls-key", "--tls-cert"]),
        ("--config=/nowhere", ["--config", "/nowhere", "No such file"]),
        ("--heartbeat-message=", ["--heartbeat-message", "at least 1 character"]),
        ("--publish-token=", ["--publish-token", "the token is empty"]),
        ("--host=a,", ["--host", "'a,'", "has an empty part"]),
        ("--interval=1e308", ["--interval", "'1e308'", "less than or equal to 1000000000000"]),
        ("--misses=1000000001", ["--misses", "less than or equal to 1000000000"]),
        ("--allow=all", ["--allow", "'all'", "subscribe-broadcast, publish-broadcast, or empty"]),
        ("--denied=ignore", ["--denied", "'ignore'", "'refuse' or 'drop'"]),
        ("--refuse-by=silence", ["--refuse-by", "'silence'", "'status' or 'close'"]),
        ("--allowed-origin=https://a/b", ["--allowed-origin", "https://a/b", "no path"]),
        ("--auth=", ["--auth", "at least 1 character"]),
        ("--jwt-leeway=-1", ["--jwt-leeway", "'-1'", "greater than or equal to 0"]),
        ("--auth-timeout=0", ["--auth-timeout", "'0'", "greater than 0"]),
        ("--auth-concurrency=0", ["--auth-concurrency", "'0'", "greater than or equal to 1"]),
        ("--backend-lost=wait", ["--backend-lost", "'wait'", "'close' or 'keep'"]),
        ("--backend-grace=-1", ["--backend-grace", "'-1'", "greater than or equal to 0"]),
        ("--backend-grace=inf", ["--backend-grace", "'inf'", "finite"]),
        ("--trusted-proxy=7", ["--trusted-proxy", "'7'", "an address, a network", "or unix"]),
        ("--trusted-proxy=10.0.0.1/8", ["--trusted-proxy", "'10.0.0.1/8'", "10.0.0.0/8"]),
        ("--trusted-proxy=::1,proxy.test", ["--trusted-proxy", "has 'proxy.test', which should"]),
        ("--forwarded-host", ["--forwarded-host", "of no use without --trusted-proxy"]),
        ("--max-connections-per-address=-1", ["--max-connections-per-address", "'-1'"]),
        ("--max-connections-per-user=-1", ["--max-connections-per-user", "'-1'"]),
        ("--max-channels=-1", ["--max-channels", "'-1'", "greater than or equal to 0"]),
        ("--handshake-rate=-1", ["--handshake-rate", "'-1'", "greater than or equal to 0"]),
        ("--message-rate=0.0001", ["--message-rate", "'0.0001'", "should be 0, or 0.001 to"]),
        ("--byte-rate=inf", ["--byte-rate", "'inf'", "finite"]),
        ("--rate-policy=close", ["--rate-policy", "'close'", "'disconnect' or 'wait'"]),
        ("--bogus=1", ["--bogus"]),
    ],
)
def test_bad_option_is_named_with_its_value_and_what_is_allowed(
    option: str, words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings([option])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_forwarded_host_goes_with_a_trusted_proxy() -> None:
    settings = load_settings(["--trusted-proxy=unix, ::1", "--forwarded-host"])
    assert (settings.trusted_proxy, settings.forwarded_host) == (["unix", "::1"], True)


def test_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_BEAT_PORT", "x")
    with pytest.raises(ConfigurationError, match="TRIO_BEAT_PORT: 'x'"):
        load_settings([])


def test_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_BEAT_INTERVALL", "1")
    with pytest.raises(ConfigurationError, match="TRIO_BEAT_INTERVALL"):
        load_settings([])


@pytest.mark.parametrize(
    ("text", "words"), [("prot = 1", "prot"), ("port = ", "cannot read"), ("port = 'x'", "--port")]
)
def test_bad_file_is_explained(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "beat.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        load_settings([f"--config={file}"])


def test_token_and_backend_are_never_shown() -> None:
    assert "secret" not in repr(load_settings(["--publish-token=secret"]))
    assert "secret" not in repr(load_settings(["--backend=redis://bob:secret@host"]))
    assert "secret" not in repr(load_settings(["--auth=http://bob:secret@host/hook"]))


@pytest.mark.parametrize(
    ("options", "allow"),
    [
        ([], ["subscribe-broadcast", "publish-broadcast"]),
        (["--allow="], []),
        (
            ["--allow=subscribe-broadcast, publish-broadcast"],
            ["subscribe-broadcast", "publish-broadcast"],
        ),
        (
            ["--allow=subscribe-broadcast", "--allow=publish-broadcast"],
            ["subscribe-broadcast", "publish-broadcast"],
        ),
        (["--allow", "publish-broadcast"], ["publish-broadcast"]),
    ],
)
def test_what_everybody_may_do_is_a_list(options: list[str], allow: list[str]) -> None:
    assert load_settings(options).allow == allow


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--publish-tokn=s3cret"], "unrecognized arguments: --publish-tokn (see"),
        (["--publish-tokn", "s3cret"], "unrecognized arguments: --publish-tokn (see"),
        (["s3cret", "s3cret"], "unrecognized arguments: 2 more than expected (see"),
        (["--backend=redis://user:s3cret\udcff@host"], "--backend: 'redis://host' is not UTF-8"),
        (["--backend=redis://a:1/s3cret@b\udcff"], r"--backend: 'redis://b\udcff' is not UTF-8"),
        (["--backend-lost=redis://a:s3cret@b"], "--backend-lost: 'redis://b' should be"),
        (["--port", "redis://a:s3cret@b"], "--port: 'redis://b' should be"),
        (["--back=redis://a:s3cret@b"], "ambiguous option: --back could match --backend"),
        (["--back", "redis://a:s3cret@b"], "ambiguous option: --back could match --backend"),
        (["--p=s3cret could match x"], "ambiguous option: --p could match --p"),
    ],
)
def test_what_may_be_secret_is_not_told(options: list[str], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(options)
    assert named in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('backend = ["redis://bob:s3cret@host"]', "--backend: the URL should be a valid string"),
        ('backend.url = "redis://bob:s3cret@host"', "--backend: the URL should be a valid string"),
        ('publish-token = ["s3cret"]', "--publish-token: the token should be a valid string"),
    ],
)
def test_what_may_be_secret_in_a_file_is_not_told(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "beat.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings([f"--config={file}"])
    assert str(caught.value) == named


#: As the kubelet sets them for a service, here `trio-beat` and one that begins with it.
KUBERNETES = {
    f"{service}{name}": value
    for service in ("TRIO_BEAT", "TRIO_BEAT_BACKEND", "TRIO_BEAT_2", "TRIO_BEAT_PORT")
    for name, value in {
        "_SERVICE_HOST": "10.0.0.11",
        "_SERVICE_PORT": "8000",
        "_SERVICE_PORT_WEB_TLS": "8000",
        "_PORT": "tcp://10.0.0.11:8000",
        "_PORT_8000_TCP": "tcp://10.0.0.11:8000",
        "_PORT_8000_TCP_PROTO": "tcp",
        "_PORT_8000_TCP_PORT": "8000",
        "_PORT_8000_TCP_ADDR": "10.0.0.11",
        "_PORT_53_UDP": "udp://10.0.0.11:53",
        "_PORT_53_UDP_PROTO": "udp",
        "_PORT_9_SCTP_ADDR": "fd00::1",
    }.items()
}


def test_what_kubernetes_sets_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRIO_BEAT_MISSES", "7")
    settings = load_settings([])
    assert (settings.port, settings.misses) == (8000, 7)
    file = tmp_path / "beat.toml"
    file.write_text("port = 9000\n")
    assert load_settings([f"--config={file}"]).port == 9000
    file.write_text("port = 'x'\n")
    with pytest.raises(ConfigurationError, match=r"^--port: 'x'"):
        load_settings([f"--config={file}"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROT", "1"),
        ("PORTS", "tcp://10.0.0.11:8000"),
        ("PORT_8000", "1"),
        ("PORT_8000_HTTP", "1"),
        ("SERVICE", "1"),
        ("SERVICE_HOSTS", "1"),
        ("BACKEND_PORT", "6379"),
        ("PORT", "8000/tcp"),
        ("PORT", "abc"),
        ("PORT", "http://10.0.0.11:8000"),
        ("HOST_", "1"),
    ],
)
def test_what_kubernetes_does_not_set_is_still_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, setting in KUBERNETES.items():
        monkeypatch.setenv(variable, setting)
    monkeypatch.setenv(f"TRIO_BEAT_{name}", value)
    with pytest.raises(ConfigurationError, match=rf"TRIO_BEAT_{name}\b"):
        load_settings([])


def test_text_that_the_locale_cannot_read_is_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Python gives what is no text in the locale (PEP 383); here the locale's is UTF-8.
    for value in ("\udcff", "\ud800"):
        with pytest.raises(ConfigurationError, match=r"--heartbeat-message: .* is not UTF-8"):
            load_settings([f"--heartbeat-message={value}"])
    # The name of a file is bytes.
    with pytest.raises(ConfigurationError, match=r"--config: cannot read .*No such file"):
        load_settings(["--config=/nowhere/\udcff"])


def test_each_of_several_texts_is_utf_8() -> None:
    settings = load_settings(["--host=b\udcc3\udcbccher.example", "--host=::1"])
    assert settings.host == ["b\u00fccher.example", "::1"]
    with pytest.raises(ConfigurationError, match=r"^--host: .* is not UTF-8"):
        load_settings(["--host=\udcff", "--host=::1"])


def test_file_that_is_not_utf_8_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "beat.toml"
    file.write_bytes("heartbeat-message = 'gr\u00fc\u00dfe'".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"--config: cannot read .*utf-8"):
        load_settings([f"--config={file}"])


def test_hosts_are_given_by_several_flags_or_with_commas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    several = ["127.0.0.1", "::1"]
    assert load_settings(["--host=127.0.0.1", "--host=::1"]).host == several
    assert load_settings(["--host=127.0.0.1, ::1"]).host == several
    assert load_settings(["--host=[::1]"]).host == ["[::1]"]
    assert load_settings(["--host="]).host == [""]
    file = tmp_path / "beat.toml"
    for text in ("['127.0.0.1', '::1']", "'127.0.0.1,::1'"):
        file.write_text(f"host = {text}")
        assert load_settings([f"--config={file}"]).host == several
    monkeypatch.setenv("TRIO_BEAT_HOST", "::1")
    assert load_settings([f"--config={file}"]).host == ["::1"]
    assert load_settings(["--host=::"]).host == ["::"]
    monkeypatch.setenv("TRIO_BEAT_HOST", "")
    assert load_settings([]).host == [""]
    monkeypatch.delenv("TRIO_BEAT_HOST")
    file.write_text("host = []")
    with pytest.raises(ConfigurationError, match="--host: "):
        load_settings([f"--config={file}"])
