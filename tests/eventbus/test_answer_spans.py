"""How long an answer is pending: `Stop` a run, `StopEpoch` an epoch, `SkipBatch` a batch."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import Emitter, EventBus, SkipBatch, Stop, StopEpoch

from .recorders import answer_to

STOP_LASTS_OVER = [
    ("batch_finished", {"epoch": 1, "step": 1}),
    ("batch_loaded", None),
    ("epoch_finished", {"epoch": 1, "step": 1}),
    ("epoch_interrupted", {"epoch": 1, "step": 1}),
    ("epoch_started", {"epoch": 2, "step": 1}),
    ("run_finished", {"reason": "completed"}),
]


@pytest.mark.parametrize(("signal", "fields"), STOP_LASTS_OVER)
def test_stop_lasts_until_the_run_is_closed(
    bus: EventBus, loop: Emitter, signal: str, fields: dict[str, Any] | None
) -> None:
    answer_to(bus, "batch_started", Stop("now"))
    loop.emit("batch_started", epoch=1, step=1)
    if fields is None:
        loop.transform(signal, "data", epoch=1, step=1)
    else:
        assert loop.emit(signal, **fields).stop is not None
    assert loop.answers.stop is not None
    loop.emit("run_closed", outcome="stopped")
    assert loop.answers.stop is None


@pytest.mark.parametrize(
    ("signal", "fields", "lasts"),
    [
        ("batch_finished", {"epoch": 1, "step": 1}, True),
        ("batch_skipped", {"epoch": 1, "step": 1}, True),
        ("validation_done", {"name": "val", "round": 1, "epoch": 1, "step": 1}, True),
        ("epoch_finished", {"epoch": 1, "step": 1}, False),
        ("epoch_interrupted", {"epoch": 1, "step": 1}, False),
        ("run_closed", {"outcome": "completed"}, False),
    ],
)
def test_stop_epoch_lasts_until_the_epoch_ends(
    bus: EventBus, loop: Emitter, signal: str, fields: dict[str, Any], lasts: bool
) -> None:
    answer_to(bus, "batch_started", StopEpoch("enough"))
    loop.emit("batch_started", epoch=1, step=1)
    loop.emit(signal, **fields)
    assert (loop.answers.stop_epoch is not None) is lasts


@pytest.mark.parametrize(
    ("signal", "fields", "lasts"),
    [
        ("backward_finished", {"epoch": 1, "step": 1}, True),
        ("batch_finished", {"epoch": 1, "step": 1}, False),
        ("batch_skipped", {"epoch": 1, "step": 1}, False),
        ("run_closed", {"outcome": "completed"}, False),
    ],
)
def test_skip_batch_lasts_until_the_batch_ends(
    bus: EventBus, loop: Emitter, signal: str, fields: dict[str, Any], lasts: bool
) -> None:
    answer_to(bus, "batch_started", SkipBatch("bad"))
    loop.emit("batch_started", epoch=1, step=1)
    loop.emit(signal, **fields)
    assert (loop.answers.skip is not None) is lasts


def test_an_epoch_does_not_begin_with_the_stop_epoch_of_the_last(
    bus: EventBus, loop: Emitter
) -> None:
    answer_to(bus, "epoch_finished", StopEpoch("too late"))
    loop.emit("epoch_finished", epoch=1, step=1)
    assert loop.emit("epoch_started", epoch=2, step=1).stop_epoch is None


def test_a_stop_epoch_given_between_epochs_is_for_none(bus: EventBus, loop: Emitter) -> None:
    loop.emit("epoch_finished", epoch=1, step=1)
    answer_to(bus, "checkpoint_saved", StopEpoch("of the epoch that is over"))
    assert loop.emit("checkpoint_saved", path="x", epoch=1, step=1).stop_epoch is not None
    assert loop.emit("epoch_started", epoch=2, step=1).stop_epoch is None


def test_a_stop_epoch_given_at_its_start_counts(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "epoch_started", StopEpoch("not this one"))
    assert loop.emit("epoch_started", epoch=1, step=0).stop_epoch is not None
    assert loop.answers.stop_epoch is not None


def test_a_batch_does_not_begin_with_the_skip_of_the_last(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "batch_finished", SkipBatch("too late"))
    loop.emit("batch_finished", epoch=1, step=1)
    assert loop.emit("batch_started", epoch=1, step=2).skip is None


def test_a_skip_given_to_the_loaded_batch_counts(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "batch_loaded", SkipBatch("corrupt"))
    assert loop.transform("batch_loaded", "data", epoch=1, step=1, batch_index=1) == "data"
    assert loop.answers.skip is not None
    loop.transform("batch_loaded", "next", epoch=1, step=1, batch_index=2)
    assert loop.answers.skip is None


def test_runs_after_each_other_do_not_share_answers(bus: EventBus) -> None:
    first = bus.bind(sender="train")
    answer_to(bus, "batch_finished", Stop("first fold"))
    first.emit("batch_finished", epoch=1, step=1)
    first.emit("run_closed", outcome="stopped")
    assert bus.bind(sender="train").emit("run_opened").stop is None


def test_two_runs_at_once_do_not_share_answers(bus: EventBus) -> None:
    one, other = bus.bind(sender="one"), bus.bind(sender="other")
    bus.on("batch_finished", sender="one")(lambda: Stop("only one"))
    assert one.emit("batch_finished", epoch=1, step=1).stop is not None
    assert other.emit("batch_finished", epoch=1, step=1).stop is None
