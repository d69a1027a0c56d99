"""`save_weights.py`: files after every tenth epoch, and no other."""

from __future__ import annotations

from pathlib import Path

import torch

from .running import run_example


def test_the_weights_are_saved_every_10_epochs(tmp_path: Path) -> None:
    said = run_example("save_weights", "--epochs", "21", "--run-dir", tmp_path)
    saved = sorted(tmp_path.iterdir())
    assert [path.name for path in saved] == ["weights-0010.pt", "weights-0020.pt"]
    assert all(f"saved {path}" in said for path in saved)
    early, late = (torch.load(path, weights_only=True) for path in saved)
    assert early.keys() == late.keys()
    assert not torch.equal(early["0.weight"], late["0.weight"])


def test_without_a_folder_it_writes_under_runs(tmp_path: Path) -> None:
    run_example("save_weights", "--epochs", "10", cwd=tmp_path)
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [Path("runs/save_weights/weights-0010.pt")]
