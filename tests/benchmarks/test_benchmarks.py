"""The benchmarks run and say all that they promise. What they measure is not tested here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CASES = ("dispatch", "idle", "whole run", "progress bar", "background", "import", "memory")
GOALS = (
    "≤ 2 ×",
    "≤ 1 ×",
    "≤ 0.1 ×",
    "≤ 1.05 ×",
    "≤ 1.01 ×",
    "≤ 60 ms",
    "≤ 5 ×",
    "≤ 1.5 ×",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with what all cases wrote, run as small as they go, without the others."""
    folder = tmp_path_factory.mktemp("benchmarks")
    run("--effort", "tiny", "--alone", "--out", str(folder))
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def rows_of(page: str, heading: str) -> list[list[str]]:
    _, _, rest = page.partition(f"## {heading}\n")
    lines = rest.partition("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return cells[2:]


def test_report_has_rows_for_each_case(written: Path) -> None:
    rows = rows_of((written / "results.md").read_text(encoding="utf-8"), "eventbus")
    assert [row[0] for row in rows if row[0]] == list(CASES)


def test_report_holds_each_row_with_a_goal_against_it(written: Path) -> None:
    rows = rows_of((written / "results.md").read_text(encoding="utf-8"), "eventbus")
    for _, case, measured, goal, met in rows:
        assert float(measured.split()[0]) >= 0, case
        assert (met in ("yes", "**no**")) is bool(goal), case
    assert set(GOALS) <= {row[3] for row in rows}


def test_report_says_what_each_case_means_and_where_it_was_measured(written: Path) -> None:
    page = (written / "results.md").read_text(encoding="utf-8")
    for case in CASES:
        assert f"* **{case}**: " in page
    for said in (f"{sys.version_info.major}.{sys.version_info.minor}", "torch ", "logical cores"):
        assert said in page


def test_report_is_drawn_too(written: Path) -> None:
    pytest.importorskip("matplotlib")
    assert (written / "results.png").read_bytes().startswith(b"\x89PNG")


def test_missing_library_is_said_by_name(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['pluggy'] = None\n")
    run_with = {**os.environ, "PYTHONPATH": str(hidden), "PYTHONNOUSERSITE": "1"}
    program = "from benchmarks.rivals import found; print(found(['pluggy', 'blinker'])[1])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=run_with,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{'pluggy': 'not measured: pluggy is not installed'}"
