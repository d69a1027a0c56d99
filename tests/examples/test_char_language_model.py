"""`char_language_model.py`: it learns, its handlers do the rest, it resumes, its loop is short."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import pytest

from eventbus.handlers.checkpoint import Checkpoint
from eventbus.handlers.csv_log import CSVLog

from .running import EXAMPLES, run_example

SMALL = ("--warmup-steps=5", "--decay-steps=15", "--validate-every=10", "--batch-size=2")


def train(folder: Path, steps: int, *more: str) -> str:
    return run_example(
        "char_language_model", "--steps", str(steps), "--run-dir", folder, *SMALL, *more
    )


def validations(folder: Path) -> list[dict[str, Any]]:
    return [row for row in CSVLog.read(folder / "log.csv") if "val_loss" in row]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of 20 steps, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, 20)


def test_the_model_learns_and_is_validated_every_so_many_steps(whole: tuple[Path, str]) -> None:
    rows = validations(whole[0])
    assert [row["step"] for row in rows] == [10, 20]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] < math.log(128)


def test_the_learning_rate_is_decayed_by_a_handler(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    rates = {
        saved.manifest.step: Checkpoint.load(saved.path)["optimizer"]["param_groups"][0]["lr"]
        for saved in Checkpoint.saved(folder / "checkpoints")
    }
    assert rates[20] == pytest.approx(0.1 * 3e-3)  # 5 steps up to 3e-3, then 15 down to a tenth


def test_the_best_checkpoint_is_kept(whole: tuple[Path, str]) -> None:
    folder, said = whole
    losses = {
        row["step"]: row["val_loss"] for row in CSVLog.read(folder / "log.csv") if "val_loss" in row
    }
    best = min(losses, key=lambda step: losses[step])
    path = re.search(r"the best weights: (.+)$", said, re.MULTILINE)
    assert path is not None
    assert f"step-{best:08}" in path[1]
    assert "embedding.weight" in Checkpoint.load(path[1])["model"]


@pytest.mark.slow
def test_a_resumed_run_logs_what_the_whole_one_does(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    train(tmp_path, 10)
    assert "resumed from" in train(tmp_path, 20, "--resume")
    assert (tmp_path / "log.csv").read_bytes() == (whole[0] / "log.csv").read_bytes()


def test_the_loop_has_the_number_of_lines_that_the_readme_says() -> None:
    source = (EXAMPLES / "char_language_model.py").read_text(encoding="utf-8")
    loops = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.With) and ast.unparse(node).startswith("with Run(")
    ]
    (loop,) = loops
    assert loop.end_lineno is not None
    lines = source.splitlines()[loop.lineno - 1 : loop.end_lineno]
    counted = len([line for line in lines if line.strip()])
    assert run_example("char_language_model", "--count-loop-lines") == f"{counted}\n"
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"a loop of {counted} lines" in readme
