"""The last full run, as it is kept and shown."""

from __future__ import annotations

import re
from pathlib import Path

import docutils.core
import pytest

from benchmarks.__main__ import COMMANDS
from benchmarks._results import summary, write_results
from benchmarks._suite import Options, Report
from benchmarks.peers import PEERS

_ROOT = Path(__file__).parent.parent.parent
_RULE = r"^=+(?: +=+)+\n"
_TABLE = re.compile(f"{_RULE}(?:.+\n)+?{_RULE}(?:.+\n)+?{_RULE}", re.MULTILINE)


@pytest.fixture
def reports() -> list[Report]:
    """What a run would give if all figures were the same."""
    made = []
    for name, command in COMMANDS.items():
        options = command.quick
        report = Report(
            name, command.title, options, command.figures(options), command.goals(options)
        )
        for peer in options.peers:
            for value in (3.0, 2.0):
                report.add(peer, {figure.key: value for figure in report.figures})
        made.append(report)
    return made


def test_the_summary_has_a_row_for_each_server(reports: list[Report]) -> None:
    table = summary(reports)
    assert [row[0] for row in table.rows] == list(PEERS)
    # The median of two rounds, or the worst of them where that is what counts.
    assert table.rows[0][1:] == ["2.5", "2.5", "2", "2", "2", "2.5", "2.5", "2", "3.0", "3"]
    # Measured by one of the commands only.
    assert table.rows[1][1:] == ["2.5", "2.5", "2", "2", "2", "2.5", "-", "-", "-", "-"]


def test_a_server_that_never_noticed_says_so(reports: list[Report]) -> None:
    detect = next(report for report in reports if report.command == "detect")
    detect.results["cut_worst"]["hypercorn"] = [None, None]
    assert _row(reports, "hypercorn")[9] == "never"


def test_what_was_not_measured_is_not_never(reports: list[Report]) -> None:
    detect = next(report for report in reports if report.command == "detect")
    for key in ("cut", "cut_worst", "cut_missed"):
        detect.results[key]["websockets"] = [None, None]
    detect.results["silent_missed"]["websockets"] = [0, 0]
    assert _row(reports, "websockets")[9] == "-"


def _row(reports: list[Report], server: str) -> list[str]:
    row = next(row for row in summary(reports).rows if row[0] == server)
    return [str(cell) for cell in row]


@pytest.mark.slow
def test_the_file_is_valid_and_shows_its_pictures(reports: list[Report], tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.rst"
    write_results(path, "a machine", "python -m benchmarks all", reports)
    text = path.read_text()
    # Raises on whatever is not valid.
    docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2})
    pictures = re.findall(r"image:: (\S+)", text)
    assert len(pictures) == len(COMMANDS)
    for picture in pictures:
        assert (tmp_path / picture).stat().st_size > 1000


def test_readme_and_documentation_show_the_last_run() -> None:
    results = (_ROOT / "benchmarks" / "RESULTS.rst").read_text()
    readme = (_ROOT / "README.rst").read_text()
    first = _TABLE.search(results)
    assert first is not None
    # Others are younger than the last full run.
    assert {peer for peer in PEERS if peer not in first[0]} <= {"trio_beat_identity"}
    assert first[0] in (_ROOT / "trio_beat" / "docs" / "operating.rst").read_text()
    (picture,) = re.findall(r"image:: (\S+)", readme)
    assert (_ROOT / picture).read_bytes().startswith(b"\x89PNG")
    assert Path(picture).name in results


def test_options_of_the_last_run_are_not_those_of_a_quick_one() -> None:
    results = (_ROOT / "benchmarks" / "RESULTS.rst").read_text()
    (command,) = re.findall(r"Written by ``(.*)``", results)
    assert "--quick" not in command
    assert f"rounds {Options().rounds}," in results
