"""What other frameworks get wrong about decisions, shown right here.

The docstring of each test names whose defect it was, found in the sources and the threads of the
frameworks; most were reproduced in the releases that were current then.
"""

from __future__ import annotations

import math
import os
import signal
from unittest.mock import Mock

import pytest
import torch

from eventbus import EventBus, Priority, SkipBatch, Stop, at
from eventbus.handlers import EarlyStopping
from eventbus.testing import capture

from .training import train


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_score_that_is_never_finite_stops_the_run(bad: float) -> None:
    """Ignite: every comparison with NaN is false, so that training never stops."""
    bus = EventBus()
    bus.attach(EarlyStopping(patience=2))
    assert train(bus, [bad] * 9).epoch == 2


def test_relative_threshold_works_with_negative_scores() -> None:
    """Ignite: with `-val_loss` the threshold turns around, and every score is an improvement."""
    bus = EventBus()
    bus.attach(EarlyStopping(mode="max", patience=2, min_delta=0.1, relative=True))
    run = train(bus, [-1.0, -0.99, -1.0, -0.5, -0.2])
    assert run.epoch == 3


def test_handlers_after_an_early_stop_see_the_last_epoch() -> None:
    """In skorch early stop raises `KeyboardInterrupt`; those after it miss the last epoch."""
    bus, seen = EventBus(), list[int]()
    bus.attach(EarlyStopping(patience=1))
    bus.on("epoch_finished", "validation_done", priority=Priority.REPORT)(
        lambda epoch: seen.append(epoch)
    )
    run = train(bus, [1.0, 2.0, 2.0])
    assert run.outcome == "stopped"
    assert seen == [1, 1, 2, 2]


def test_first_of_two_stops_is_the_reason_and_both_are_kept() -> None:
    """Several, Keras among them: the last of two stop decisions wins."""
    bus = EventBus()
    for name in ("first", "second"):
        bus.on("epoch_finished", name=name)(lambda name=name: Stop(f"by {name}"))
    answers = bus.bind(sender="train").emit("epoch_finished", epoch=1, step=1)
    assert answers.stop is next(iter(answers))
    assert [(answer.reason, answer.by) for answer in answers] == [
        ("by first", "first"),
        ("by second", "second"),
    ]


def test_mock_answer_is_no_answer() -> None:
    """Ludwig: a `Mock` is truthy, and stopped training."""
    bus = EventBus()
    bus.on("epoch_finished")(lambda: Mock())
    run = train(bus, [1.0, 1.0])
    assert (run.outcome, run.epoch) == ("completed", 2)


def test_metrics_cannot_be_changed_by_one_handler_for_the_others() -> None:
    """Several, Keras among them: a handler changes the logs, and later handlers see that."""
    bus, seen = EventBus(), list[float]()

    @bus.on("epoch_finished", on_error="isolate")
    def spoil(metrics: dict[str, float]) -> None:
        metrics["loss"] = 0.0

    bus.on("epoch_finished")(lambda metrics: seen.append(metrics["loss"]))
    train(bus, [1.0])
    assert seen == [1.0]


def test_skipped_batch_is_not_finished() -> None:
    """In fastai "after batch" fires for a batch that was skipped, too."""
    bus = EventBus()
    bus.on("batch_loaded")(lambda batch: SkipBatch("bad") if batch == 1 else None)
    with capture(bus, "batch_finished", "batch_skipped") as recording:
        train(bus, [1.0], losses=[0, 1, 2])
    assert recording.names == ["batch_finished", "batch_skipped", "batch_finished"]


def test_termination_is_answered_from_outside_and_no_step_polls_for_it() -> None:
    """Lightning: a broadcast and an `.item()` before every batch, to poll for SIGTERM."""
    bus = EventBus()
    before = signal.signal(signal.SIGTERM, lambda *_: bus.answer(Stop("SIGTERM", exit_code=143)))
    unreadable = torch.ones((), device="meta")

    @bus.on("batch_finished", when=at(3))
    def preempt() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        with capture(bus, "batch_finished") as recording, pytest.raises(SystemExit) as ended:
            train(bus, [1.0], losses=[unreadable] * 9)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert [emission["step"] for emission in recording.emissions] == [1, 2, 3]
