"""``python -m trio_beat check``: what the server's options mean, without running it."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, Final

import trio

from .._log import get_logger
from .._text import printable
from .arguments import Parser
from .checks.access import check_access
from .checks.backend import check_backend
from .checks.beats import PROXIES, check_beats, check_proxies
from .checks.capacity import check_capacity
from .checks.certificate import check_certificate
from .checks.listening import check_listening
from .checks.section import Finding, Section
from .logs import set_up_logging
from .settings import Settings, load_settings
from .sources import EPILOG
from .streams import complain, say

#: The exit code of the worst that was found; what is worse stands above.
_CODES: Final = {"info": 0, "warning": 1, "error": 2}
#: Columns where there is no terminal, and the most and least that are used of one.
_COLUMNS: Final = 80
_WIDEST: Final = 100
_NARROWEST: Final = 40
#: Where what is so begins.
_INDENT: Final = 20


def check(arguments: Sequence[str]) -> int:
    """Print what the options mean.

    Args:
        arguments: the command line's, without the command.

    Returns:
        0 where all is well, 1 with warnings, 2 with errors.

    Raises:
        ConfigurationError: an option is unknown, or its value is not allowed.
        SystemExit: help was asked for, and has been printed.
    """
    own: dict[str, Any] = {"behind": None, "idle_timeout": None, "json": False}
    settings = load_settings(arguments, _parser(own))
    # What is found is told once, here; other packages may have to say something.
    set_up_logging(settings.log_level, settings.log_format)
    get_logger("trio_beat").setLevel("CRITICAL")
    behind, idle = own["behind"], own["idle_timeout"]
    found: tuple[Section, Section] | None = None
    try:
        found = trio.run(_look, settings, behind is not None or idle is not None)
    except* KeyboardInterrupt:
        complain("interrupted")
    if found is None:
        return 2
    backend, listening = found
    sections = [
        check_beats(settings),
        check_proxies(settings, behind, idle),
        listening,
        check_certificate(settings),
        # Outside of Trio: an application's module is imported, as for the server.
        check_access(settings),
        backend,
        check_capacity(settings),
    ]
    findings = [finding for section in sections for finding in section.findings]
    findings.sort(key=lambda finding: -_CODES[finding.level])
    code = max((_CODES[finding.level] for finding in findings), default=0)
    if own["json"]:
        text = json.dumps(_as_data(sections, findings, code), indent=2) + "\n"
    else:
        text = "".join(f"{line}\n" for line in _as_text(sections, findings))
    say(text)
    return code


def _parser(own: dict[str, Any]) -> Parser:
    """The parser of the command line.

    Args:
        own: gets the values of the options that the server has not.
    """

    class Keep(argparse.Action):
        """Keeps a value out of the namespace, which has the server's options."""

        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: Any,
            option_string: str | None = None,
        ) -> None:
            name = self.option_strings[0].removeprefix("--").replace("-", "_")
            own[name] = self.const if self.nargs == 0 else values

    parser = Parser(
        prog="trio-beat check",
        description="Say what the server's options mean, and what is wrong with them: how soon a "
        "dead peer is noticed, what a proxy makes of the beats, file descriptors, memory, the "
        "certificate, and what the broker answers. The exit code is 0, 1 with warnings, or 2 with "
        "errors.",
        epilog=EPILOG + " That does not hold for --behind, --idle-timeout and --json.",
    )
    quiet: dict[str, Any] = {"action": Keep, "dest": argparse.SUPPRESS}
    parser.add_argument(
        "--behind",
        choices=[*PROXIES],
        metavar="PROXY",
        help=f"the proxy in front of the server: {', '.join(PROXIES)}",
        **quiet,
    )
    parser.add_argument(
        "--idle-timeout",
        type=_positive,
        metavar="SECONDS",
        help="seconds after which that ends an idle connection, where it is not its default",
        **quiet,
    )
    parser.add_argument(
        "--json", nargs=0, const=True, help="print one object for programs", **quiet
    )
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of seconds, more than 0")
    return value


async def _look(settings: Settings, behind: bool) -> tuple[Section, Section]:
    """Look at the broker, and where to listen; both at once, since each may take seconds."""
    backend = listening = Section("")

    async def look_at_backend() -> None:
        nonlocal backend
        backend = await check_backend(settings)

    async def look_at_listening() -> None:
        nonlocal listening
        listening = await check_listening(settings, behind)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_at_backend)
        nursery.start_soon(look_at_listening)
    return backend, listening


def _as_data(sections: Sequence[Section], findings: Sequence[Finding], code: int) -> dict[str, Any]:
    return {
        "version": version("trio-beat"),
        "exit_code": code,
        "findings": [finding._asdict() for finding in findings],
        **{section.name: section.data for section in sections},
    }


def _as_text(sections: Sequence[Section], findings: Sequence[Finding]) -> Iterator[str]:
    width = _width()
    for section in sections:
        if section.rows:
            yield section.name
            for label, text in section.rows:
                yield from _wrapped(f"  {label}", text, width)
            yield ""
    for finding in findings:
        yield from _wrapped(finding.level, f"{finding.what}: {finding.text}", width, 9)
    counts = {level: sum(it.level == level for it in findings) for level in _CODES}
    if counts["error"] or counts["warning"]:
        yield " and ".join(
            f"{count} {level}{'s' * (count > 1)}"
            for level, count in (("error", counts["error"]), ("warning", counts["warning"]))
            if count
        )
    else:
        yield "all is well"


def _wrapped(label: str, text: str, width: int, indent: int = _INDENT) -> list[str]:
    """A label and a text beside it, in lines that are not too long."""
    return textwrap.wrap(
        printable(text),
        max(width, indent + _NARROWEST),
        initial_indent=label.ljust(indent - 1) + " ",
        subsequent_indent=" " * indent,
        break_long_words=False,  # an address is to be copied
        break_on_hyphens=False,  # so is an option
    )


def _width() -> int:
    if not os.isatty(1):
        return _COLUMNS
    return min(shutil.get_terminal_size((_COLUMNS, 24)).columns, _WIDEST)
