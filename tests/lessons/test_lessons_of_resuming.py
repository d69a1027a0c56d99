"""What other frameworks get wrong about state and checkpoints, shown right here.

The docstring of each test names whose defect it was, found in the sources and the threads of the
frameworks; most were reproduced in the releases that were current then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pytest

from eventbus import AttachError, EventBus, handles
from eventbus.handlers import Checkpoint, EarlyStopping, NonFiniteGuard
from eventbus.handlers._files import Files
from eventbus.handlers.checkpoint import CheckpointError
from eventbus.testing import capture

from .training import BrokenError, killed_then_resumed, train


def test_restored_early_stopping_count_is_kept_when_the_resumed_run_starts(tmp_path: Path) -> None:
    """Ignite, and Lightning once: the start event that also fires on resume wiped the count."""
    val_losses = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    stopping, run = killed_then_resumed(tmp_path, lambda: EarlyStopping(patience=3), val_losses, 3)
    assert (stopping.best, stopping.count) == (1.0, 3)
    assert run.epoch == 4


def test_guard_against_bad_losses_can_be_resumed(tmp_path: Path) -> None:
    """Lightning: a run with `SpikeDetection` cannot be resumed."""
    guard, run = killed_then_resumed(
        tmp_path, lambda: NonFiniteGuard("skip"), [1.0] * 3, 2, losses=[1.0, math.nan, 1.0]
    )
    assert (run.epoch, run.step) == (3, 6)
    assert guard.skipped == 3


class Seen:
    """Counts epochs, and keeps the count."""

    def __init__(self) -> None:
        self.epochs = 0

    @handles("epoch_finished")
    def see(self) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, int]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epochs = state["epochs"]


def test_handler_state_is_restored_without_being_asked_for(tmp_path: Path) -> None:
    """Hugging Face: the state of a callback is not restored unless an option says so."""
    assert killed_then_resumed(tmp_path, Seen, [1.0] * 5, at=2)[0].epochs == 5


def test_order_of_handlers_is_the_same_after_a_resume(tmp_path: Path) -> None:
    """Hugging Face: with restored callbacks their order changes."""
    orders: list[list[str]] = []
    for epochs in (1, 2):
        bus, order = EventBus(), list[str]()
        bus.attach(Checkpoint(tmp_path, resume="auto"))
        for name in ("one", "two", "three"):
            bus.on("epoch_finished", name=name)(lambda name=name, order=order: order.append(name))
        train(bus, [1.0] * epochs)
        orders.append(order)
    assert orders == [["one", "two", "three"]] * 2


def test_two_handlers_of_one_class_cannot_overwrite_each_others_state() -> None:
    """Several, Lightning among them: state is kept by class name, and the last one wins."""
    bus = EventBus()
    bus.attach(Seen())
    with pytest.raises(AttachError, match="name="):
        bus.attach(Seen())
    bus.attach(Seen(), name="second")
    train(bus, [1.0])
    assert bus.emit("state_requested").state == {"Seen": {"epochs": 1}, "second": {"epochs": 1}}


def test_position_within_an_epoch_is_not_lost_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keras: `BackupAndRestore` saves the batch number, and resumes at batch 0 saying nothing."""
    bus, resumed = EventBus(), EventBus()
    bus.attach(Checkpoint(tmp_path, on="batch_finished"))

    @bus.on("checkpoint_saved")
    def end(step: int) -> None:
        if step == 5:
            raise BrokenError

    with pytest.raises(BrokenError):
        train(bus, [1.0, 1.0], losses=[1.0, 1.0, 1.0])
    resumed.attach(Checkpoint(tmp_path, resume="auto"))
    with capture(resumed, "batch_loaded") as recording:
        train(resumed, [1.0, 1.0], losses=[1.0, 1.0, 1.0])
    seen = [(one["epoch"], one["batch_index"]) for one in recording.emissions]
    assert seen == [(2, 3)]
    assert "ResumableSampler" in caplog.text  # how not to read again what was trained on already


class FullDisk(Files):
    """No room for anything."""

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        raise OSError(28, "No space left on device")


def test_failed_save_with_keep_1_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """Ignite, MMEngine, verl: with keep=1 the old one is deleted before the new one is written."""
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, keep=1, best=None)
    bus.attach(checkpoint)
    train(bus, [1.0])
    checkpoint.files = FullDisk()
    with pytest.raises(CheckpointError):
        train(bus, [1.0])
    (left,) = Checkpoint.saved(tmp_path)
    assert Checkpoint.load(left.path)["loop"]["epoch"] == 1


def test_checkpoint_holds_the_decision_of_its_own_epoch(tmp_path: Path) -> None:
    """Ignite, Lightning: users sort the handlers by hand, or save before the decision is made."""
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))  # attached first, and yet it runs last
    bus.attach(EarlyStopping(patience=1))
    assert train(bus, [1.0, 2.0, 2.0]).outcome == "stopped"
    assert Checkpoint.load(tmp_path)["EarlyStopping"]["count"] == 1
