"""What every training of the digits leaves behind, whichever framework trained."""

from __future__ import annotations

import re
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eventbus.handlers import Checkpoint


def ended_as_it_should(said: str, folder: Path) -> None:
    """Check what was said, the checkpoints, and the curves."""
    assert re.search(r"ended after epoch \d+: val_loss has not improved", said)
    accuracy = [float(one) for one in re.findall(r"([\d.]+)% of the digits", said)]
    assert max(accuracy) > 90
    saved = sorted((folder / "checkpoints").glob("step-*"))
    assert Checkpoint.load(saved[-1])["loop"]["epoch"] == len(accuracy)
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    curve = [point.value for point in board.Scalars("epoch/val_loss")]
    assert len(curve) == len(accuracy)
