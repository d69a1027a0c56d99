"""Failures off the loop's thread: raised or told at the next emission and at close, never lost."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from eventbus import Background, Emitter, EventBus, HandlerError, Stop, every, handles

from .backends import PATIENCE_S, began, settle
from .recorders import Recorder, assert_says, finish, notes_of, raising
from .test_isolation import Flaky


def close(loop: Emitter) -> None:
    loop.emit("run_closed", outcome="completed")


def failing_at(*steps: int) -> Callable[[int], None]:
    return Flaky(*steps)


@pytest.mark.parametrize("step", [1, 20])
def test_a_failure_is_raised_as_itself_at_the_next_emission(
    bus: EventBus, loop: Emitter, step: int
) -> None:
    bus.on("batch_finished", background=True, name="upload")(failing_at(step))
    for before in range(1, step + 1):
        finish(loop, before)
    settle(bus)
    with pytest.raises(OSError, match="cannot write step") as caught:
        finish(loop, step + 1)
    where = f"in handler 'upload', signal 'batch_finished', epoch 1, step {step}, sender 'train'"
    assert notes_of(caught.value) == where


def test_a_failure_is_raised_once(bus: EventBus, loop: Emitter) -> None:
    flaky = Flaky(1)
    bus.on("batch_finished", background=True)(flaky)
    finish(loop)
    settle(bus)
    with pytest.raises(OSError, match="step 1"):
        finish(loop, 2)
    finish(loop, 3)
    close(loop)
    assert flaky.steps == [1, 2, 3]


def test_a_failure_is_raised_although_the_handler_is_not_due(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", when=every(20), background=True)(failing_at(20))
    for step in range(1, 21):
        finish(loop, step)
    settle(bus)
    with pytest.raises(OSError, match="step 20"):
        finish(loop, 21)


def test_a_failure_is_raised_when_the_run_is_closed(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True, name="upload")(failing_at(1))
    recorder = Recorder()
    bus.on("run_closed", priority=-1000)(recorder.handler("closed"))
    finish(loop)
    with pytest.raises(OSError, match="step 1") as caught:
        close(loop)
    assert notes_of(caught.value).startswith("in handler 'upload', signal 'batch_finished'")
    assert recorder.calls == ["closed"]


def test_failures_of_several_handlers_are_raised_together_at_the_end(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("batch_finished", background=True)(raising(OSError("one")))
    bus.on("batch_finished", background=True)(raising(ValueError("two")))
    finish(loop)
    with pytest.raises(ExceptionGroup) as caught:
        close(loop)
    assert [type(each) for each in caught.value.exceptions] == [OSError, ValueError]


def test_a_failure_of_a_detached_handler_is_raised_at_the_end(bus: EventBus, loop: Emitter) -> None:
    with bus.attach(handles("batch_finished", background=True)(raising(OSError("late")))):
        finish(loop)
    with pytest.raises(OSError, match="late"):
        close(loop)


def test_nothing_more_is_done_until_a_failure_was_raised(bus: EventBus, loop: Emitter) -> None:
    taken, go = [], threading.Event()

    def fail(step: int) -> None:
        taken.append(step)
        assert began(go)
        raise OSError(f"step {step}")

    bus.on("batch_finished", background=True, name="save")(fail)
    for step in (1, 2, 3):
        finish(loop, step)
    go.set()
    with pytest.raises(OSError, match="step 1"):
        close(loop)
    assert taken == [1]
    assert "save  background, 2 dropped" in bus.describe()


def test_a_failure_keeps_its_traceback(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True)(failing_at(1))
    finish(loop)
    with pytest.raises(OSError, match="step 1") as caught:
        close(loop)
    assert caught.traceback[-1].name == "__call__"


def test_a_stop_iteration_does_not_pass_for_the_end_of_the_data(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("batch_finished", background=True)(raising(StopIteration()))
    finish(loop)
    with pytest.raises(RuntimeError, match="StopIteration"):
        close(loop)


def test_an_exit_off_the_loops_thread_is_an_error(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True, name="quit")(lambda: sys.exit(3))
    finish(loop)
    with pytest.raises(HandlerError) as caught:
        close(loop)
    assert_says(caught.value, "'quit'", "SystemExit", "Stop(")
    assert isinstance(caught.value.__cause__, SystemExit)


# -- isolated


def test_an_isolated_failure_is_logged_told_and_counted(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    bus.on("handler_failed")(lambda **fields: told.append(fields))
    bus.on("batch_finished", background=True, on_error="isolate", name="log")(failing_at(1))
    finish(loop)
    settle(bus)
    finish(loop, 2)
    close(loop)
    (fields,) = told
    assert isinstance(fields.pop("exception"), OSError)
    assert fields == {"handler": "log", "signal": "batch_finished", "epoch": 1, "step": 1}
    first, last = caplog.records
    assert "'log' failed" in first.getMessage()
    assert "step 1" in first.getMessage()
    assert first.exc_info
    assert last.getMessage().endswith(": log (1)")


def test_an_isolated_failure_at_the_end_is_summed_up_with_the_others(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished", background=True, on_error="isolate", name="log")(failing_at(1))
    finish(loop)
    close(loop)
    assert caplog.messages[-1].endswith(": log (1)")


@pytest.mark.parametrize("reported", ["at once", "at the end"])
def test_three_failures_in_a_row_switch_a_background_handler_off(
    bus: EventBus, loop: Emitter, reported: str, caplog: pytest.LogCaptureFixture
) -> None:
    flaky = Flaky(*range(1, 100))
    bus.on("batch_finished", background=True, on_error="isolate", name="log")(flaky)
    for step in range(1, 21):
        finish(loop, step)
        if reported == "at once":
            settle(bus)
    close(loop)
    assert flaky.steps == [1, 2, 3]
    told = "handler 'log' failed 3 times in a row: switched off for batch_finished"
    assert caplog.messages.count(told) == 1
    assert bus.subscriptions[0].switched_off


def test_what_is_handed_over_is_no_success_yet(bus: EventBus, loop: Emitter) -> None:
    flaky = Flaky(*range(50, 100))
    bus.on("batch_finished", background=True, on_error="isolate")(flaky)
    for step in range(1, 61):  # compiled by the time that it fails
        finish(loop, step)
        settle(bus)
    assert flaky.steps == [*range(1, 50), 50, 51, 52]


def test_a_success_starts_the_count_anew(bus: EventBus, loop: Emitter) -> None:
    flaky = Flaky(1, 2, 4, 5)
    bus.on("batch_finished", background=True, on_error="isolate")(flaky)
    for step in range(1, 7):
        finish(loop, step)
    close(loop)
    assert flaky.steps == [1, 2, 3, 4, 5, 6]


def test_strict_raises_what_is_isolated() -> None:
    bus = EventBus(strict=True)
    loop = bus.bind(sender="train")
    bus.on("batch_finished", background=True, on_error="isolate")(failing_at(1))
    finish(loop)
    with pytest.raises(OSError, match="step 1"):
        close(loop)


def test_a_failure_does_not_hold_the_others_up(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.on("batch_finished", background=True, on_error="isolate")(failing_at(1))
    bus.on("batch_finished")(recorder.handler("after"))
    finish(loop)
    settle(bus)
    finish(loop, 2)
    assert recorder.calls == ["after", "after"]


def test_answers_given_before_a_failure_are_kept(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True, priority=1)(lambda: Stop("enough"))
    bus.on("batch_finished", background=True)(raising(OSError("broken")))
    finish(loop)
    settle(bus)
    with suppress(OSError):
        finish(loop, 2)
    assert loop.answers.stop is not None


def test_a_listener_to_failures_in_the_background_is_not_told_of_itself(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    options = Background(timeout_s=PATIENCE_S)
    listener = raising(OSError("mail is down"))
    bus.on("handler_failed", background=options, on_error="isolate", name="mail")(listener)
    bus.on("batch_finished", on_error="isolate", name="log")(failing_at(1))
    with caplog.at_level(logging.WARNING):
        finish(loop)
        settle(bus)
        close(loop)
    assert caplog.messages[-1].endswith(": log (1), mail (1)")
