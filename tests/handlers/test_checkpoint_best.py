"""Checkpoint: which save is the best, where the metric is of other weights than the saved ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, Stop, at, every, from_
from eventbus.handlers import Checkpoint, EarlyStopping, NonFiniteGuard
from eventbus.loops import Run

NAN = float("nan")


def attached(directory: Path, **arguments: Any) -> tuple[EventBus, Checkpoint]:
    bus, checkpoint = EventBus(), Checkpoint(directory, **arguments)
    bus.attach(checkpoint)
    return bus, checkpoint


def train_steps(bus: EventBus, steps: int, validated: dict[int, float], **losses: float) -> None:
    """Train without epochs; validate after some of the steps."""
    with Run(bus) as run:
        for step in run.steps(steps):
            run.report(loss=losses.get(f"at_{step}", 1.0))
            if step in validated:
                with run.validation():
                    run.report(loss=validated[step])


def train_epochs(bus: EventBus, val_losses: list[float | None], per_epoch: int = 2) -> None:
    """Train so many epochs; validate at the end of some."""
    with Run(bus) as run:
        for epoch in run.epochs(len(val_losses)):
            for _ in run.batches(range(per_epoch)):
                run.report(loss=1.0)
            val_loss = val_losses[epoch - 1]
            if val_loss is not None:
                with run.validation():
                    run.report(loss=val_loss)


def saved_in(directory: Path) -> list[tuple[int | None, float | None]]:
    """Each save: its step, and what it competes by for the best."""
    facts = [saved.manifest for saved in Checkpoint.saved(directory)]
    return [(one.step, one.metrics.get("val_loss") if one.is_candidate else None) for one in facts]


def step_of(path: Path | None) -> int | None:
    return None if path is None else int(path.name.split("-")[1])


# -- the end


def test_end_is_not_the_best_by_a_validation_of_older_weights(tmp_path: Path) -> None:
    bus, checkpoint = attached(tmp_path, on="validation_done", keep=1, keep_best=2)
    train_steps(bus, 7, {2: 0.5, 4: 0.1})
    assert step_of(checkpoint.best_path) == 4
    assert saved_in(tmp_path) == [(2, 0.5), (4, 0.1), (7, None)]


def test_end_of_a_run_that_went_wrong_is_not_the_best(tmp_path: Path) -> None:
    bus, checkpoint = attached(tmp_path, on="validation_done", when=every(2), keep=1)
    bus.attach(NonFiniteGuard("stop"))
    train_steps(bus, 9, {2: 0.5, 4: 0.4, 6: 0.1}, at_7=NAN)
    assert step_of(checkpoint.best_path) == 4
    assert saved_in(tmp_path) == [(4, 0.4), (7, None)]


def test_end_of_an_epoch_that_was_cut_is_not_the_best(tmp_path: Path) -> None:
    bus, checkpoint = attached(tmp_path, when=every(2), keep=1)
    bus.on("batch_finished", when=at(4))(lambda step: Stop("enough"))
    with Run(bus) as run:
        for _ in run.epochs(3):
            for _ in run.batches(range(9)):
                run.report(loss=1.0)
                if run.step == 2:
                    with run.validation():
                        run.report(loss=0.1)
    assert checkpoint.best_path is None
    assert saved_in(tmp_path) == [(4, None)]


@pytest.mark.parametrize(
    ("val_losses", "best"),
    [([0.5, 0.4, 0.1], 6), ([0.5, 0.3, 0.4], 4), ([0.5, 0.4, None], 4), ([0.1, 0.4, 0.5], 4)],
)
def test_end_is_a_candidate_where_it_was_just_measured_and_not_due(
    val_losses: list[float | None], best: int, tmp_path: Path
) -> None:
    bus, checkpoint = attached(tmp_path, when=every(2))
    train_epochs(bus, val_losses)
    assert step_of(checkpoint.best_path) == best
    assert saved_in(tmp_path) == [(4, val_losses[1]), (6, val_losses[2])]


def test_end_that_was_saved_as_it_was_validated_takes_no_second_place(tmp_path: Path) -> None:
    bus, checkpoint = attached(tmp_path, on="validation_done", when=from_(1), keep=1, keep_best=2)
    train_steps(bus, 6, {2: 0.2, 4: 0.5, 6: 0.1})
    assert step_of(checkpoint.best_path) == 6
    assert saved_in(tmp_path) == [(2, 0.2), (6, 0.1), (6, None)]


@pytest.mark.parametrize("number", [3, 10])
def test_end_is_a_candidate_where_attach_was_given_the_filter(number: int, tmp_path: Path) -> None:
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, keep=None)
    bus.attach(checkpoint, when=every(number))
    train_epochs(bus, [0.9, 0.5, 0.1, 0.05])
    assert step_of(checkpoint.best_path) == 8


def test_end_is_a_candidate_where_the_metric_itself_stopped_the_run(tmp_path: Path) -> None:
    bus, checkpoint = attached(tmp_path)
    bus.attach(EarlyStopping("val_loss", stop_at=0.2))
    with Run(bus) as run:
        for epoch in run.epochs(5):
            for _ in run.batches(range(2)):
                run.report(loss=1.0)
            for name in ("val", "test"):  # the second is left out after the stop
                with run.validation(name):
                    run.report(loss=0.5 / epoch**2)
    assert saved_in(tmp_path) == [(2, 0.5), (4, 0.125)]
    assert step_of(checkpoint.best_path) == 4


def test_end_is_a_candidate_by_a_metric_of_its_step_on_a_signal_of_ones_own(
    tmp_path: Path,
) -> None:
    bus = EventBus()

    @bus.declare(clock="round")
    def probe_done(*, round: int, step: int, metrics: dict[str, float]) -> None: ...

    checkpoint = Checkpoint(tmp_path, on="probe_done", when=every(3), best="score", mode="max")
    bus.attach(checkpoint)
    with Run(bus) as run:
        for step in run.steps(4):
            bus.emit(probe_done, round=step, step=step, metrics={"score": float(step)})
            run.report(score=float(step))
    assert step_of(checkpoint.best_path) == 4


def test_end_keeps_its_metrics_though_they_are_of_older_weights(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    bus, _ = attached(tmp_path, on="validation_done", keep=1, keep_best=2)
    bus.on("checkpoint_saved")(lambda metrics: told.append(metrics))
    train_steps(bus, 7, {4: 0.1})
    last = Checkpoint.saved(tmp_path)[-1].manifest
    assert (last.step, last.metrics["val_loss"], last.is_candidate) == (7, 0.1, False)
    assert told[-1]["val_loss"] == 0.1


def test_end_that_was_chosen_is_a_candidate_by_what_it_carries(tmp_path: Path) -> None:
    bus, checkpoint = attached(tmp_path, on=("validation_done", "run_finished"), when=None)
    train_steps(bus, 3, {2: 0.5})
    assert saved_in(tmp_path) == [(2, 0.5), (3, 0.5)]
    assert step_of(checkpoint.best_path) == 2


def test_next_run_does_not_take_what_the_one_before_has_measured_at_its_step(
    tmp_path: Path,
) -> None:
    bus, _ = attached(tmp_path, on="validation_done", when=at(9))
    failing = bus.on("run_finished", priority=1000)(lambda: 1 / 0 and None)
    with pytest.raises(ZeroDivisionError):
        train_steps(bus, 2, {2: 0.1})  # measured, and not saved
    bus.detach(failing)
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    loop.emit("run_finished", reason="completed", step=2, metrics={"val_loss": 0.3})
    assert saved_in(tmp_path) == [(2, None)]


# -- a metric that never came


@pytest.mark.parametrize("when", [every(3), at(99)])
def test_metric_that_only_the_end_carries_was_never_seen(
    when: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus, checkpoint = attached(tmp_path, on="batch_finished", when=when)
    train_epochs(bus, [0.5, 0.1, 0.9])
    assert checkpoint.best_path is None
    assert "never saw its metric 'val_loss', so no best checkpoint is kept" in caplog.text
    assert "epoch_finished has 'val_loss': write on='epoch_finished'" in caplog.text


def test_metric_that_came_where_no_save_was_due_was_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus, _ = attached(tmp_path, when=at(99))
    train_epochs(bus, [0.5, 0.1, None])
    assert "never saw" not in caplog.text


def test_resumed_run_that_has_a_best_does_not_miss_its_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for steps in (5, 7):
        bus, checkpoint = attached(tmp_path, on="validation_done", resume="auto")
        train_steps(bus, steps, {2: 0.5, 4: 0.1})
        assert step_of(checkpoint.best_path) == 4
    assert "never saw" not in caplog.text
