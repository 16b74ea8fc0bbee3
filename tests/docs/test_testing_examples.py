"""The examples of tests are run as tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import examples


@pytest.mark.real
@pytest.mark.slow
def test_they_pass_as_they_stand(tmp_path: Path) -> None:
    texts = examples("testing", "python")
    for number, text in enumerate(texts):
        (tmp_path / f"test_{number}.py").write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:valkey"]
    ran = subprocess.run(
        [*pytest_run, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    count = sum(text.count("async def test_") for text in texts)
    assert count >= 6
    assert f"{count} passed" in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == 0
