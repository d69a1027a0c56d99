"""What is in `state=` and is changed at the top of a body, which a resumed run enters again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.loops import Run


class Cut(BaseException):
    """The process is gone: nothing after it is written."""


class Counted:
    """What has been counted, as a metric keeps it."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.reset()

    def reset(self) -> None:
        self.total = torch.zeros(self.size)
        self.count, self.best = 0, math.nan

    def update(self, value: float) -> None:
        self.total = self.total + value
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"sums": [self.total, {"count": self.count}], "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, counts = state["sums"]
        self.count, self.best = counts["count"], state["best"]


class Holder:
    """What has one value for its state."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class Grown(Holder):
    """A set that has one element more whenever an epoch begins."""

    def begin(self) -> None:
        self.value.add(-len(self.value))


class Scaled(Holder):
    """What gives a tensor for its state that has just been computed, with its gradient."""

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.requires_grad_(True) * 2}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].detach() / 2


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that gives the warnings of what a body has changed."""
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return lambda: [text for text in caplog.messages if "the body has changed" in text]


def train(
    folder: Path, on: str, cut: int | None, *, resets_at_top: bool = True, size: int = 1
) -> dict[int, int]:
    """Train three epochs of three steps, unless cut at one."""
    bus, metric, counts = EventBus(), Counted(size), dict[int, int]()
    bus.attach(Checkpoint(folder, on=on, best=None, resume="auto"))
    with Run(bus, state={"mean": metric}) as run:
        for epoch in run.epochs(3):
            if resets_at_top:
                metric.reset()
            for batch in run.batches([1.0, 2.0, 3.0]):
                if run.step == cut:
                    raise Cut
                metric.update(batch)
                run.report(loss=batch)
            counts[epoch] = metric.count
            for _ in run.validate([1]):
                run.report(loss=1.0)
            if not resets_at_top:
                metric.reset()
    return counts


def resumed(folder: Path, on: str, cut: int, **how: Any) -> dict[int, int]:
    with pytest.raises(Cut):
        train(folder, on, cut, **how)
    return train(folder, on, None, **how)


def test_a_metric_that_is_reset_at_the_top_is_told_of_once(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    assert resumed(tmp_path, "batch_finished", 6) == {2: 1, 3: 3}
    (message,) = told()
    assert message.startswith("the body has changed 'mean' of state=")
    assert "under `if not run.interrupted:`" in message


@pytest.mark.parametrize("cut", [5, 6])
def test_a_metric_that_is_reset_at_the_end_is_exact(
    cut: int, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    assert resumed(tmp_path, "batch_finished", cut, resets_at_top=False) == {2: 3, 3: 3}
    assert told() == []


@pytest.mark.parametrize(("on", "cut"), [("epoch_finished", 4), ("epoch_started", 5)])
def test_a_metric_that_is_reset_before_anything_was_counted_is_not_told_of(
    on: str, cut: int, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    assert resumed(tmp_path, on, cut) == {2: 3, 3: 3}
    assert told() == []


def test_what_is_as_large_as_a_model_is_not_looked_at(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    resumed(tmp_path, "batch_finished", 6, size=200_000)
    assert told() == []


def life(folder: Path, make: Callable[[], Any], cut: int | None) -> None:
    """Train two epochs with a part that may begin each with a change, beside one that is reset."""
    bus, part, reset = EventBus(), make(), Counted()
    bus.attach(Checkpoint(folder, on="batch_finished", best=None, resume="auto"))
    with Run(bus, state={"part": part, "mean": reset}) as run:
        for _ in run.epochs(2):
            reset.reset()
            if isinstance(part, Grown):
                part.begin()
            for batch in run.batches([1.0, 2.0, 3.0]):
                if run.step == cut:
                    raise Cut
                reset.update(batch)
                run.report(loss=batch)


def told_of(part: Callable[[], Any], folder: Path, told: Callable[[], list[str]]) -> list[str]:
    with pytest.raises(Cut):
        life(folder, part, 3)
    life(folder, part, None)
    return told()


UNCOMPARED: dict[str, Callable[[], Any]] = {
    "sparse": lambda: Holder(torch.eye(2).to_sparse()),
    "computed": lambda: Scaled(torch.ones(2)),
}


@pytest.mark.parametrize("kind", UNCOMPARED)
def test_a_part_that_cannot_be_copied_or_compared_is_left_out_and_the_others_are_not(
    kind: str, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    (message,) = told_of(UNCOMPARED[kind], tmp_path, told)
    assert message.startswith("the body has changed 'mean' of state=")


class Clock:
    """What tells another time whenever it is asked."""

    def __init__(self) -> None:
        self.now = 0

    def state_dict(self) -> dict[str, Any]:
        self.now += 1
        return {"now": self.now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.now = state["now"]


def test_a_part_that_changes_by_itself_is_not_told_of(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    (message,) = told_of(Clock, tmp_path, told)
    assert message.startswith("the body has changed 'mean' of state=")


def test_a_set_is_told_of_where_it_has_other_elements_not_another_order(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    seen = {1000 * number for number in range(200)}
    (message,) = told_of(lambda: Holder(set(seen)), tmp_path / "left alone", told)
    assert "'mean'" in message
    assert "'part'" not in message
    *_, message = told_of(lambda: Grown(set(seen)), tmp_path / "grown", told)
    assert "the body has changed 'part', 'mean' of state=" in message
