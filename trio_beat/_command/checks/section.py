"""A section of a check's report: what is so, for people and as data, and what is found wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

#: A note is worth knowing, and changes no exit code; with a warning the server runs, but not as it
#: is probably meant to; with an error it does not start, or its peers are not served.
Level: TypeAlias = Literal["info", "warning", "error"]


class Finding(NamedTuple):
    """Something that should be known."""

    level: Level
    what: str  #: what it is about; one of the names in the documentation
    text: str  #: one line, without secrets


@dataclass(slots=True)
class Section:
    """What one check tells.

    Args:
        name: its title, and its key in JSON.
    """

    name: str
    rows: list[tuple[str, str]] = field(default_factory=list)  #: labels, and what is so
    data: dict[str, Any] = field(default_factory=dict)  #: the same for programs
    findings: list[Finding] = field(default_factory=list)

    def row(self, label: str, text: str) -> None:
        """Tell people what is so."""
        self.rows.append((label, text))

    def note(self, what: str, text: str) -> None:
        """Tell what changes no exit code."""
        self.findings.append(Finding("info", what, text))

    def warn(self, what: str, text: str) -> None:
        """Tell what is probably not meant."""
        self.findings.append(Finding("warning", what, text))

    def fail(self, what: str, text: str) -> None:
        """Tell what does not work."""
        self.findings.append(Finding("error", what, text))


def seconds(value: float) -> str:
    """A span of time, for people: at most two digits behind the point."""
    return f"{round(value, 2):,.10g} s"
