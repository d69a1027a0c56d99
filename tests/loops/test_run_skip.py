"""`run.skip(reason)`: a batch that the loop itself leaves out; and loops that step nevertheless."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eventbus import EventBus, SkipBatch, Stop
from eventbus.handlers import Checkpoint
from eventbus.loops import Run

from .transcripts import Transcript, answer_on


def told(transcript: Transcript) -> list[str]:
    """Return how the steps ended."""
    ends = ("batch_finished", "batch_skipped")
    return [line for line in transcript.lines if line.split(" ")[0] in ends]


def test_a_batch_that_the_loop_skips_uses_its_data_and_no_number(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for batch in run.batches([1, 2, 3]):
                run.report(loss=float(batch))
                if batch == 2:
                    run.skip("no good")
                    continue
    assert told(transcript) == [
        "batch_finished 1.1",
        "batch_skipped 1.2 (no good)",
        "batch_finished 1.2",
    ]
    assert (run.step, run.metrics["loss"]) == (2, 2.0)


def test_a_skipped_step_of_a_loop_by_steps_comes_again(
    bus: EventBus, transcript: Transcript
) -> None:
    bad = iter([True, False, False])
    with Run(bus) as run:
        for _ in run.steps(2):
            if next(bad):
                run.skip("bad roll-out")
                continue
    assert told(transcript) == [
        "batch_skipped 0.1 (bad roll-out)",
        "batch_finished 0.1",
        "batch_finished 0.2",
    ]


def test_a_micro_batch_that_the_loop_skips_is_in_no_mean(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for size, loss in run.batches([(8, 100.0), (2, 1.0)], accumulate=2):
            run.report(loss=loss, batch_size=size)
            if loss > 50:
                run.skip("spike")
                continue
    (fields,) = transcript.of("batch_finished")
    assert (dict(fields["metrics"]), fields["batch_size"]) == ({"loss": 1.0}, 2)


def test_the_last_micro_batch_is_skipped_with_its_step(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for batch in run.batches([1, 2, 3], accumulate=2):
            run.report(loss=float(batch))
            if batch == 2:
                run.skip("no good")
    assert told(transcript) == ["batch_skipped 0.1 (no good)", "batch_finished 0.1"]


def test_the_loops_reason_is_told_where_a_handler_had_one_too(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "backward_finished", SkipBatch("the handler's"))
    with Run(bus) as run:
        for _ in run.batches([1]):
            run.skip("the loop's")
            run.emit("backward_finished")
    assert told(transcript) == ["batch_skipped 0.1 (the loop's)"]


def test_a_batch_that_is_skipped_and_left_is_skipped_for_that_reason(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.batches([1, 2]):
            run.report(loss=1.0)
            run.skip("no good")
            break
    assert told(transcript) == ["batch_skipped 0.1 (no good)"]


def skip_outside(run: Run) -> None:
    run.skip("nothing there")


def skip_after_a_break(run: Run) -> None:
    for _ in run.batches([1, 2]):
        break
    run.skip("nothing there")


def skip_in_a_validation(run: Run) -> None:
    for _ in run.validate([1]):
        run.skip("nothing there")


def skip_in_a_validation_within_a_step(run: Run) -> None:
    for _ in run.batches([1]):
        for _ in run.validate([1]):
            run.skip("nothing there")


def skip_a_step_that_a_validation_has_finished(run: Run) -> None:
    for _ in run.batches([1]):
        run.report(loss=1.0)
        list(run.validate([1]))
        run.skip("nothing there")


@pytest.mark.parametrize(
    "body",
    [
        skip_outside,
        skip_after_a_break,
        skip_in_a_validation,
        skip_in_a_validation_within_a_step,
        skip_a_step_that_a_validation_has_finished,
    ],
)
def test_there_is_nothing_to_skip_where_no_batch_is_under_way(
    bus: EventBus, body: Callable[[Run], None]
) -> None:
    with pytest.raises(RuntimeError, match="no batch is under way"), Run(bus) as run:
        body(run)


@pytest.mark.parametrize("reason", ["", None, 3])
def test_a_skip_has_a_reason(bus: EventBus, reason: Any) -> None:
    with Run(bus) as run:
        for _ in run.batches([1]):
            with pytest.raises(TypeError, match=rf"takes a reason, .*; got {reason!r}"):
                run.skip(reason)


class Training:
    """Six batches an epoch, of which the loop skips the third."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.given: list[int] = []

    def run(self, bus: EventBus) -> Run:
        with Run(bus, model=self.model, optimizer=self.optimizer) as run:
            for _ in run.epochs(2):
                for batch in run.batches(range(6)):
                    self.given.append(batch)
                    loss = self.model(torch.full((1, 2), float(batch))).square().mean()
                    loss.backward()
                    if batch == 2:
                        self.optimizer.zero_grad()
                        run.skip("no good")
                        continue
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    run.report(loss=loss)
        return run


@pytest.mark.parametrize(
    ("signal", "place"),
    [("batch_skipped", {"epoch": 1}), ("batch_finished", {"step": 3}), ("batch_started", {})],
)
def test_a_run_resumed_after_a_skip_goes_on_after_that_batch(
    tmp_path: Path, signal: str, place: dict[str, int]
) -> None:
    whole = Training()
    whole.run(EventBus())
    first, bus = Training(), EventBus()
    answer_on(bus, signal, Stop("time is up"), **(place or {"epoch": 1, "step": 3}))
    bus.attach(Checkpoint(tmp_path, best=None))
    assert first.run(bus).outcome == "stopped"
    second, bus = Training(), EventBus()
    bus.attach(Checkpoint(tmp_path, best=None, resume="auto"))
    run = second.run(bus)
    assert first.given + second.given == whole.given
    assert run.step == 10
    assert torch.equal(second.model.weight, whole.model.weight)


# -- a loop that steps although the batch is to be skipped


class Careless:
    """A loop with two optimizers and accumulation, which may step where it should not."""

    def __init__(self, bus: EventBus, accumulate: int = 1) -> None:
        self.bus, self.accumulate = bus, accumulate
        models = {"g": nn.Linear(1, 1), "d": nn.Linear(1, 1)}
        self.models = models
        self.optimizers = {
            name: torch.optim.SGD(model.parameters(), lr=0.1) for name, model in models.items()
        }

    def run(self, body: Callable[[Run, int, dict[str, torch.optim.SGD]], None]) -> Run:
        with Run(self.bus, models=self.models, optimizers=self.optimizers) as run:
            for batch in run.batches(range(6), accumulate=self.accumulate):
                body(run, batch, self.optimizers)
        return run


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return caplog


def test_a_loop_that_steps_although_it_is_to_skip_is_told_once(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    bus.on("backward_finished")(lambda: SkipBatch("not finite"))

    def body(run: Run, batch: int, optimizers: dict[str, torch.optim.SGD]) -> None:
        run.emit("backward_finished")
        for optimizer in optimizers.values():
            optimizer.step()

    Careless(bus).run(body)
    (message,) = warnings.messages
    assert message == (
        "an optimizer stepped in step 1, which counts as skipped, although a handler had answered "
        'SkipBatch: `if run.emit("backward_finished", ...).skip: optimizer.zero_grad(); continue`'
    )


def test_a_loop_that_steps_after_its_own_skip_is_told(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    def body(run: Run, batch: int, optimizers: dict[str, torch.optim.SGD]) -> None:
        run.skip("no good")
        optimizers["g"].step()

    Careless(bus).run(body)
    (message,) = warnings.messages
    assert "although the loop had said run.skip(...)" in message


def test_an_optimizer_that_stepped_before_the_skip_is_no_mistake(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    skips = iter([None, SkipBatch("not finite")] * 6)
    bus.on("backward_finished")(lambda: next(skips))

    def body(run: Run, batch: int, optimizers: dict[str, torch.optim.SGD]) -> None:
        for optimizer in optimizers.values():
            if not run.emit("backward_finished").skip:
                optimizer.step()

    assert Careless(bus).run(body).step == 0
    assert not warnings.messages


def test_a_step_after_a_micro_batch_that_was_skipped_is_no_mistake(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    def body(run: Run, batch: int, optimizers: dict[str, torch.optim.SGD]) -> None:
        if batch % 3 == 0:
            run.skip("no good")
            return
        if run.boundary:
            optimizers["g"].step()

    assert Careless(bus, accumulate=3).run(body).step == 2
    assert not warnings.messages
