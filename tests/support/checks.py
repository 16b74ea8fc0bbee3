"""What a check of the server's options has found."""

from __future__ import annotations

from trio_beat._command.checks.section import Section


def found(section: Section) -> list[tuple[str, str]]:
    """The level of each finding, and what it is about."""
    return [(finding.level, finding.what) for finding in section.findings]


def row(section: Section, label: str) -> str:
    """What the section tells people beside a label."""
    return dict(section.rows)[label]
