"""What a framework saves by its own means brings the bus's handlers back, too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, handles
from eventbus.handlers import EMA, LRSchedule

from .test_any_loop import TOLERANCE, lines, train_by
from .trained_by.task import Task, observed

Events = list[tuple[str, Mapping[str, Any]]]

OWN_CHECKPOINTS = ("huggingface", "ignite", "keras", "lightning")
"""The loops whose frameworks have checkpoints of their own in which state can ride."""


class StepCounter:
    """Counts the steps of a run, also across a resume."""

    def __init__(self) -> None:
        self.steps = 0

    @handles("run_started")
    def start(self, resumed_from: str | None) -> None:
        if resumed_from is None:
            self.steps = 0

    @handles("batch_finished")
    def count(self) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def attach_all(bus: EventBus) -> StepCounter:
    """Attach what has state: a counter, a schedule that changes the training, an average."""
    counter = StepCounter()
    halve = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    for handler in (counter, LRSchedule(halve, per="epoch"), EMA(0.5, validate=True)):
        bus.attach(handler)
    return counter


@pytest.mark.parametrize("loop", OWN_CHECKPOINTS)
def test_a_framework_that_resumes_brings_handlers_and_counts_back(
    loop: str, tmp_path: Path
) -> None:
    train, whole = train_by(loop), EventBus()
    attach_all(whole)
    expected, straight = observed(whole), train(whole, Task(epochs=2)).weights
    first, second = EventBus(), EventBus()
    attach_all(first)
    train(first, Task(epochs=1, own_checkpoints=tmp_path))
    counter, events = attach_all(second), observed(second)
    resumed = train(second, Task(epochs=2, own_checkpoints=tmp_path, resumes_own=True)).weights
    assert counter.steps == 8
    assert next(fields for name, fields in events if name == "run_started")["resumed_from"]
    assert after_run_started(events) == after_epoch(1, expected)
    for theirs, ours in zip(resumed, straight, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE)


def after_run_started(events: Events) -> list[str]:
    return _after(events, lambda name, fields: name == "run_started")


def after_epoch(epoch: int, events: Events) -> list[str]:
    """Return what came after an epoch, and after the learning rate that its end has changed."""
    return _after(
        events,
        lambda name, fields: name == "learning_rate_changed" and fields.get("epoch") == epoch,
    )


def _after(events: Events, is_begin: Callable[[str, Mapping[str, Any]], bool]) -> list[str]:
    begin = next(place for place, event in enumerate(events) if is_begin(*event))
    return lines(events[begin + 1 :], {})
