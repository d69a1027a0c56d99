"""The function made for a settled transform replaces, answers and fails as the interpreter does."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

import eventbus.port
from eventbus import Emitter, EventBus, Priority, SkipBatch, Stop
from eventbus.event_signal import EventSignal

from .recorders import MISTAKE, assert_says


@pytest.fixture(autouse=True)
def compile_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventbus.port, "WARM", 0)


def load(loop: Emitter, batch: Any, step: int = 1) -> Any:
    return loop.transform("batch_loaded", batch, epoch=1, step=step, batch_index=step)


def settle(loop: Emitter) -> None:
    """Have the handlers of the moment compiled."""
    load(loop, "to settle")
    assert is_compiled(loop)


def is_even(step: int) -> bool:
    return step % 2 == 0


def is_compiled(loop: Emitter) -> bool:
    return "batch_loaded" in loop.transforms


def appending(mark: str) -> Callable[[Any], Any]:
    return lambda batch: f"{batch} {mark}"


def test_a_handler_that_only_looks_is_called_by_the_compiled_function(
    bus: EventBus, loop: Emitter
) -> None:
    callers: list[str] = []
    bus.on("batch_loaded")(lambda: callers.append(sys._getframe(1).f_code.co_filename))
    settle(loop)
    batch = object()
    assert load(loop, batch) is batch
    assert callers[-1].startswith("<eventbus batch_loaded")


def test_a_port_of_the_signal_uses_the_same_function(bus: EventBus, loop: Emitter) -> None:
    callers: list[str] = []
    bus.on("batch_loaded")(lambda: callers.append(sys._getframe(1).f_code.co_filename))
    settle(loop)
    port = loop.signal("batch_loaded")
    assert port.transform("data", epoch=1, step=1, batch_index=1) == "data"
    assert callers[-1].startswith("<eventbus batch_loaded")


def test_returned_values_replace_it_one_after_the_other(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded", priority=Priority.ALTER)(appending("first"))
    bus.on("batch_loaded", on_error="isolate", priority=1)(appending("never"))
    bus.on("batch_loaded", when=is_even)(appending("second"))
    seen: list[Any] = []
    bus.on("batch_loaded", priority=Priority.REPORT)(lambda batch: seen.append(batch))
    settle(loop)
    assert load(loop, "data", step=3) == "data first"
    assert load(loop, "data", step=4) == "data first second"
    assert seen[-2:] == ["data first", "data first second"]


def test_a_change_of_who_listens_takes_it_back(bus: EventBus, loop: Emitter) -> None:
    seen: list[Any] = []
    bus.on("batch_loaded")(lambda batch: seen.append(batch))
    settle(loop)
    handle = bus.on("batch_loaded", priority=1)(appending("changed"))
    assert not is_compiled(loop)
    assert load(loop, "data") == "data changed"
    bus.detach(handle)
    assert load(loop, "data") == "data"
    assert seen[1:] == ["data changed", "data"]


def test_an_answer_is_pending_and_keeps_the_value(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded", when=is_even)(lambda: [SkipBatch("corrupt"), Stop("corrupt")])
    settle(loop)
    assert load(loop, "data", step=2) == "data"
    assert (loop.answers.skip is not None, loop.answers.stop is not None) == (True, True)


def test_what_was_pending_for_the_batch_before_is_dropped(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded", when=is_even)(lambda: SkipBatch("corrupt"))
    settle(loop)
    load(loop, "data", step=2)
    assert loop.answers.skip is not None
    load(loop, "data", step=3)
    assert loop.answers.skip is None


def test_an_answer_from_elsewhere_is_heard(bus: EventBus, loop: Emitter) -> None:
    seen: list[Any] = []
    bus.on("batch_loaded")(lambda batch: seen.append(batch))
    settle(loop)
    bus.answer(Stop("enough"))
    assert load(loop, "data") == "data"
    assert loop.answers.stop is not None
    assert seen[-1] == "data"


def test_the_value_is_not_given_twice(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: None)
    settle(loop)
    with pytest.raises(MISTAKE) as caught:
        loop.transform("batch_loaded", 1, batch=2, epoch=1, step=1, batch_index=1)
    assert_says(caught.value, "batch")


@pytest.mark.parametrize("fields", [{}, {"batch_index": 1}, {"run_id": "another"}])
def test_other_fields_than_at_first_are_carried_too(
    bus: EventBus, loop: Emitter, fields: dict[str, Any]
) -> None:
    seen: list[Any] = []
    bus.on("batch_loaded")(lambda batch, batch_index=0: seen.append((batch, batch_index)))
    settle(loop)
    assert loop.transform("batch_loaded", "data", epoch=1, step=1, **fields) == "data"
    assert seen[-1] == ("data", fields.get("batch_index", 0))


def test_a_misspelt_field_is_an_error_with_a_suggestion(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: None)
    settle(loop)
    with pytest.raises(MISTAKE) as caught:
        loop.transform("batch_loaded", "data", epohc=1, step=1, batch_index=1)
    assert_says(caught.value, "epohc", "epoch")


def test_a_failure_is_blamed_on_who_failed(bus: EventBus, loop: Emitter) -> None:
    def broken(batch: Any) -> None:
        if batch == "bad":
            raise ValueError("broken")

    bus.on("batch_loaded", priority=1)(lambda batch: None)
    bus.on("batch_loaded")(broken)
    settle(loop)
    with pytest.raises(ValueError, match="broken") as caught:
        load(loop, "bad", step=7)
    (note,) = caught.value.__notes__
    assert all(word in note for word in ("broken", "batch_loaded", "step 7"))


def test_an_emission_inside_a_handler_carries_the_step(bus: EventBus, loop: Emitter) -> None:
    seen: list[int] = []
    bus.on("backward_finished")(lambda step: seen.append(step))

    @bus.on("batch_loaded")
    def emit_more(bus: EventBus) -> None:
        bus.emit("backward_finished", loss=0.5)

    settle(loop)
    load(loop, "data", step=5)
    assert seen[-1] == 5


def test_a_transform_inside_a_handler_of_a_transform_is_its_own(
    bus: EventBus, loop: Emitter
) -> None:
    made: list[Any] = []

    @bus.on("batch_loaded")
    def halve(batch: Any) -> Any:
        if len(batch) > 1:
            made.append(load(loop, batch[:1]))
        return None if len(batch) > 1 else [*batch, "inner"]

    load(loop, [1])
    assert is_compiled(loop)
    assert load(loop, [1, 2]) == [1, 2]
    assert made == [[1, "inner"]]


def test_emit_of_a_settled_transform_is_still_an_error(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: None)
    settle(loop)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_loaded", batch=1, epoch=1, step=1, batch_index=1)
    assert_says(caught.value, "transform", "batch_loaded")


def test_a_transform_kept_from_before_works(bus: EventBus, loop: Emitter) -> None:
    transform = loop.signal("batch_loaded").transform
    bus.on("batch_loaded")(appending("changed"))
    for _ in range(3):
        assert transform("data", epoch=1, step=1, batch_index=1) == "data changed"


def test_who_subscribes_while_nobody_is_found_to_listen_is_called(
    bus: EventBus, loop: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_context = EventSignal.has_context

    def subscribe_meanwhile(signal: EventSignal[...], fields: dict[str, Any]) -> bool:
        if not signal.receivers:  # as another thread may, at just that moment
            bus.on("batch_loaded")(appending("altered"))
        return has_context(signal, fields)

    monkeypatch.setattr(EventSignal, "has_context", subscribe_meanwhile)
    load(loop, "first")
    assert [load(loop, "data") for _ in range(4)] == ["data altered"] * 4


def test_who_subscribes_after_a_run_was_closed_is_called_by_a_port_of_it(
    bus: EventBus, loop: Emitter
) -> None:
    port: Any = loop.signal("batch_loaded")
    loop.emit("run_opened")
    loop.emit("run_closed", outcome="completed")
    for _ in range(3):
        port.transform("data", epoch=1, step=1, batch_index=1)
    del port
    gc.collect()
    bus.on("batch_loaded")(appending("altered"))
    assert load(loop, "data") == "data altered"
