"""Checkpoint: what is saved when a run ends, is stopped, or fails."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from eventbus import EventBus, Priority, Stop, at, every
from eventbus.handlers import Checkpoint, EarlyStopping
from eventbus.handlers._files import Files
from eventbus.handlers.checkpoint import CheckpointError
from eventbus.loops import Run

from .hand_loop import Training, epochs_in, sequence_of, train


class FullDisk(Files):
    """A disk on which nothing more can be written."""

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_of(bus: EventBus, epochs: int = 3, fail_at: int | None = None) -> Run:
    """Train a weight that counts its steps, three to an epoch."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    with Run(bus, model=model) as run:
        for _epoch in run.epochs(epochs):
            for _batch in run.batches([0, 1, 2]):
                if run.step == fail_at:
                    raise ZeroDivisionError("the loop failed")
                with torch.no_grad():
                    model.weight += 1
                run.report(loss=1.0)
    return run


def attached(bus: EventBus, directory: Path, **arguments: Any) -> Checkpoint:
    checkpoint = Checkpoint(directory, **{"keep": None, "best": None, **arguments})
    bus.attach(checkpoint)
    return checkpoint


def steps_in(directory: Path) -> list[int | None]:
    return [saved.manifest.step for saved in Checkpoint.saved(directory)]


def weight_in(directory: Path) -> float:
    return float(Checkpoint.weights(directory)["weight"])


# -- the end


def test_end_is_saved_where_the_filter_left_it_out(tmp_path: Path) -> None:
    train(tmp_path, keep=None, when=every(2))
    assert epochs_in(tmp_path) == [2, 4, 5]


def test_step_that_was_saved_is_not_saved_again_at_the_end(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path)
    run_of(bus)
    assert steps_in(tmp_path) == [3, 6, 9]


def test_save_within_the_last_epoch_does_not_stand_for_its_end(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path, on="batch_finished", when=every(3))
    run_of(bus, epochs=1)
    assert steps_in(tmp_path) == [3, 3]
    assert [Checkpoint.load(s.path)["loop"]["epoch"] for s in Checkpoint.saved(tmp_path)] == [0, 1]


def test_run_that_trained_nothing_saves_nothing_at_its_end(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path)
    run_of(bus, epochs=0)
    assert list(tmp_path.iterdir()) == []


def test_resumed_run_with_nothing_left_to_do_saves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        bus = EventBus()
        attached(bus, tmp_path, resume="auto")
        run_of(bus)
    assert steps_in(tmp_path) == [3, 6, 9]


def test_run_killed_within_the_end_of_its_last_epoch_is_saved_at_its_end_once_resumed(
    tmp_path: Path,
) -> None:
    for killed in (True, False):
        bus = EventBus()
        attached(bus, tmp_path, on="batch_finished", when=every(3), resume="auto")
        if killed:
            bus.on("epoch_finished")(lambda: 1 / 0 and None)
        with contextlib.suppress(ZeroDivisionError):
            run_of(bus, epochs=1)
    assert [Checkpoint.load(s.path)["loop"]["epoch"] for s in Checkpoint.saved(tmp_path)] == [0, 1]


def test_run_stopped_before_its_last_validation_is_saved_after_it_once_resumed(
    tmp_path: Path,
) -> None:
    for stopped in (True, False, False):
        bus = EventBus()
        attached(bus, tmp_path, when=at(99), resume="auto")
        if stopped:
            bus.on("batch_finished", when=at(3))(lambda step: Stop("preempted"))
        with Run(bus) as run:
            for _epoch in run.epochs(1):
                for _batch in run.batches([0, 1, 2]):
                    run.report(loss=1.0)
                for _batch in run.validate([0]):
                    run.report(loss=0.5)
    assert steps_in(tmp_path) == [3, 3]
    assert Checkpoint.saved(tmp_path)[-1].manifest.metrics == {"loss": 1.0, "val_loss": 0.5}


def test_end_that_was_chosen_as_signal_is_saved_once(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path, on="run_*", when=None)
    run_of(bus)
    # run_opened and run_started too, as asked
    assert [step for step in steps_in(tmp_path) if step == 9] == [9]


# -- a Stop


def test_stop_within_an_epoch_saves_the_last_finished_step(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path)
    bus.on("batch_finished", when=at(5))(lambda step: Stop("preempted"))
    run = run_of(bus)
    assert run.outcome == "stopped"
    assert steps_in(tmp_path) == [3, 5]
    assert weight_in(tmp_path) == 5.0


def test_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path)
    bus.on("epoch_finished", when=at(2))(lambda: Stop("preempted"))
    run_of(bus)
    bus = EventBus()
    attached(bus, tmp_path, resume="auto")
    assert run_of(bus).step == 9
    assert weight_in(tmp_path) == 9.0


def test_stop_saves_nothing_when_told_not_to(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path, at_end=False)
    bus.on("batch_finished", when=at(5))(lambda step: Stop("preempted"))
    run_of(bus)
    assert steps_in(tmp_path) == [3]


def test_end_holds_what_the_run_would_go_on_with_not_the_best_put_back(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path, when=at(99))
    bus.attach(EarlyStopping("loss", on="epoch_finished", patience=1, restore_best=True))
    seen: list[float] = []
    bus.on("run_finished")(lambda model: seen.append(model.weight.item()))
    run = run_of(bus)
    assert run.outcome == "stopped"
    assert weight_in(tmp_path) == 6.0  # the best is the first epoch's
    assert seen == [3.0]


# -- a failure


def test_failure_saves_nothing_unless_asked(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path)
    with pytest.raises(ZeroDivisionError):
        run_of(bus, fail_at=5)
    assert steps_in(tmp_path) == [3]


def test_failure_is_saved_when_asked(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path, on_failure=True)
    with pytest.raises(ZeroDivisionError):
        run_of(bus, fail_at=5)
    assert steps_in(tmp_path) == [3, 4]
    assert weight_in(tmp_path) == 4.0


def test_interrupt_is_saved_when_asked(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path, on_failure=True)

    @bus.on("batch_finished", when=at(5))
    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_of(bus)
    assert steps_in(tmp_path) == [3, 5]


def test_failing_save_never_hides_why_the_run_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    attached(bus, tmp_path, on_failure=True).files = FullDisk()
    with pytest.raises(ZeroDivisionError) as caught:
        run_of(bus, epochs=1, fail_at=2)
    assert any("No space left on device" in note for note in caught.value.__notes__)
    assert "after the run had failed, saving a checkpoint failed too" in caplog.text
    assert steps_in(tmp_path) == []


def test_failing_save_in_a_loop_by_hand_never_hides_why_it_failed(tmp_path: Path) -> None:
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, on_failure=True)
    bus.attach(checkpoint)
    checkpoint.files = FullDisk()
    error = ZeroDivisionError("the loop failed")
    bus.bind(sender="train").emit("run_failed", exception=error, epoch=1, step=4)
    assert len(error.__notes__) == 1


def test_failing_save_at_the_end_fails_the_run(tmp_path: Path) -> None:
    bus = EventBus()
    checkpoint = attached(bus, tmp_path, when=at(99))
    checkpoint.files = FullDisk()
    outcomes: list[str] = []
    bus.on("run_closed")(lambda outcome: outcomes.append(outcome))
    with pytest.raises(CheckpointError, match="No space left"):
        run_of(bus)
    assert outcomes == ["failed"]


def test_failure_after_a_stop_is_not_taken_for_the_stop(tmp_path: Path) -> None:
    bus = EventBus()
    attached(bus, tmp_path)

    @bus.on("batch_finished", when=at(5), priority=Priority.ALTER)
    def stop(step: int) -> Stop:
        return Stop("preempted")

    @bus.on("batch_finished", when=at(5))
    def fail(step: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_of(bus)
    assert steps_in(tmp_path) == [3]


def test_metrics_of_the_end_do_not_make_an_equal_one_best(tmp_path: Path) -> None:
    bus = EventBus()
    checkpoint = Checkpoint(tmp_path, keep=1, when=every(2))
    bus.attach(checkpoint)
    Training(bus).run(3, sequence_of([1.0, 1.0, 1.0]))
    assert epochs_in(tmp_path) == [2, 3]
    assert checkpoint.best_path == tmp_path / "step-00000020-0001"


def test_another_run_has_no_paths_of_the_one_before(tmp_path: Path) -> None:
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, best=None)
    bus.attach(checkpoint)
    paths: list[tuple[Path | None, Path | None]] = []
    bus.on("epoch_started")(lambda: paths.append((checkpoint.last_path, checkpoint.best_path)))
    for _ in range(2):
        with Run(bus, model=torch.nn.Linear(1, 1)) as run:
            for _ in run.epochs(1):
                pass
    assert checkpoint.last_path is not None
    assert paths == [(None, None)] * 2
