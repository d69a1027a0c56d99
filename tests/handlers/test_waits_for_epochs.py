"""Handlers that are on the signals of epochs, in loops that have none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, Stop
from eventbus.handlers import Checkpoint, CSVLog, History, JSONLLog, LRSchedule, Plot
from eventbus.loops import Run

from .reporting import resume, start

BY_STEPS = 'on="batch_finished", when=every(100)'
Made = Callable[[Path], Any]


def halving(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


WAITING: dict[str, tuple[Made, str]] = {
    "LRSchedule": (lambda _: LRSchedule(halving), 'per="step"'),
    "Checkpoint": (
        lambda folder: Checkpoint(folder, best=None),
        'on="batch_finished", when=every(1000)',
    ),
    "CSVLog": (lambda folder: CSVLog(folder / "log.csv"), BY_STEPS),
    "JSONLLog": (lambda folder: JSONLLog(folder / "log", on="epoch_finished"), BY_STEPS),
    "History": (lambda _: History(), BY_STEPS),
    "Plot": (
        lambda folder: Plot(folder / "curves.png"),
        'History(on="batch_finished", when=every(100)), and draw its plot()',
    ),
}

waiting = pytest.mark.parametrize("made", [made for made, _ in WAITING.values()], ids=WAITING)


def a_run(handler: Any) -> tuple[EventBus, Run]:
    bus = EventBus(strict=True)
    bus.attach(handler)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return bus, Run(bus, model=model, optimizer=optimizer)


@pytest.mark.parametrize("name", WAITING)
def test_handler_of_epochs_in_a_loop_of_steps_says_what_to_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    made, instead = WAITING[name]
    _, run = a_run(made(tmp_path))
    with run:
        for _ in run.steps(3):
            run.report(loss=1.0)
    assert caplog.messages == [
        f"{name} never heard epoch_finished: the loop has steps and no epochs; write {instead}"
    ]


def test_schedule_that_was_given_its_signal_says_to_give_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, run = a_run(LRSchedule(halving, per="step", on="epoch_finished"))
    with run:
        for _ in run.steps(1):
            run.report(loss=1.0)
    (message,) = caplog.messages
    assert message.endswith('write on="batch_finished"')


@waiting
def test_run_that_is_stopped_in_its_first_epoch_is_none_without_epochs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Made
) -> None:
    bus, run = a_run(made(tmp_path))
    bus.on("batch_finished")(lambda: Stop("enough"))
    with run:
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                run.report(loss=1.0)
    assert caplog.messages == []


@waiting
def test_run_without_steps_has_missed_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Made
) -> None:
    _, run = a_run(made(tmp_path))
    with run:
        for _ in run.steps(0):
            pass
    assert caplog.messages == []


@pytest.mark.parametrize(
    "handler",
    [
        History(on="batch_finished"),
        History(on=("batch_finished", "epoch_finished")),
        LRSchedule(halving, per="step"),
    ],
)
def test_handler_that_hears_steps_too_waits_for_none(
    caplog: pytest.LogCaptureFixture, handler: Any
) -> None:
    _, run = a_run(handler)
    with run:
        for _ in run.steps(1):
            run.report(loss=1.0)
    assert caplog.messages == []


def test_resumed_run_with_nothing_left_to_train_has_missed_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        caplog.clear()
        _, run = a_run(Checkpoint(tmp_path, best=None, resume="auto"))
        with run:
            for _ in run.steps(2):
                run.report(loss=1.0)
    assert caplog.messages == []


@pytest.mark.parametrize(("goes_on", "told"), [(False, 1), (True, 0)])
def test_resumed_run_is_not_told_since_it_may_have_had_nothing_to_do(
    caplog: pytest.LogCaptureFixture, goes_on: bool, told: int
) -> None:
    bus = EventBus(strict=True)
    bus.attach(History())
    loop = resume(bus, {}) if goes_on else start(bus)
    loop.emit("run_finished", reason="completed", epoch=0, step=3)
    assert len(caplog.messages) == told


def test_checkpoint_warns_once_where_neither_its_signal_nor_a_metric_could_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))
    with Run(bus, model=torch.nn.Linear(1, 1)) as run:
        for _ in run.steps(2):
            run.report(loss=1.0)
    (warning,) = caplog.messages
    assert warning.startswith("Checkpoint never heard epoch_finished")
