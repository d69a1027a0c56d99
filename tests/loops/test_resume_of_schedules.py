"""Learning rates after a resume: a body that steps a scheduler does so once more in that epoch."""

from __future__ import annotations

import functools
import threading
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

Taken = tuple[int, tuple[float, float]]
"""A step, and the rates of both optimizers with which it is taken."""

Body = Callable[["Training"], object]


class Training:
    """Epochs of some batches that note the rate with which each step is taken."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0, momentum=0.5)
        self.scheduler = ExponentialLR(self.optimizer, 0.5)
        self.second = torch.optim.SGD([torch.nn.Parameter(torch.tensor(1.0))], lr=1.0)
        self.other = ExponentialLR(self.second, 0.5)
        self.taken: list[Taken] = []

    @property
    def rates(self) -> tuple[float, float]:
        both = (self.optimizer, self.second)
        first, second = (float(one.param_groups[0]["lr"]) for one in both)
        return first, second

    def run(self, body: Body) -> list[Taken]:
        """Return the step and the rates of each step, and of none at the end."""
        optimizers = {"first": self.optimizer, "second": self.second}
        state = {"scheduler_1": self.scheduler, "scheduler_2": self.other}
        with Run(self.bus, optimizers=optimizers, state=state) as self.loop:
            for _ in self.loop.epochs(EPOCHS):
                body(self)
        return [*self.taken, (0, self.rates)]

    def batches(self) -> Iterator[int]:
        for batch in self.loop.batches(range(BATCHES)):
            self.weight.grad = torch.tensor(0.1)
            self.optimizer.step()
            self.taken.append((self.loop.step, self.rates))
            yield batch
            self.loop.report(loss=0.0)

    def train(self) -> None:
        for _ in self.batches():
            pass

    def validate(self) -> None:
        for _ in self.loop.validate(range(2)):
            self.loop.report(loss=0.0)


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


def step_in_a_validation(it: Training) -> None:
    it.train()
    for batch in it.loop.validate(range(2)):
        it.loop.report(loss=0.0)
        if batch == 1:
            it.scheduler.step()


def step_within_a_held_validation(it: Training) -> None:
    it.train()
    with it.loop.validation():
        it.validate()
        it.scheduler.step()


def step_after_a_validation_that_was_left(it: Training) -> None:
    it.train()
    for _ in it.loop.validate(range(3)):
        it.loop.report(loss=0.0)
        break
    it.scheduler.step()


def step_two(it: Training) -> None:
    it.other.step()
    for _ in it.batches():
        it.scheduler.step()
    it.validate()


def turn_evaluation_on_and_off(it: Training) -> None:
    """As an optimizer without a schedule does: what it notes in its groups is its own affair."""
    group = it.optimizer.param_groups[0]
    assert group["train_mode"] == (it.taken == [])
    group["train_mode"] = True
    it.train()
    group["train_mode"] = False
    it.scheduler.step()
    it.validate()


BODIES = [
    step_last,
    step_after_a_validation,
    step_before_a_validation,
    step_between_two_passes,
    step_at_the_top,
    step_in_each_batch,
    step_in_a_validation,
    step_within_a_held_validation,
    step_after_a_validation_that_was_left,
    step_two,
]
WITHOUT_VALIDATION = [step_last, step_between_two_passes]


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


@pytest.mark.parametrize(
    ("body", "signal"),
    [
        (body, signal)
        for body in BODIES
        for signal in ("batch_finished", "validation_done", "epoch_finished")
        if signal != "validation_done" or body not in WITHOUT_VALIDATION
    ],
)
def test_a_run_goes_on_with_the_same_rates_from_wherever_it_was_saved(
    body: Body, signal: str, tmp_path: Path
) -> None:
    whole = Training(saving_in(tmp_path / "saved", on=signal)).run(body)
    *saved, _ = sorted((tmp_path / "saved").glob("step-*"))
    assert saved
    for place, path in enumerate(saved):
        done = int(Checkpoint.load(path)["loop"]["step"])
        resumed = Training(saving_in(tmp_path / str(place), resume=path)).run(body)
        assert resumed == whole[done:], path.name


def test_what_a_handler_of_a_validation_changes_is_not_done_again(tmp_path: Path) -> None:
    def saving_with_plateau(folder: Path, **arguments: Any) -> EventBus:
        bus = saving_in(folder, on="validation_done", **arguments)
        make = functools.partial(ReduceLROnPlateau, patience=0, factor=0.1)
        plateau = LRSchedule(make, metric="val_loss", on="validation_done", optimizer="first")
        bus.attach(plateau)
        return bus

    def body(it: Training) -> None:
        it.train()
        it.validate()

    whole = Training(saving_with_plateau(tmp_path / "saved")).run(body)
    assert len({rates for _, rates in whole}) > 1
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
    assert len(Checkpoint.load(path)["optimizers.first"]["param_groups"]) == 2


def test_what_an_optimizer_notes_in_its_groups_stays_as_it_is(tmp_path: Path) -> None:
    def training(bus: EventBus) -> Training:
        one = Training(bus)
        one.optimizer.param_groups[0]["train_mode"] = True
        return one

    training(saving_in(tmp_path, on="validation_done")).run(turn_evaluation_on_and_off)
    saved = list(tmp_path.glob("step-*"))
    assert saved
    for path in saved:
        (group,) = Checkpoint.load(path)["optimizers.first"]["param_groups"]
        assert group["train_mode"] is False


def test_a_rate_that_the_body_sets_by_hand_is_saved_as_it_is(tmp_path: Path) -> None:
    def body(it: Training) -> None:
        it.train()
        for group in it.optimizer.param_groups:
            group["lr"] *= 0.5
        it.validate()

    Training(saving_in(tmp_path, on="validation_done", at_end=False)).run(body)
    saved = [Checkpoint.load(path) for path in sorted(tmp_path.glob("step-*"))]
    rates = [one["optimizers.first"]["param_groups"][0]["lr"] for one in saved]
    assert rates == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("as_tensor", [True, False])
def test_a_rate_that_is_a_tensor_counts_as_any_other(tmp_path: Path, as_tensor: bool) -> None:
    def training(bus: EventBus) -> Training:
        one = Training(bus)
        one.optimizer = torch.optim.SGD([one.weight], lr=torch.tensor(1.0) if as_tensor else 1.0)
        one.scheduler = ExponentialLR(one.optimizer, 0.5)
        return one

    whole = training(EventBus()).run(step_before_a_validation)
    bus = saving_in(tmp_path)
    bus.on("batch_finished", when=lambda step: step == 2 * BATCHES)(lambda: Stop("SIGTERM"))
    first = training(bus).run(step_before_a_validation)
    resumed = training(saving_in(tmp_path, resume="auto")).run(step_before_a_validation)
    assert first[:-1] + resumed == whole


class Unsavable(ExponentialLR):
    """Whose state nobody could copy, or even tell."""

    def state_dict(self) -> dict[str, Any]:
        if self.optimizer.param_groups[0]["lr"] < 1.0:
            raise RuntimeError("no state")
        return {**super().state_dict(), "lock": threading.Lock(), "self": self}


def test_a_scheduler_whose_state_cannot_be_told_does_no_harm_where_nobody_saves() -> None:
    training = Training(EventBus())
    training.scheduler = Unsavable(training.optimizer, 0.5)
    training.run(step_before_a_validation)
    assert training.rates[0] == 0.5**EPOCHS
