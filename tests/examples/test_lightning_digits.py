"""`lightning_digits.py`: portable handlers stop it, save it and file its curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from .digits_example import ended_as_it_should
from .running import run_example, skip_without

skip_without("lightning")

OWN = (
    "`isinstance(treespec, LeafSpec)` is deprecated",
    "The 'train_dataloader' does not have many workers",
    "The 'val_dataloader' does not have many workers",
)


@pytest.mark.slow  # it imports all of the framework, in a process of its own
def test_handlers_that_never_saw_lightning_work_there(tmp_path: Path) -> None:
    said = run_example("lightning_digits", "--run-dir", tmp_path, ignore=OWN)
    ended_as_it_should(said, tmp_path)
