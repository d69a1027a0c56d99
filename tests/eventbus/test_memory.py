"""Memory: the bus holds nothing of an emission after it, and does not grow."""

from __future__ import annotations

import gc
import logging
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from eventbus import Emitter, EventBus, Stop, every, from_
from eventbus.source import FEW


class Batch:
    """Stands for a tensor: something large that can be referenced weakly."""


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What dies must die by reference count: a cycle would keep a batch on the device."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def nothing(event: Any, **fields: object) -> None: ...


def failing(batch: object) -> None:
    raise OSError("disk full")


def answering(batch: object) -> Stop:
    return Stop("enough")


def emitting(bus: EventBus, batch: object) -> None:
    bus.emit("text_written", tag="t", text=batch)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("policy", ["raise", "isolate"])
@pytest.mark.parametrize("handler", [nothing, failing, answering, emitting])
def test_the_bus_holds_no_batch_after_the_emission(
    bus: EventBus,
    loop: Emitter,
    handler: Callable[..., Any],
    policy: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    batch = Batch()
    died = weakref.ref(batch)
    bus.on("batch_finished", when=from_(1), on_error=policy)(handler)
    caplog.set_level(logging.CRITICAL, logger="eventbus")  # pytest itself keeps what is logged
    with suppress(OSError):
        loop.emit("batch_finished", epoch=1, step=1, loss=batch, batch=batch)
    del batch
    assert died() is None


@pytest.mark.usefixtures("without_collector")
def test_several_failures_at_the_end_hold_nothing_either(bus: EventBus, loop: Emitter) -> None:
    held = Batch()
    died = weakref.ref(held)

    def failing_to_close(outcome: object) -> None:
        raise OSError("disk full")

    bus.on("run_closed")(failing_to_close)
    bus.on("run_closed", priority=1)(failing_to_close)
    with suppress(ExceptionGroup):
        loop.emit("run_closed", outcome=held)
    del held
    assert died() is None


@pytest.mark.usefixtures("without_collector")
def test_a_transform_holds_neither_the_old_value_nor_the_new(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: Batch())
    old = Batch()
    old_died = weakref.ref(old)
    new = loop.transform("batch_loaded", old, epoch=1, step=1)
    new_died = weakref.ref(new)
    del old, new
    assert (old_died(), new_died()) == (None, None)


@pytest.mark.usefixtures("without_collector")
def test_a_detached_handler_and_what_it_holds_are_let_go(bus: EventBus, loop: Emitter) -> None:
    held = Batch()
    died = weakref.ref(held)

    def handler(step: int, held: object = held) -> None: ...

    bus.on("batch_finished", when=every(1) & (lambda step: True))(handler)
    loop.emit("batch_finished", epoch=1, step=1)
    bus.detach(handler)
    loop.emit("batch_finished", epoch=1, step=2)
    del handler, held
    gc.collect()
    assert died() is None


def test_a_once_handler_is_let_go_after_its_call(bus: EventBus, loop: Emitter) -> None:
    held = Batch()
    died = weakref.ref(held)
    bus.once("batch_finished")(lambda step, held=held: None)
    loop.emit("batch_finished", epoch=1, step=1)
    loop.emit("batch_finished", epoch=1, step=2)
    del held
    gc.collect()
    assert died() is None


def test_a_closed_run_lets_go_of_its_model(bus: EventBus) -> None:
    model = Batch()
    died = weakref.ref(model)
    bus.on("run_opened")(lambda model: None)
    loop = bus.bind(sender="train", model=model)
    loop.emit("run_opened")
    loop.emit("run_closed", outcome="completed")
    del model, loop
    gc.collect()
    assert died() is None


def test_a_bus_that_is_forgotten_is_let_go() -> None:
    bus = EventBus()
    bus.on("batch_finished")(nothing)
    bus.bind(sender="train").emit("batch_finished", epoch=1, step=1)
    died = weakref.ref(bus)
    del bus
    gc.collect()
    assert died() is None


def growth(action: Callable[[int], None], times: int) -> int:
    """Return by how many bytes the memory in use grew over `times` actions, after a warm-up."""
    for number in range(200):
        action(number)
    gc.collect()
    tracemalloc.start()
    try:
        action(200)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(201, 201 + times):
            action(number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before


def test_emitting_does_not_grow(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", when=every(3))(nothing)
    bus.on("batch_finished")(lambda bus: bus.emit("metrics_measured", metrics={}))
    bus.on("metrics_measured")(nothing)

    def step(number: int) -> None:
        loop.emit("batch_finished", epoch=1, step=number, loss=0.5)

    assert growth(step, 3000) < 8000


def test_coming_and_going_does_not_grow(bus: EventBus, loop: Emitter) -> None:
    def come_and_go(number: int) -> None:
        def passing(step: int) -> None: ...

        bus.on("batch_finished", when=every(2))(passing)
        loop.emit("batch_finished", epoch=1, step=number)
        bus.detach(passing)

    assert growth(come_and_go, 1000) < 8000


def test_isolated_failures_do_not_grow(bus: EventBus, loop: Emitter) -> None:
    def flaky(step: int) -> None:
        if step % 2:
            raise OSError(f"step {step}")

    bus.on("batch_finished", on_error="isolate")(flaky)

    def step(number: int) -> None:
        loop.emit("batch_finished", epoch=1, step=number)

    assert growth(step, 2000) < 8000


def test_runs_that_follow_each_other_do_not_grow(bus: EventBus) -> None:
    bus.on("batch_finished")(lambda: Stop("enough"))

    def run(number: int) -> None:
        loop = bus.bind(sender="train", model=Batch())
        for signal in ("run_opened", "run_started"):
            loop.emit(signal)
        loop.emit("batch_finished", epoch=1, step=1)
        loop.emit("run_closed", outcome="stopped")

    assert growth(run, 500) < 8000


def test_passing_senders_do_not_grow(bus: EventBus) -> None:
    signal = bus.signal("batch_finished")
    signal.connect(lambda sender, **fields: None, weak=False)

    def send(number: int) -> None:
        signal.send(Batch())
        signal.send(f"sender {number}")

    assert growth(send, 1000) < 8000


def test_field_names_made_up_at_run_time_do_not_grow(bus: EventBus, loop: Emitter) -> None:
    def emit(number: int) -> None:
        loop.emit("sample_drawn", **{f"field {number}": number})

    assert growth(emit, 5000) < 60_000  # some are remembered; all of them would be 500 kB


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("number", [1, FEW])
def test_a_closed_run_lets_go_of_its_model_however_many_handlers_wait_for_a_count(
    bus: EventBus, number: int
) -> None:
    for _ in range(number):
        bus.on("batch_finished", when=every(100))(lambda model: None)
    model = Batch()
    loop = bus.bind(sender="train", model=model)
    loop.emit("run_opened")
    for step in range(20):
        loop.emit("batch_finished", epoch=1, step=step)
        loop.signal("batch_finished").emit(epoch=1, step=step)
    loop.emit("run_closed", outcome="completed")
    died = weakref.ref(model)
    del model, loop
    assert died() is None
