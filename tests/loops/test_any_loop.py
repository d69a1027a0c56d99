"""One transcript, whoever trains: the same signals, clocks and decisions in each framework."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import zip_longest
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from eventbus import EventBus, SkipBatch, Stop, StopEpoch
from eventbus.testing import check_loop, watch_loop

from .trained_by.task import Task, Trained, observed

LOOPS = ("accelerate", "huggingface", "ignite", "keras", "lightning")
PACKAGES = {"fit": "torch", "huggingface": "transformers"}
TOLERANCE = 1e-4
"""Of losses, metrics and weights: frameworks sum in another order, some in float32."""

TOLD = ("epoch", "step", "batch_index", "round", "name", "complete", "reason", "outcome")

Events = list[tuple[str, Mapping[str, Any]]]
Train = Callable[[EventBus, Task], Trained]


def trained_by(loop: str) -> Any:
    """Return the module that trains the task there."""
    return import_module(f"{__package__}.trained_by.{loop}")


def train_by(loop: str) -> Train:
    """Return what trains the task there; skip by name where the framework is not installed."""
    package = PACKAGES.get(loop, loop)
    pytest.importorskip(package, reason=f"{package} is not installed")
    train: Train = trained_by(loop).train
    return train


def cannot(loop: str) -> Mapping[str, str]:
    """Return the signals that there is no place for in a framework."""
    limits: Mapping[str, str] = getattr(import_module(f"eventbus.loops.{loop}"), "CANNOT", {})
    return limits


def differences(loop: str) -> Mapping[str, str]:
    """Return the situations in which a framework leaves no way to say the same, and why."""
    found: Mapping[str, str] = getattr(trained_by(loop), "DIFFERENCES", {})
    return found


def answer_once(signal: str, answer: object, **place: int) -> Callable[[EventBus], None]:
    """Return what subscribes a handler that answers the first time that the fields are so."""

    def subscribe(bus: EventBus) -> None:
        left = [answer]

        def answering(event: Any) -> object:
            is_due = all(event.fields[key] == value for key, value in place.items())
            return left.pop() if left and is_due else None

        bus.on(signal, name="answering")(answering)

    return subscribe


SITUATIONS: dict[str, tuple[Task, Callable[[EventBus], None]]] = {
    "nothing answered": (Task(), lambda bus: None),
    "no validation": (Task(validates=False), lambda bus: None),
    "accumulation": (Task(accumulate=2), lambda bus: None),
    "Stop after a step": (Task(), answer_once("batch_finished", Stop("enough"), step=6)),
    "Stop after an epoch's last step": (
        Task(),
        answer_once("batch_finished", Stop("enough"), step=4),
    ),
    "Stop before a batch": (Task(), answer_once("batch_loaded", Stop("enough"), step=6)),
    "Stop after a validation": (Task(), answer_once("validation_done", Stop("enough"), round=1)),
    "Stop in a validation": (
        Task(),
        answer_once("validation_batch_finished", Stop("enough"), round=1),
    ),
    "Stop after an epoch": (Task(), answer_once("epoch_finished", Stop("enough"), epoch=1)),
    "Stop before an epoch": (Task(), answer_once("epoch_started", Stop("enough"), epoch=2)),
    "Stop at once": (Task(), answer_once("run_started", Stop("enough"))),
    "Stop while accumulating": (
        Task(accumulate=3, batches=6),
        answer_once("batch_loaded", Stop("enough"), batch_index=2),
    ),
    "StopEpoch": (Task(), answer_once("batch_finished", StopEpoch("enough"), step=2)),
    "StopEpoch at its start": (Task(), answer_once("epoch_started", StopEpoch("enough"), epoch=1)),
    "StopEpoch while accumulating": (
        Task(accumulate=3, batches=6),
        answer_once("batch_loaded", StopEpoch("enough"), batch_index=2),
    ),
    "SkipBatch before its forward": (
        Task(),
        answer_once("batch_loaded", SkipBatch("odd"), step=2),
    ),
    "SkipBatch after its backward": (
        Task(),
        answer_once("backward_finished", SkipBatch("odd"), step=2),
    ),
    "SkipBatch while accumulating": (
        Task(accumulate=2),
        answer_once("batch_loaded", SkipBatch("odd"), batch_index=2),
    ),
}


def lines(events: Events, without: Mapping[str, str]) -> list[str]:
    """Write each signal with its clocks and decisions."""
    return [
        " ".join([name, *(f"{key}={fields[key]}" for key in TOLD if key in fields)])
        for name, fields in events
        if name not in without
    ]


def values(events: Events, without: Mapping[str, str]) -> list[Any]:
    """Return the loss and the metrics of each signal that has some."""
    found = []
    for name, fields in events:
        metrics = dict(fields.get("metrics") or {})
        if fields.get("loss") is not None:
            metrics["the field loss"] = float(fields["loss"])
        if metrics and name not in without:
            found.append((name, metrics))
    return found


def are_close(one: Any, other: Any) -> bool:
    """Tell whether two pairs of a signal and its values agree within the tolerance."""
    if one is None or other is None or one[0] != other[0] or one[1].keys() != other[1].keys():
        return False
    return all(math.isclose(one[1][key], other[1][key], rel_tol=TOLERANCE) for key in one[1])


class Told(NamedTuple):
    """What one training said and did."""

    events: Events
    weights: list[Tensor]
    violations: list[str]


@functools.cache
def told_by(loop: str, situation: str) -> Told:
    task, answering = SITUATIONS[situation]
    train, bus = train_by(loop), EventBus()
    events = observed(bus)
    answering(bus)
    with watch_loop(bus, cannot=cannot(loop)) as report:
        weights = train(bus, task).weights
    return Told(events, weights, [str(one) for one in report.violations])


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("loop", LOOPS)
def test_any_loop_says_the_same_as_ours(loop: str, situation: str) -> None:
    found = list(deviations(told_by(loop, situation), told_by("fit", situation), cannot(loop)))
    if situation in differences(loop):
        assert found != [], "it does say the same: it is no exception any more"
    else:
        assert found == []


def deviations(theirs: Told, ours: Told, without: Mapping[str, str]) -> Iterator[str]:
    """Say where two trainings differ: in what they told, in the values, in the weights."""
    told = zip_longest(lines(theirs.events, without), lines(ours.events, without))
    yield from (f"{one}, and not {other}" for one, other in told if one != other)
    pairs = zip_longest(values(theirs.events, without), values(ours.events, without))
    yield from (f"{one}, and not {other}" for one, other in pairs if not are_close(one, other))
    for one, other in zip(theirs.weights, ours.weights, strict=True):
        if not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
            yield f"weights {one}, and not {other}"


class Spoiling:
    """Skips micro-batches of the first epoch, and makes their inputs not-a-number before."""

    def __init__(self, bus: EventBus, loop: str, batches: tuple[int, ...]) -> None:
        self.inputs = getattr(trained_by(loop), "KEYS", (0, 1))[0]
        self.batches = batches
        bus.on("batch_loaded", priority=1)(self.spoil)
        bus.on("batch_loaded")(self.skip)

    def spoil(self, batch: Any, epoch: int, batch_index: int) -> Any:
        if epoch > 1 or batch_index not in self.batches:
            return None
        if isinstance(batch, Mapping):
            return {**batch, self.inputs: batch[self.inputs] * torch.nan}
        return [batch[0] * torch.nan, *batch[1:]]

    def skip(self, epoch: int, batch_index: int) -> SkipBatch | None:
        return SkipBatch("spoiled") if epoch == 1 and batch_index in self.batches else None


def trained_without(task: Task, left_out: tuple[int, ...]) -> list[Tensor]:
    """Return the weights where these batches of the first epoch add nothing to their steps."""
    model = task.model()
    optimizer = task.optimizer(model)
    for epoch in range(1, task.epochs + 1):
        for index, (inputs, targets) in enumerate(task.train_loader, 1):
            if epoch > 1 or index not in left_out:
                loss = torch.nn.functional.cross_entropy(model(inputs), targets)
                (loss / task.accumulate).backward()  # type: ignore[no-untyped-call]  # torch's
            if index % task.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    return Trained.of(model).weights


@pytest.mark.parametrize(
    ("left_out", "sizes"),
    [((1,), [5, 10, 10, 10]), ((2,), [5, 10, 10, 10]), ((3, 4), [10, 10, 10])],
)
@pytest.mark.parametrize("loop", [one for one in LOOPS if one != "accelerate"])
def test_a_step_of_a_framework_is_taken_without_the_micro_batch_that_is_skipped(
    loop: str, left_out: tuple[int, ...], sizes: list[int]
) -> None:
    train, bus, task = train_by(loop), EventBus(), Task(accumulate=2, validates=False)
    Spoiling(bus, loop, left_out)
    events = observed(bus)
    weights = train(bus, task).weights
    finished = [fields["batch_size"] for name, fields in events if name == "batch_finished"]
    assert finished == sizes
    assert all(math.isfinite(float(one["loss"])) for _, one in events if "loss" in one)
    for theirs, ours in zip(weights, trained_without(task, left_out), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("loop", ["fit", *LOOPS])
def test_any_loop_keeps_to_the_vocabulary(loop: str, situation: str) -> None:
    assert told_by(loop, situation).violations == []


@pytest.mark.parametrize("loop", ["fit", *LOOPS])
def test_any_loop_heeds_each_answer_and_tells_of_failures(loop: str) -> None:
    train = train_by(loop)
    report = check_loop(lambda bus: train(bus, Task()), cannot=cannot(loop))
    assert report.emissions > 100
    assert [str(one) for one in report.violations] == []


@pytest.mark.parametrize("loop", ["fit", *LOOPS])
def test_a_handler_that_fails_as_the_run_opens_closes_it_once(loop: str) -> None:
    train, bus = train_by(loop), EventBus()
    events = observed(bus)

    @bus.on("run_opened")
    def fail(event: Any) -> None:
        raise ValueError("no checkpoint to go on from")

    with pytest.raises(ValueError, match="no checkpoint") as raised:
        train(bus, Task())
    assert [name for name, _ in events] == ["run_opened", "run_failed", "run_closed"]
    assert not [note for note in getattr(raised.value, "__notes__", []) if "closing" in note]
