"""Odd exceptions: without arguments, unprintable, groups, recursion, and `StopIteration`."""

from __future__ import annotations

import pytest

from eventbus import Emitter, EventBus

from .recorders import Recorder, finish, notes_of, raising


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


def recursing() -> None:
    recursing()


ODD_ERRORS = [
    pytest.param(ValueError(), id="without arguments"),
    pytest.param(KeyError("missing"), id="key error"),
    pytest.param(UnprintableError("odd"), id="unprintable"),
    pytest.param(ExceptionGroup("several", [ValueError("a"), KeyError("b")]), id="group"),
    pytest.param(AssertionError(), id="assertion"),
]


@pytest.mark.parametrize("error", ODD_ERRORS)
def test_odd_exceptions_reach_the_loop_as_themselves(
    bus: EventBus, loop: Emitter, error: Exception
) -> None:
    bus.on("batch_finished")(raising(error))
    with pytest.raises(type(error)) as caught:
        finish(loop)
    assert caught.value is error


@pytest.mark.parametrize("error", ODD_ERRORS)
def test_odd_exceptions_are_isolated_like_others(
    bus: EventBus, loop: Emitter, error: Exception
) -> None:
    failures: list[object] = []
    bus.on("handler_failed")(lambda exception: failures.append(exception))
    bus.on("batch_finished", on_error="isolate")(raising(error))
    finish(loop)
    assert failures == [error]


def test_recursion_without_end_is_an_error_like_others(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.on("batch_finished", on_error="isolate")(recursing)
    bus.on("batch_finished")(recorder.handler("after"))
    finish(loop)
    assert recorder.calls == ["after"]
    bus.on("batch_finished")(recursing)
    with pytest.raises(RecursionError) as caught:
        finish(loop)
    assert "recursing" in notes_of(caught.value)


def test_stop_iteration_is_never_taken_for_the_end_of_the_data(
    bus: EventBus, loop: Emitter
) -> None:
    error = StopIteration("leaked")
    bus.on("batch_finished")(raising(error))
    with pytest.raises(RuntimeError) as caught:
        finish(loop)
    assert not isinstance(caught.value, StopIteration)
    assert caught.value.__cause__ is error
    assert "broken" in notes_of(caught.value) + str(caught.value)


def test_a_leaking_next_does_not_end_a_loop_over_an_iterator(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished")(lambda: next(iter([])))

    class Batches:
        """An iterator, as loops are: a `StopIteration` out of `__next__` would end it."""

        def __iter__(self) -> Batches:
            return self

        def __next__(self) -> int:
            finish(loop)
            return 1

    with pytest.raises(RuntimeError):
        list(Batches())


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit])
def test_an_isolated_stop_iteration_does_not_leak_either(
    bus: EventBus, loop: Emitter, kind: type[BaseException]
) -> None:
    bus.on("batch_finished", on_error="isolate")(raising(kind()))
    if issubclass(kind, Exception):
        finish(loop)
    else:
        with pytest.raises(kind):
            finish(loop)
