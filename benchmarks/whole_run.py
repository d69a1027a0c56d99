"""A whole training with all that one attaches to it, over the bare loop and over it by hand."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Effort, Times, interleaved
from benchmarks.results import Row
from benchmarks.rivals import Rival
from benchmarks.runs import bare, by_hand, with_eventbus
from benchmarks.task import Task

__all__ = ["NOTE", "measure"]

SECTION = "whole run"
NOTE = (
    "1,128 steps of a small perceptron on one thread of the CPU: the loss to a CSV file every 10"
    " steps, a validation, the last and the best checkpoint after each epoch, early stopping, a"
    " schedule for the learning rate. The bare loop has none of that, no validation either. By hand"
    " is the same written inline, with `torch.save` to another name and a rename: less than"
    " eventbus's `Checkpoint` does, so that this ratio has no goal. By hand, durable, is as safe: a"
    " directory for each save, its name given when all is on the disk (`fsync`), a SHA-256 sum, the"
    " random generators. Others neither wait nor sum."
    " Saving beside the loop is `Checkpoint(asynchronous=True)`."
)

Trainer = Callable[[Task, Path], int]

OURS: dict[str, Trainer] = {
    "bare": bare,
    "by hand": by_hand,
    "by hand, durable": partial(by_hand, durable=True),
    "eventbus": with_eventbus,
    "asynchronous": partial(with_eventbus, asynchronous=True),
}


def measure(effort: Effort, rivals: Iterable[Rival]) -> list[Row]:
    """Measure whole runs: the bare loop, by hand, ours and others'."""
    task = Task() if effort.scale > 0.01 else Task(epochs=2, batches=10, hidden=(8,))
    others = {rival.name: rival.whole_run for rival in rivals if rival.whole_run is not None}
    rounds = max(1, effort.rounds // 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = interleaved(_calls(OURS, task), rounds)
        theirs = interleaved(_calls({"bare": bare, **others}, task), max(1, rounds // 2))
    finally:
        torch.set_num_threads(threads)
    return [*_own_rows(ours), *_other_rows(theirs, others)]


def _own_rows(times: Times) -> list[Row]:
    def own(case: str, who: str, over: str, goal: float | None = 1.0) -> Row:
        return Row(SECTION, case, "eventbus", times.ratio(who, over), goal=goal)

    beside = ", saving beside the loop"
    hands = ("by hand", "by hand, durable")
    return [
        own(OVER_BARE, "eventbus", "bare", 1.05),
        own(OVER_BARE + beside, "asynchronous", "bare", 1.05),
        own("over by hand, durable", "eventbus", "by hand, durable"),
        own(f"over by hand, durable{beside}", "asynchronous", "by hand, durable"),
        own("over by hand", "eventbus", "by hand", None),
        own(f"over by hand{beside}", "asynchronous", "by hand", None),
        *(Row(SECTION, OVER_BARE, hand, times.ratio(hand, "bare")) for hand in hands),
    ]


OVER_BARE = "over the bare loop"


def _other_rows(times: Times, names: Iterable[str]) -> list[Row]:
    return [Row(SECTION, OVER_BARE, name, times.ratio(name, "bare")) for name in names]


def _calls(trainers: dict[str, Trainer], task: Task) -> Mapping[str, Callable[[], None]]:
    calls = {name: partial(_train, name, trainer, task) for name, trainer in trainers.items()}
    for call in calls.values():
        call()  # warm: imports made late, code specialised, the allocator's memory
    return calls


def _train(name: str, trainer: Trainer, task: Task) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench"))
    try:
        steps = trainer(task, folder)
        if steps != task.steps:
            raise RuntimeError(f"{name} took {steps} steps, not {task.steps}")
        if name != "bare":
            _check_duties(name, folder, task)
    finally:
        shutil.rmtree(folder)


def _check_duties(name: str, folder: Path, task: Task) -> None:
    rows = (folder / "loss.csv").read_text().count("\n") - 1
    if rows != task.steps // task.log_every:
        raise RuntimeError(f"{name} wrote {rows} rows")
    saved = [path for path in folder.rglob("*") if path.is_file() and path.name != "loss.csv"]
    if len(saved) < 2:
        raise RuntimeError(f"{name} saved {saved}, not the last and the best")
