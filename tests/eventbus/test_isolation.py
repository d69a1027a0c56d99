"""Isolated observers: logged once, counted, told, switched off after three failures in a row."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from eventbus import Emitter, EventBus, HandlerError, every, handles

from .recorders import Recorder, finish


class Flaky:
    """Fails at the steps that it is told to fail at."""

    def __init__(self, *failing_steps: int) -> None:
        self.failing_steps = failing_steps
        self.steps: list[int] = []

    def __call__(self, step: int) -> None:
        self.steps.append(step)
        if step in self.failing_steps:
            raise OSError(f"cannot write step {step}")


def run_steps(loop: Emitter, last: int) -> None:
    for step in range(1, last + 1):
        loop.emit("batch_finished", epoch=1, step=step)


def test_training_goes_on_when_a_logger_fails(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.on("batch_finished", priority=1, on_error="isolate")(Flaky(1))
    bus.on("batch_finished")(recorder.handler("trained"))
    run_steps(loop, 1)
    assert recorder.calls == ["trained"]


def test_three_failures_in_a_row_switch_a_handler_off(bus: EventBus, loop: Emitter) -> None:
    flaky = Flaky(*range(1, 100))
    bus.on("batch_finished", on_error="isolate")(flaky)
    run_steps(loop, 8)
    assert flaky.steps == [1, 2, 3]


def test_a_success_starts_the_count_of_failures_anew(bus: EventBus, loop: Emitter) -> None:
    flaky = Flaky(1, 2, 4, 5, 7, 8, 9)
    bus.on("batch_finished", on_error="isolate")(flaky)
    run_steps(loop, 12)
    assert flaky.steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_emissions_that_are_not_due_do_not_break_a_row_of_failures(
    bus: EventBus, loop: Emitter
) -> None:
    flaky = Flaky(*range(1, 100))
    bus.on("batch_finished", when=every(2), on_error="isolate")(flaky)
    run_steps(loop, 12)
    assert flaky.steps == [2, 4, 6]


def test_one_handler_switched_off_leaves_the_others(bus: EventBus, loop: Emitter) -> None:
    broken, fine = Flaky(*range(1, 100)), Flaky()
    bus.on("batch_finished", on_error="isolate")(broken)
    bus.on("batch_finished", on_error="isolate")(fine)
    run_steps(loop, 5)
    assert fine.steps == [1, 2, 3, 4, 5]


def test_a_handler_switched_off_may_be_subscribed_anew(bus: EventBus, loop: Emitter) -> None:
    flaky = Flaky(1, 2, 3)
    bus.on("batch_finished", on_error="isolate")(flaky)
    run_steps(loop, 4)
    bus.detach(flaky)
    bus.on("batch_finished", on_error="isolate")(flaky)
    loop.emit("batch_finished", epoch=1, step=5)
    assert flaky.steps == [1, 2, 3, 5]


def test_each_failure_is_told(bus: EventBus, loop: Emitter) -> None:
    told: list[tuple[str, str, str, int]] = []

    @bus.on("handler_failed")
    def tell(handler: str, signal: str, exception: Exception, step: int) -> None:
        told.append((handler, signal, str(exception), step))

    bus.on("batch_finished", on_error="isolate", name="csv")(Flaky(1, 2))
    run_steps(loop, 3)
    assert told == [
        ("csv", "batch_finished", "cannot write step 1", 1),
        ("csv", "batch_finished", "cannot write step 2", 2),
    ]


def test_a_failure_of_who_is_told_does_not_go_round(bus: EventBus, loop: Emitter) -> None:
    told: list[str] = []

    @bus.on("handler_failed", on_error="isolate")
    def notify(handler: str) -> None:
        told.append(handler)
        raise OSError("no network")

    bus.on("batch_finished", on_error="isolate", name="csv")(Flaky(1))
    run_steps(loop, 2)
    assert told == ["csv"]


def test_a_raising_handler_of_failures_does_not_go_round_either(
    bus: EventBus, loop: Emitter
) -> None:
    told: list[str] = []

    @bus.on("handler_failed")
    def notify(handler: str) -> None:
        told.append(handler)
        raise OSError("no network")

    bus.on("batch_finished", on_error="isolate", name="csv")(Flaky(1))
    with suppress(OSError):
        run_steps(loop, 1)
    assert told == ["csv"]


def test_a_raising_handler_of_failures_leaves_the_emission_as_it_is(
    bus: EventBus, loop: Emitter
) -> None:
    """Its error may reach the loop; later observers are not its business."""
    recorder = Recorder()
    bus.on("handler_failed")(recorder.failing("listener", OSError("no network")))
    bus.on("batch_finished", priority=1, on_error="isolate")(Flaky(1))
    bus.on("batch_finished", on_error="isolate")(recorder.handler("later observer"))
    with suppress(OSError):
        run_steps(loop, 1)
    assert recorder.calls == ["listener", "later observer"]


def test_only_the_first_failure_is_logged_with_its_traceback(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished", on_error="isolate", name="csv")(Flaky(1, 2, 4, 5))
    with caplog.at_level(logging.DEBUG, logger="eventbus"):
        run_steps(loop, 5)
    with_traceback = [record for record in caplog.records if record.exc_info]
    assert len(with_traceback) == 1
    assert "csv" in with_traceback[0].getMessage()
    assert "batch_finished" in with_traceback[0].getMessage()
    assert with_traceback[0].levelno >= logging.WARNING


def test_being_switched_off_is_logged(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished", on_error="isolate", name="csv")(Flaky(*range(1, 100)))
    with caplog.at_level(logging.WARNING, logger="eventbus"):
        run_steps(loop, 2)
        before = len(caplog.records)
        run_steps(loop, 5)
    told = " ".join(record.getMessage() for record in caplog.records[before:])
    assert told == "handler 'csv' failed 3 times in a row: switched off for batch_finished"


class Writer:
    """One method that fails on a signal, and one on two that are marked together."""

    @handles("epoch_started", on_error="isolate")
    def begin(self) -> None:
        raise OSError("no space left")

    @handles("batch_started", "batch_finished", on_error="isolate")
    def write(self) -> None:
        raise OSError("no space left")


def test_what_is_switched_off_is_told_by_its_signals(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(Writer())
    for epoch in range(1, 5):
        loop.emit("epoch_started", epoch=epoch, step=0)
    run_steps(loop, 4)
    off = "failed 3 times in a row: switched off for"
    assert [text for text in caplog.messages if off in text] == [
        f"handler 'Writer.begin' {off} epoch_started",
        f"handler 'Writer.write' {off} batch_started, batch_finished",
    ]


def test_a_pattern_that_is_switched_off_is_told_as_it_was_given(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_*", on_error="isolate", name="csv")(Flaky(*range(1, 100)))
    run_steps(loop, 4)
    assert caplog.messages[-1].endswith("switched off for batch_*")


def test_failures_are_summed_up_when_the_run_is_closed(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished", on_error="isolate", name="csv")(Flaky(1, 3, 5))
    run_steps(loop, 6)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="eventbus"):
        loop.emit("run_closed", outcome="completed")
    summary = " ".join(record.getMessage() for record in caplog.records)
    assert "csv" in summary
    assert "3" in summary


def test_without_failures_nothing_is_summed_up(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished", on_error="isolate")(Flaky())
    run_steps(loop, 2)
    with caplog.at_level(logging.INFO, logger="eventbus"):
        loop.emit("run_closed", outcome="completed")
    assert not caplog.records


def test_the_summary_of_one_run_is_not_repeated_by_the_next(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished", on_error="isolate", name="csv")(Flaky(1))
    run_steps(loop, 1)
    loop.emit("run_closed", outcome="completed")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="eventbus"):
        bus.bind(sender="train").emit("run_closed", outcome="completed")
    assert not caplog.records


def test_a_raising_handler_is_never_switched_off(bus: EventBus, loop: Emitter) -> None:
    broken = Flaky(*range(1, 100))
    bus.on("batch_finished")(broken)
    for step in range(1, 6):
        with pytest.raises(OSError, match="cannot write"):
            loop.emit("batch_finished", epoch=1, step=step)
    assert broken.steps == [1, 2, 3, 4, 5]


def test_one_object_isolated_on_two_signals_fails_on_its_own_each(
    bus: EventBus, loop: Emitter
) -> None:
    """The count is per subscription: a broken end of epoch leaves the steps alone."""
    flaky = Flaky(*range(1, 100))
    fine: list[int] = []

    class Both:
        def on_step(self, step: int) -> None:
            fine.append(step)

    bus.on("epoch_finished", on_error="isolate")(flaky)
    bus.on("batch_finished", on_error="isolate")(Both().on_step)
    for step in range(1, 6):
        loop.emit("epoch_finished", epoch=step, step=step)
    run_steps(loop, 2)
    assert (flaky.steps, fine) == ([1, 2, 3], [1, 2])


def test_an_isolated_wrong_answer_is_isolated(bus: EventBus, loop: Emitter) -> None:
    failed: list[Any] = []
    bus.on("handler_failed")(lambda exception: failed.append(exception))
    bus.on("batch_finished", on_error="isolate")(lambda: True)
    run_steps(loop, 1)
    assert len(failed) == 1


def test_a_raising_listener_to_failures_does_not_spare_a_handler_from_the_switch(
    bus: EventBus, loop: Emitter
) -> None:
    flaky, listener = Flaky(*range(1, 100)), Flaky()

    def told(handler: str) -> None:
        listener.steps.append(len(listener.steps) + 1)
        raise RuntimeError("the listener is broken too")

    bus.on("handler_failed")(told)
    bus.on("batch_finished", on_error="isolate")(flaky)
    for step in range(1, 6):
        with suppress(RuntimeError):
            finish(loop, step)
    assert (flaky.steps, listener.steps) == ([1, 2, 3], [1, 2, 3])


def test_a_predicate_that_says_no_does_not_break_a_row_of_failures(
    bus: EventBus, loop: Emitter
) -> None:
    flaky = Flaky(*range(20, 100))
    bus.on("batch_finished", when=lambda step: step % 2 == 0, on_error="isolate")(flaky)
    run_steps(loop, 40)  # compiled by the time that it fails
    assert flaky.steps == [*range(2, 20, 2), 20, 22, 24]


def test_each_of_two_handlers_of_one_name_is_logged_the_first_time(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("one.csv", "two.csv"):

        def write(path: str = path) -> None:
            raise OSError(f"cannot write {path}")

        bus.on("batch_finished", on_error="isolate", name="log")(write)
    run_steps(loop, 2)
    assert [caplog.text.count(f"cannot write {path}") for path in ("one.csv", "two.csv")] == [1, 1]


@pytest.mark.parametrize("result", [None, 17])
def test_what_a_handler_returns_does_not_matter_to_a_row_of_failures(
    bus: EventBus, loop: Emitter, result: int | None
) -> None:
    flaky = Flaky(20, 30, 40)

    @bus.on("batch_finished", on_error="isolate")
    def write(step: int) -> int | None:
        flaky(step)
        return result  # as the `write` of a file has it

    run_steps(loop, 50)
    assert flaky.steps == list(range(1, 51))


def test_an_isolated_generator_is_refused_where_it_can_make_no_value(bus: EventBus) -> None:
    def halves(batch: object) -> Any:
        yield batch

    with pytest.raises(HandlerError, match="yields, so on signal 'batch_loaded' its body"):
        bus.on("batch_loaded", on_error="isolate")(halves)


@dataclass(frozen=True)
class FrozenError(Exception):
    text: str


def test_an_exception_that_takes_no_note_is_isolated_too(bus: EventBus, loop: Emitter) -> None:
    failed: list[Exception] = []
    bus.on("handler_failed")(lambda exception: failed.append(exception))

    @bus.on("batch_finished", on_error="isolate")
    def fail() -> None:
        raise FrozenError("mine")

    finish(loop)
    assert failed == [FrozenError("mine")]
    assert failed[0].__traceback__ is None


def test_an_exception_that_takes_no_note_reaches_the_loop_as_itself(
    bus: EventBus, loop: Emitter
) -> None:
    ran: list[int] = []

    @bus.on("batch_finished", priority=1)
    def fail() -> None:
        raise FrozenError("mine")

    bus.on("batch_finished", on_error="isolate")(lambda step: ran.append(step))
    with pytest.raises(FrozenError, match="mine"):
        finish(loop)
    assert len(ran) == 1
