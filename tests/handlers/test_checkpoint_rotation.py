"""Checkpoint: what is deleted, over saves, failures and resumes, also at lower steps (T03)."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventbus import EventBus, RestoredState, State
from eventbus.handlers import Checkpoint
from eventbus.handlers.checkpoint import CheckpointError

from .saving import Failing, unfinished

STRIDE = 500
"""Steps between saves; 9,500 is followed by 10,000, which a sort of names would put first."""

losses = st.sampled_from([1.0, 2.0, 3.0, math.nan])


@dataclass(frozen=True)
class Kept:
    """A checkpoint as it should be; `own` are the saves that it knows for its run's."""

    number: int
    step: int
    loss: float
    own: tuple[int, ...]


@dataclass
class Shelf:
    """What should be on the disk, by looking at all of it at each save."""

    keep: int
    keep_best: int
    there: dict[int, Kept] = field(default_factory=dict)
    own: list[int] = field(default_factory=list)
    saves: int = 0

    def resume(self, kept: Kept | None) -> int:
        """Go on from a checkpoint, or from nothing; return the step."""
        self.own = [] if kept is None else [each for each in kept.own if each in self.there]
        return 8_000 if kept is None else kept.step

    def save(self, step: int, loss: float) -> None:
        self.saves = max(self.there, default=0) + 1
        self.own.append(self.saves)
        self.there[self.saves] = Kept(self.saves, step, loss, tuple(self.own))
        for each in set(self.own[: -self.keep]) - set(self.best()):
            del self.there[each]
        self.own = [each for each in self.own if each in self.there]

    def best(self) -> list[int]:
        finite = [each for each in self.own if math.isfinite(self.there[each].loss)]
        return sorted(finite, key=lambda each: self.there[each].loss)[: self.keep_best]


class Life:
    """One process that goes on from a checkpoint, saves, and is cut."""

    def __init__(self, directory: Path, resume: Path | str, keep: int, keep_best: int) -> None:
        self.step = 8_000
        self.checkpoint = Checkpoint(directory, keep=keep, keep_best=keep_best, resume=resume)
        bus = EventBus(strict=True)
        bus.attach(self.checkpoint)
        bus.on("state_requested")(lambda: State("loop", {"step": self.step, "w": torch.ones(2)}))
        bus.on("state_restored")(self.take)
        self.loop = bus.bind(sender="train")
        self.loop.emit("run_opened")

    def take(self, state: RestoredState) -> None:
        self.step = state.take("loop")["step"]

    def save(self, loss: float) -> None:
        self.step += STRIDE
        metrics = {"val_loss": loss}
        self.loop.emit("epoch_finished", epoch=1, step=self.step, metrics=metrics)


lives = st.lists(
    st.fixed_dictionaries(
        {
            "resume": st.none() | st.integers(0, 5),  # one of those that are there; None: newest
            "losses": st.lists(losses, min_size=1, max_size=4),
            "fails_at": st.none()
            | st.integers(1, 9),  # the operation of one more save, before it has its name
        }
    ),
    min_size=1,
    max_size=4,
)


def look(directory: Path) -> Iterator[tuple[int, int | None, float]]:
    for saved in Checkpoint.saved(directory):
        assert Checkpoint.load(saved.path)["loop"]["step"] == saved.manifest.step
        yield saved.sequence, saved.manifest.step, saved.manifest.metrics["val_loss"]


@settings(max_examples=12)
@given(keep=st.integers(1, 3), keep_best=st.integers(1, 2), lives=lives)
@example(  # best is last, keep=1, over 9,500 and 10,000, then again from a lower step
    keep=1,
    keep_best=1,
    lives=[
        {"resume": None, "losses": [3.0, 2.0, 1.0, 1.0], "fails_at": 3},
        {"resume": 0, "losses": [1.0, 2.0], "fails_at": None},
    ],
)
def test_rotation_keeps_the_newest_and_the_best_and_deletes_only_its_own(
    tmp_path_factory: pytest.TempPathFactory,
    keep: int,
    keep_best: int,
    lives: list[dict[str, Any]],
) -> None:
    directory, shelf = tmp_path_factory.mktemp("run"), Shelf(keep, keep_best)
    for each in lives:
        there = list(shelf.there.values())
        chosen = there[-1] if there else None
        resume: Path | str = "auto"
        if there and each["resume"] is not None:
            chosen = there[each["resume"] % len(there)]
            resume = Checkpoint.saved(directory)[each["resume"] % len(there)].path
        life = Life(directory, resume, keep, keep_best)
        assert life.step == shelf.resume(chosen)
        for loss in each["losses"]:
            life.save(loss)
            shelf.save(life.step, loss)
            assert_kept(directory, shelf, life.checkpoint)
        if each["fails_at"] is not None:
            fail(life, each["fails_at"])
            assert_kept(directory, shelf, None)


def assert_kept(directory: Path, shelf: Shelf, checkpoint: Checkpoint | None) -> None:
    kept = [(each.number, each.step, each.loss) for each in shelf.there.values()]
    assert repr(list(look(directory))) == repr(kept)  # NaN is NaN
    assert unfinished(directory) == []
    if checkpoint is not None:
        paths = {each.sequence: each.path for each in Checkpoint.saved(directory)}
        assert checkpoint.last_path == paths[shelf.saves]
        assert checkpoint.best_path == next((paths[each] for each in shelf.best()), None)


def fail(life: Life, at: int) -> None:
    """Save once more, on a disk that refuses before the save has its name; nothing is deleted."""
    life.checkpoint.files = Failing(at, OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(CheckpointError, match="Input/output error"):
        life.save(0.0)


@pytest.mark.parametrize("what", ["file", "manifest of another run", "no manifest", "unfinished"])
def test_what_is_not_its_own_is_neither_counted_nor_deleted(tmp_path: Path, what: str) -> None:
    """What somebody else has put there (T02)."""
    names = {
        "file": "step-00000001-0001",
        "manifest of another run": "step-00009000-0001",
        "no manifest": "step-00009999-0077",
        "unfinished": ".unfinished-10-1-notes",
    }
    foreign = tmp_path / names[what]
    if what == "file":
        foreign.write_text("not a directory")
    elif what == "manifest of another run":
        Life(tmp_path, "never", keep=1, keep_best=1).save(0.0)
        foreign = Checkpoint.saved(tmp_path)[0].path
    else:
        foreign.mkdir()
        (foreign / "state.pt").write_text("somebody's")
    before = [each.path for each in Checkpoint.saved(tmp_path)]
    life = Life(tmp_path, "never", keep=1, keep_best=1)
    for loss in (3.0, 2.0, 1.0):
        life.save(loss)
    assert foreign.exists()
    assert [each.path for each in Checkpoint.saved(tmp_path)] == [
        *before,
        life.checkpoint.last_path,
    ]
    assert life.checkpoint.best_path == life.checkpoint.last_path


def test_superseded_one_that_holds_something_else_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(tmp_path, "never", keep=1, keep_best=1)
    life.save(3.0)
    notes = tmp_path / "step-00008500-0001" / "notes.txt"
    notes.touch()
    for loss in (2.0, 1.0, 0.5):
        life.save(loss)
    assert notes.exists()
    assert caplog.text.count("is kept, for it holds notes.txt") == 1
