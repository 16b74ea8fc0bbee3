"""How long until a dead peer is noticed, and whether beats keep a proxy from ending live ones."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from ..._heartbeat import Heartbeat
from ..._server.proxies import UNIX
from ..settings import Settings
from .section import Section, seconds


class Proxy(NamedTuple):
    """A proxy, and when it ends a connection that is idle.

    A PING goes to the client with each beat, and its PONG comes back: each direction has as much
    traffic as the other one. So it matters little which of them a proxy looks at.
    """

    name: str
    idle: float  #: seconds, unless the proxy is configured otherwise
    setting: str  #: what it is called there
    counts: str  #: which traffic keeps a connection open


#: Sources of the limits are in trio_beat/docs/check.rst.
PROXIES: Final = {
    "nginx": Proxy("nginx", 60, "proxy_read_timeout", "PINGs count, which the server sends"),
    "haproxy": Proxy(
        "HAProxy",
        50,
        "timeout tunnel, or timeout client and timeout server",
        "PINGs and PONGs count, each for its side; there is no default, and 50 s are Debian's",
    ),
    "alb": Proxy("AWS ALB", 60, "idle_timeout.timeout_seconds", "PINGs and PONGs count"),
    "cloudflare": Proxy("Cloudflare", 100, "Proxy Read Timeout", "PINGs count"),
}
#: The share of an idle limit that one beat may take: a late one still comes in time.
_SHARE: Final = 0.75
#: Seconds and misses of the browser's client, unless its page says otherwise (clients.rst).
_PAGE_INTERVAL: Final = 5.0
_PAGE_MISSES: Final = 3
_PAGE_TEXT: Final = "--heartbeat--"


def check_beats(settings: Settings) -> Section:
    """Say how long until a dead peer is noticed, for each way in which it can be."""
    section = Section("heartbeat")
    beat = Heartbeat(settings.interval, settings.misses, settings.heartbeat_message)
    interval, misses = beat.interval, beat.misses
    # On a network that loses packets as many beats again are granted (`Verdict`).
    lossy = (2 * misses + 1) * interval
    # The kernel is asked at each beat while nothing is read. A PING that is sent one beat after the
    # cut is seen to wait at the next one, and then for half a beat more than those that may be
    # missed (`Beating._judge`).
    unread = (misses + 3) * interval if sys.platform == "linux" else None
    section.data = {
        "interval": interval,
        "misses": misses,
        "message": beat.message,
        "silent_least": misses * interval,
        "silent_most": beat.patience,
        "lossy_most": lossy,
        "unread_most": unread,
        "asgi_most": None if beat.message is None else beat.patience,
        "browser_most": None if beat.message is None else (_PAGE_MISSES + 1) * _PAGE_INTERVAL,
        "client_most": Heartbeat().patience,
    }
    text = "" if beat.message is None else ", with the text heartbeat"
    section.row("beat", f"a PING every {seconds(interval)}{text}")
    spread = f"{round(misses * interval, 2):,.10g} to {seconds(beat.patience)}"
    section.row("silent peer", f"gone {spread} after its last byte")
    section.row("on a bad network", f"at most {seconds(lossy)}, where packets are lost")
    section.row("closed or reset", "at once")
    section.row(
        "while unread",
        f"at most {seconds(unread)}, by what its kernel acknowledges; later if its buffers are full"
        if unread is not None
        else "in minutes, by TCP itself: this system does not say more",
    )
    _check_page(section, settings)
    section.row("Trio client", f"notices a dead server within {seconds(Heartbeat().patience)}")
    section.row(
        "over ASGI",
        f"at most {seconds(beat.patience)}, by the text heartbeat"
        if beat.message is not None
        else "never without --heartbeat-message: no PONG is seen there",
    )
    return section


def _check_page(section: Section, settings: Settings) -> None:
    """Say when a page's client notices a dead server, and whether it gives up a live one."""
    if settings.heartbeat_message is None:
        section.row("browser client", "cannot notice a silent server without --heartbeat-message")
        return
    longest = section.data["browser_most"]
    section.row("browser client", f"notices a dead server within {seconds(longest)}")
    if settings.interval >= _PAGE_MISSES * _PAGE_INTERVAL:
        section.warn(
            "watchdog",
            f"the browser client gives a live server up after {_PAGE_MISSES} silent intervals of "
            f"{seconds(_PAGE_INTERVAL)}; tell it {{ interval: {settings.interval:g} }}, or beat "
            "more often",
        )
    if settings.heartbeat_message != _PAGE_TEXT:
        section.note("watchdog", "the browser client has to be told the text: { heartbeat: ... }")


def check_proxies(settings: Settings, behind: str | None, idle: float | None) -> Section:
    """Say whether beats are frequent enough for a proxy.

    Args:
        settings: the options.
        behind: a key of `PROXIES`; None: no proxy is named.
        idle: seconds after which the proxy ends an idle connection; None: its default.
    """
    section = Section("proxy")
    section.data = {"behind": behind, "idle_timeout": idle, "interval": settings.interval}
    _check_trusted(section, settings)
    if behind is None and idle is None:
        _check_usual(section, settings.interval)
        return section
    proxy = PROXIES.get(behind or "", Proxy("the proxy", 0, "its idle timeout", ""))
    limit = proxy.idle if idle is None else idle
    section.data["idle_timeout"] = limit
    section.row("idle limit", f"{proxy.name} ends what is idle for {seconds(limit)}")
    section.row("is set by", proxy.setting)
    if proxy.counts:
        section.row("what counts", proxy.counts)
    late = (
        f"beats are {seconds(settings.interval)} apart, and {proxy.name} ends what is idle for "
        f"{seconds(limit)}"
    )
    if settings.interval >= limit:
        section.fail("proxy", f"{late}: live peers are cut off; set --interval below it")
    elif settings.interval > _SHARE * limit:
        section.warn("proxy", f"{late}: a late beat is too late; set --interval lower")
    else:
        section.row("beats", f"often enough: one every {seconds(settings.interval)}")
    if behind is not None and not settings.trusted_proxy:
        section.warn(
            "forwarding",
            f"without --trusted-proxy all peers have the address of {proxy.name}, in logs and for "
            "limits",
        )
    return section


def _check_trusted(section: Section, settings: Settings) -> None:
    """Warn where the proxies that are trusted are not where peers come from."""
    # Sockets that systemd opens are not seen here: ``unix`` may be right without --uds.
    path_alone = settings.uds is not None and not settings.listens_on_port(given=False)
    named = not settings.trusted_proxy or UNIX in settings.trusted_proxy
    if path_alone and not named and not settings.fd:
        section.warn(
            "forwarding",
            f"--trusted-proxy does not name {UNIX}, and all peers come by --uds: no proxy is "
            "believed there, and they have one address",
        )


def _check_usual(section: Section, interval: float) -> None:
    kept = [it.name for it in PROXIES.values() if interval <= _SHARE * it.idle]
    cut = [it for it in PROXIES.values() if interval > _SHARE * it.idle]
    section.row("often enough for", ", ".join(kept) or "none of the usual ones")
    if cut:
        names = ", ".join(f"{it.name} ({seconds(it.idle)})" for it in cut)
        text = f"beats are {seconds(interval)} apart, too few for the defaults of {names}"
        section.warn("proxy", f"{text}; say with --behind or --idle-timeout what stands in front")
