"""`k_fold.py`: a line and a folder of checkpoints for each fold, and the mean of all."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

import pytest

from eventbus.handlers.checkpoint import Checkpoint

from .running import run_example, skip_without

skip_without("sklearn")


@pytest.mark.slow  # it trains three times
def test_each_fold_is_a_run_of_its_own(tmp_path: Path) -> None:
    said = run_example("k_fold", "--folds", "3", "--epochs", "4", "--run-dir", tmp_path)
    folds = re.findall(
        r"^(fold-\d): ([\d.]+)% at epoch (\d); ended after epoch 4$", said, re.MULTILINE
    )
    assert [name for name, _, _ in folds] == ["fold-1", "fold-2", "fold-3"]
    accuracies = [float(accuracy) for _, accuracy, _ in folds]
    assert min(accuracies) > 85
    total = re.search(r"^accuracy: ([\d.]+)%", said, re.MULTILINE)
    assert total is not None
    assert float(total[1]) == pytest.approx(mean(accuracies), abs=0.01)
    for name, accuracy, epoch in folds:
        kept = {saved.manifest.epoch: saved.manifest for saved in Checkpoint.saved(tmp_path / name)}
        assert set(kept) == {int(epoch), 4}
        best = kept[int(epoch)].metrics["val_accuracy"]
        assert best * 100 == pytest.approx(float(accuracy), abs=0.01)
