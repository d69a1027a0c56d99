"""Answers of background handlers: they take effect at a coming safe point."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import Emitter, EventBus, HandlerError, SkipBatch, State, Stop

from .backends import settle
from .recorders import assert_says, finish


def close(loop: Emitter) -> None:
    loop.emit("run_closed", outcome="completed")


def test_an_answer_is_pending_from_the_next_emission_on(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True, name="guard")(lambda step: Stop("seen enough"))
    finish(loop)
    settle(bus)
    stop = finish(loop, 2).stop
    assert (stop.reason, stop.by) == ("seen enough", "guard")


def test_an_answer_reaches_a_loop_that_is_compiled_by_now(bus: EventBus, loop: Emitter) -> None:
    answer = lambda step: Stop("enough") if step == 50 else None  # noqa: E731
    bus.on("batch_finished", background=True)(answer)
    for step in range(1, 51):
        finish(loop, step)
    settle(bus)
    assert finish(loop, 51).stop.reason == "enough"


def test_a_stop_is_told_once_by_stop_requested(bus: EventBus, loop: Emitter) -> None:
    told: list[Any] = []
    bus.on("stop_requested")(lambda reason, handler: told.append((reason, handler)))
    once = lambda: Stop("seen enough")  # noqa: E731
    bus.once("batch_finished", background=True, name="guard")(once)
    finish(loop)
    settle(bus)
    finish(loop, 2)
    finish(loop, 3)
    assert told == [("seen enough", "guard")]


def test_several_answers_are_all_heard(bus: EventBus, loop: Emitter) -> None:
    both = lambda: [SkipBatch("bad"), Stop("worse")]  # noqa: E731
    bus.on("backward_finished", background=True)(both)
    loop.emit("backward_finished", epoch=1, step=1)
    settle(bus)
    answers = loop.answers
    assert (answers.skip.reason, answers.stop.reason) == ("bad", "worse")  # type: ignore[union-attr]  # both are pending


@pytest.mark.parametrize(
    ("returned", "word"), [(State("key", 1), "State"), (True, "True"), (Stop, "class Stop")]
)
def test_what_is_no_answer_in_the_background_is_an_error(
    bus: EventBus, loop: Emitter, returned: Any, word: str
) -> None:
    bus.on("batch_finished", background=True, name="wrong")(lambda: returned)
    finish(loop)
    with pytest.raises(HandlerError) as caught:
        close(loop)
    assert_says(caught.value, "'wrong'", word)


def test_a_background_handler_never_replaces_a_value(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded", background=True)(lambda batch: "another")
    for step in range(1, 20):
        assert loop.transform("batch_loaded", "data", epoch=1, step=step) == "data"
        settle(bus)
