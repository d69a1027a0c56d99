"""Learning rates after a resume: a body that steps a scheduler does so once more in that epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from eventbus import EventBus, Stop, handles
from eventbus.handlers import Checkpoint, LRSchedule
from eventbus.loops import Run

# torch's, where a resumed body steps the scheduler before it takes a step of its own
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")

EPOCHS, BATCHES = 3, 3

Body = Callable[["Training"], object]


class Training:
    """Epochs of some batches that note the rate with which each step is taken."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0, momentum=0.5)
        self.scheduler = ExponentialLR(self.optimizer, 0.5)
        self.taken: list[tuple[int, float]] = []

    @property
    def rate(self) -> float:
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def run(self, body: Body) -> list[tuple[int, float]]:
        """Return the step and the rate of each step, and of none at the end."""
        parts: Any = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        with Run(self.bus, **parts) as self.loop:
            for _ in self.loop.epochs(EPOCHS):
                body(self)
        return [*self.taken, (0, self.rate)]

    def batches(self) -> Iterator[int]:
        for batch in self.loop.batches(range(BATCHES)):
            self.weight.grad = torch.tensor(0.1)
            self.optimizer.step()
            self.taken.append((self.loop.step, self.rate))
            yield batch
            self.loop.report(loss=0.0)

    def train(self) -> None:
        for _ in self.batches():
            pass

    def validate(self) -> None:
        for _ in self.loop.validate(range(2)):
            self.loop.report(loss=0.0)

    def halve(self) -> None:
        """Set the rate by hand."""
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5


def step_last(it: Training) -> None:
    it.train()
    it.scheduler.step()


def step_after_a_validation(it: Training) -> None:
    it.train()
    it.validate()
    it.scheduler.step()


def step_before_a_validation(it: Training) -> None:
    it.train()
    it.scheduler.step()
    it.validate()


def step_between_two_passes(it: Training) -> None:
    it.train()
    it.scheduler.step()
    it.train()


def step_at_the_top(it: Training) -> None:
    if it.loop.epoch > 1:
        it.scheduler.step()
    it.train()
    it.validate()


def step_in_each_batch(it: Training) -> None:
    for _ in it.batches():
        it.scheduler.step()
    it.validate()


def step_in_each_batch_and_last(it: Training) -> None:
    for _ in it.batches():
        it.scheduler.step()
    it.halve()


def step_in_a_validation(it: Training) -> None:
    it.train()
    for batch in it.loop.validate(range(2)):
        it.loop.report(loss=0.0)
        if batch == 1:
            it.scheduler.step()


def set_by_hand(it: Training) -> None:
    it.train()
    it.halve()
    it.validate()


BODIES = [
    step_last,
    step_after_a_validation,
    step_before_a_validation,
    step_between_two_passes,
    step_at_the_top,
    step_in_each_batch,
    step_in_each_batch_and_last,
    step_in_a_validation,
    set_by_hand,
]


def saving_in(folder: Path, **arguments: Any) -> EventBus:
    bus = EventBus()
    bus.attach(Checkpoint(folder, best=None, keep=None, **arguments))
    return bus


@pytest.mark.parametrize("body", BODIES)
def test_a_run_goes_on_with_the_same_rates_from_wherever_a_stop_ended_it(
    body: Body, tmp_path: Path
) -> None:
    whole = Training(EventBus()).run(body)
    for step in range(1, len(whole)):
        bus = saving_in(tmp_path / str(step))
        bus.on("batch_finished", when=lambda step, last=step: step == last)(lambda: Stop("SIGTERM"))
        first = Training(bus).run(body)
        resumed = Training(saving_in(tmp_path / str(step), resume="auto")).run(body)
        assert first[:-1] + resumed == whole


@pytest.mark.parametrize("signal", ["batch_finished", "validation_done", "epoch_finished"])
@pytest.mark.parametrize("body", BODIES)
def test_a_run_goes_on_with_the_same_rates_from_wherever_it_was_saved(
    body: Body, signal: str, tmp_path: Path
) -> None:
    whole = Training(saving_in(tmp_path / "saved", on=signal)).run(body)
    for place, path in enumerate(sorted((tmp_path / "saved").glob("step-*"))[:-1]):
        done = int(Checkpoint.load(path)["loop"]["step"])
        resumed = Training(saving_in(tmp_path / str(place), resume=path)).run(body)
        assert resumed == whole[done:], path.name


def test_what_a_handler_of_a_validation_changes_is_not_done_again(tmp_path: Path) -> None:
    def saving_with_plateau(folder: Path, **arguments: Any) -> EventBus:
        bus = saving_in(folder, on="validation_done", **arguments)
        make = functools.partial(ReduceLROnPlateau, patience=0, factor=0.1)
        bus.attach(LRSchedule(make, metric="val_loss", on="validation_done"))
        return bus

    def body(it: Training) -> None:
        it.train()
        it.validate()

    whole = Training(saving_with_plateau(tmp_path / "saved")).run(body)
    assert len({rate for _, rate in whole}) > 1
    for place, path in enumerate(sorted((tmp_path / "saved").glob("step-*"))[:-1]):
        done = int(Checkpoint.load(path)["loop"]["step"])
        resumed = Training(saving_with_plateau(tmp_path / str(place), resume=path)).run(body)
        assert resumed == whole[done:], path.name


def test_a_failure_in_a_batch_keeps_what_its_batches_did_to_the_rates(tmp_path: Path) -> None:
    whole = Training(EventBus()).run(step_in_each_batch)

    class Breaks:
        @handles("batch_started", when=lambda step: step == 5)
        def fail(self) -> None:
            raise RuntimeError("out of memory")

    bus = saving_in(tmp_path, on_failure=True)
    bus.attach(Breaks())
    training = Training(bus)
    with pytest.raises(RuntimeError, match="out of memory"):
        training.run(step_in_each_batch)
    resumed = Training(saving_in(tmp_path, resume="auto")).run(step_in_each_batch)
    assert training.taken + resumed == whole


def test_a_body_that_adds_a_group_adds_it_again(tmp_path: Path) -> None:
    def body(it: Training) -> None:
        it.train()
        if len(it.optimizer.param_groups) < 2:
            extra = torch.nn.Parameter(torch.tensor(2.0))
            it.optimizer.add_param_group({"params": [extra], "lr": 0.25})

    bus = saving_in(tmp_path)
    bus.on("batch_finished", when=lambda step: step == 2)(lambda: Stop("SIGTERM"))
    Training(bus).run(body)
    (path,) = tmp_path.glob("step-*")
    assert len(Checkpoint.load(path)["optimizer"]["param_groups"]) == 2
