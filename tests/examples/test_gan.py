"""`gan.py`: the generator comes nearer to the spots, and both losses are logged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eventbus.handlers.csv_log import CSVLog

from .running import run_example


@pytest.mark.slow  # it trains for 500 steps
def test_the_generator_finds_spots_of_the_ring(tmp_path: Path) -> None:
    said = run_example("gan", "--steps", "500", "--run-dir", tmp_path)
    found = re.findall(r"step +(\d+): (\d+) of 8 spots; to the nearest: (\d\.\d+)", said)
    (begin, none, far), (end, some, near) = found
    assert (begin, end) == ("0", "500")
    assert int(none) == 0
    assert int(some) >= 4
    assert float(near) < 0.5 * float(far)
    rows = CSVLog.read(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == list(range(50, 501, 50))
    assert all({"loss_generator", "loss_discriminator"} <= row.keys() for row in rows)
