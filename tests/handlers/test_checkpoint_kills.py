"""A real training process, killed by the operating system at random moments (T01)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_test.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_training_killed_at_random_moments_loses_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "200"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    counts = dict(re.findall(r"([a-z][a-z ]*[a-z]) (\d+)", done.stdout))
    assert counts["kills"] == "200"
    assert int(counts["resumes"]) > 20
    assert counts["unreadable newest"] == counts["wrong weights"] == "0"
