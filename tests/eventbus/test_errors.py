"""Errors: what fails loudly, what is isolated, and what the exception says when it arrives."""

from __future__ import annotations

import gc
import pickle
import traceback
import weakref
from contextlib import suppress
from typing import Any

import pytest

from eventbus import Emitter, EventBus, FieldError

from .recorders import MISTAKE, Recorder, assert_says, finish, notes_of, raising

# -- raise


def test_an_exception_reaches_the_loop_as_itself(bus: EventBus, loop: Emitter) -> None:
    error = ValueError("broken")
    bus.on("batch_finished")(raising(error))
    with pytest.raises(ValueError) as caught:
        finish(loop)
    assert caught.value is error
    assert caught.value.args == ("broken",)


def test_a_note_names_handler_signal_and_step(bus: EventBus, loop: Emitter) -> None:
    @bus.on("batch_finished")
    def save_weights() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError) as caught:
        finish(loop, step=417)
    notes = notes_of(caught.value)
    assert "save_weights" in notes
    assert "batch_finished" in notes
    assert "417" in notes
    assert len(caught.value.__notes__) == 1


def test_a_signal_without_a_step_is_noted_too(bus: EventBus, loop: Emitter) -> None:
    bus.on("run_started", name="starter")(raising(ValueError("broken")))
    with pytest.raises(ValueError, match="broken") as caught:
        loop.emit("run_started")
    assert "starter" in notes_of(caught.value)
    assert "run_started" in notes_of(caught.value)


# -- who still runs


def test_after_a_failure_later_isolated_handlers_run_and_raising_ones_do_not(
    bus: EventBus, loop: Emitter
) -> None:
    recorder = Recorder()
    bus.on("batch_finished", priority=9)(recorder.handler("before"))
    bus.on("batch_finished", priority=8)(recorder.failing("broken", ValueError("broken")))
    bus.on("batch_finished", priority=7)(recorder.handler("decider"))
    bus.on("batch_finished", priority=6, on_error="isolate")(recorder.handler("logger"))
    bus.on("batch_finished", priority=5)(recorder.handler("saver"))
    bus.on("batch_finished", priority=4, on_error="isolate")(recorder.handler("bar"))
    with pytest.raises(ValueError, match="broken"):
        finish(loop)
    assert recorder.calls == ["before", "broken", "logger", "bar"]


def test_a_plain_receiver_counts_as_raising(bus: EventBus, loop: Emitter) -> None:
    calls: list[str] = []

    def plain(sender: object, **fields: object) -> None:
        calls.append("plain")

    def plain_broken(sender: object, **fields: object) -> None:
        raise ValueError("plain broken")

    bus.signal("batch_finished").connect(plain_broken)
    bus.signal("batch_finished").connect(plain)
    bus.on("batch_finished", on_error="isolate")(lambda: calls.append("logger"))
    with pytest.raises(ValueError, match="plain broken") as caught:
        finish(loop)
    assert calls == ["logger"]
    assert "plain_broken" in notes_of(caught.value)


def test_the_next_emission_runs_everybody_again(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()

    @bus.on("batch_finished")
    def broken_once(step: int) -> None:
        if step == 1:
            raise ValueError("broken")

    bus.on("batch_finished")(recorder.handler("after"))
    with pytest.raises(ValueError, match="broken"):
        finish(loop, 1)
    finish(loop, 2)
    assert recorder.calls == ["after"]


def test_the_raised_error_wins_over_a_later_isolated_one(bus: EventBus, loop: Emitter) -> None:
    error = ValueError("first")
    bus.on("batch_finished")(raising(error))
    bus.on("batch_finished", on_error="isolate")(raising(KeyError("second")))
    with pytest.raises(ValueError) as caught:
        finish(loop)
    assert caught.value is error


# -- what is never caught


@pytest.mark.parametrize("policy", ["raise", "isolate"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_is_never_isolated(
    bus: EventBus, loop: Emitter, policy: Any, kind: type[BaseException]
) -> None:
    error = kind()
    bus.on("batch_finished", on_error=policy)(raising(error))
    with pytest.raises(kind) as caught:
        finish(loop)
    assert caught.value is error


def test_an_interrupt_wins_over_an_earlier_failure(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished")(raising(ValueError("broken")))
    bus.on("batch_finished", on_error="isolate")(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        finish(loop)


def test_the_bus_works_on_after_an_interrupt(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.once("batch_finished")(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        finish(loop)
    bus.on("epoch_finished")(recorder.handler("after"))
    bus.on("epoch_finished")(lambda bus: bus.emit("metrics_measured", metrics={}))
    loop.emit("epoch_finished", epoch=1, step=1)
    assert recorder.calls == ["after"]


# -- run_closed


def test_at_run_closed_every_handler_runs_whatever_fails(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    error = ValueError("first")
    bus.on("run_closed")(recorder.failing("broken", error))
    bus.on("run_closed")(recorder.handler("closer"))
    bus.on("run_closed", on_error="isolate")(recorder.failing("logger", OSError("logger")))
    bus.on("run_closed")(recorder.handler("last"))
    with pytest.raises(ValueError) as caught:
        loop.emit("run_closed", outcome="completed")
    assert caught.value is error
    assert recorder.calls == ["broken", "closer", "logger", "last"]


def test_several_failures_at_run_closed_come_as_a_group(bus: EventBus, loop: Emitter) -> None:
    errors = [ValueError("first"), OSError("second")]
    for error in errors:
        bus.on("run_closed")(raising(error))
    with pytest.raises(ExceptionGroup) as caught:
        loop.emit("run_closed", outcome="completed")
    assert list(caught.value.exceptions) == errors


def test_an_interrupt_at_run_closed_goes_on_when_the_others_have_closed(
    bus: EventBus, loop: Emitter
) -> None:
    recorder, first, second = Recorder(), KeyboardInterrupt(), SystemExit(3)
    bus.on("run_closed")(raising(first))
    bus.on("run_closed")(recorder.handler("closer"))
    bus.on("run_closed")(raising(second))
    bus.on("run_closed")(recorder.failing("broken", ValueError("broken")))
    bus.on("run_closed", on_error="isolate")(recorder.handler("last"))
    with pytest.raises(SystemExit) as caught:
        loop.emit("run_closed", outcome="failed")
    assert caught.value is second
    assert second.__context__ is first
    assert recorder.calls == ["closer", "broken", "last"]
    assert bus.open_runs == ()


# -- nested emissions


def test_a_failure_within_a_nested_emission_is_noted_where_it_arose(
    bus: EventBus, loop: Emitter
) -> None:
    @bus.on("metrics_measured")
    def write() -> None:
        raise OSError("disk full")

    @bus.on("batch_finished")
    def measure(bus: EventBus) -> None:
        bus.emit("metrics_measured", metrics={"x": 1.0})

    with pytest.raises(OSError, match="disk full") as caught:
        finish(loop, step=9)
    assert "write" in notes_of(caught.value)
    assert "metrics_measured" in notes_of(caught.value)


def test_an_isolated_handler_isolates_what_it_emits(bus: EventBus, loop: Emitter) -> None:
    failed: list[str] = []
    bus.on("handler_failed")(lambda handler: failed.append(handler))
    bus.on("metrics_measured", name="writer")(raising(OSError("disk full")))

    @bus.on("batch_finished", on_error="isolate", name="measurer")
    def measure(bus: EventBus) -> None:
        bus.emit("metrics_measured", metrics={"x": 1.0})

    finish(loop)
    assert failed == ["measurer"]


# -- strict


def test_strict_raises_what_would_be_isolated() -> None:
    bus = EventBus(strict=True)
    bus.on("batch_finished", on_error="isolate")(raising(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        finish(bus.bind(sender="train"))


def test_strict_knows_only_declared_signals() -> None:
    bus = EventBus(strict=True)
    with pytest.raises(MISTAKE) as caught:
        bus.on("kittens_born")(lambda: None)
    assert_says(caught.value, "kittens_born")
    with pytest.raises(MISTAKE):
        bus.bind(sender="train").emit("kittens_born")


def test_a_misuse_by_the_loop_is_not_isolated(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", on_error="isolate")(lambda: None)
    with pytest.raises(MISTAKE):
        loop.emit("batch_finished", epoch=1, step=1, lss=3)


# -- nothing grows


def test_an_isolated_exception_raised_again_and_again_does_not_grow() -> None:
    error = ValueError("always the same object")
    bus = EventBus()
    loop = bus.bind(sender="train")
    lengths, notes = [], []
    bus.on("handler_failed")(
        lambda exception: lengths.append(len(traceback.extract_tb(exception.__traceback__)))
    )
    for step in range(1, 1001):
        bus.once("batch_finished", on_error="isolate")(raising(error))
        finish(loop, step)
        notes.append(len(getattr(error, "__notes__", [])))
    assert lengths[-1] == lengths[0]
    assert notes[-1] == notes[0]
    assert error.__context__ is None


def test_the_traceback_begins_in_the_handler_with_few_frames_of_ours(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("batch_finished")(raising(ValueError("broken")))
    with pytest.raises(ValueError, match="broken") as caught:
        finish(loop)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "broken"
    assert len(frames) < 12


def test_a_group_of_failures_comes_out_of_another_process_whole(
    bus: EventBus, loop: Emitter
) -> None:
    for text in ("the disk is full", "the board is gone"):
        bus.on("run_closed")(raising(OSError(text)))
    with pytest.raises(ExceptionGroup) as caught:
        loop.emit("run_closed", outcome="completed")
    again = pickle.loads(pickle.dumps(caught.value))
    assert [str(one) for one in again.exceptions] == ["the disk is full", "the board is gone"]
    assert "the board is gone" in repr(caught.value)


@pytest.mark.parametrize("warm", [0, 20])
@pytest.mark.parametrize("signal", ["batch_finished", "batch_loaded"])
def test_a_failure_that_was_caught_keeps_nothing_of_its_emission(
    bus: EventBus, loop: Emitter, signal: str, warm: int
) -> None:
    class Batch: ...

    def emit(batch: object, step: int) -> None:
        if signal == "batch_loaded":
            loop.transform(signal, batch, epoch=1, step=step)
        else:
            loop.emit(signal, epoch=1, step=step, batch=batch)

    @bus.on(signal)
    def fail(step: int) -> None:
        if step == 0:
            raise MemoryError

    for step in range(1, warm + 1):
        emit(None, step)
    batch = Batch()
    held = weakref.ref(batch)
    gc.disable()
    try:
        with suppress(MemoryError):
            emit(batch, 0)
        del batch
        assert held() is None
    finally:
        gc.enable()


def test_the_culprit_is_named_alike_wherever_it_was_found(bus: EventBus) -> None:
    def report(los: float) -> None: ...
    def count(step: int) -> None: ...

    for mistaken in (
        lambda: bus.on("batch_finished")(report),
        lambda: bus.on("batch_finished", when=lambda los: los)(count),
    ):
        with pytest.raises(FieldError) as caught:
            mistaken()
        assert caught.value.handler in ("report", "count")
