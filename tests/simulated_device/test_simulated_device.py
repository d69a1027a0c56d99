"""What arrives late is right, and nobody on the loop's thread waits for it: seen on a device.

The device is simulated (`device.cpp`). A process that knows it has an accelerator for good, so the
tests on it run in one of their own; by hand: `pytest tests/simulated_device/every_handler.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .device import can_be_built

FOLDER = Path(__file__).parent
FILES = (
    "of_the_device.py",
    "asynchronous_checkpoints.py",
    "background_handlers.py",
    "every_handler.py",
    "numbers_in_transit.py",
)


@pytest.mark.slow
def test_nobody_waits_for_what_arrives_late_but_who_reads_it(tmp_path: Path) -> None:
    if not can_be_built():
        pytest.skip("needs a C++ compiler and ninja")
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "tests")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *options, *(str(FOLDER / name) for name in FILES)],
        cwd=FOLDER.parents[1],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
