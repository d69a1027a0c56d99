"""Transforms: the one way in which handlers change what others see."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import Emitter, EventBus, SkipBatch, Stop

from .recorders import MISTAKE, assert_says


def load(loop: Emitter, batch: Any) -> Any:
    return loop.transform("batch_loaded", batch, epoch=1, step=1, batch_index=1)


def test_without_handlers_the_value_comes_back_itself(loop: Emitter) -> None:
    batch = object()
    assert load(loop, batch) is batch


def test_a_returned_value_replaces_it_for_later_handlers_and_the_loop(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("batch_loaded", priority=2)(lambda batch: [*batch, "first"])
    bus.on("batch_loaded", priority=1)(lambda batch: [*batch, "second"])
    assert load(loop, []) == ["first", "second"]


def test_none_keeps_the_value(bus: EventBus, loop: Emitter) -> None:
    seen: list[object] = []
    bus.on("batch_loaded")(lambda batch: seen.append(batch))
    assert load(loop, "data") == "data"
    assert seen == ["data"]


@pytest.mark.parametrize("value", [0, "", [], {}, (), [1, 2], "text"])
def test_any_value_but_none_and_answers_replaces(bus: EventBus, loop: Emitter, value: Any) -> None:
    bus.on("batch_loaded")(lambda batch: value)
    assert load(loop, "data") == value


@pytest.mark.parametrize("value", [True, False, SkipBatch])
def test_what_is_a_mistake_elsewhere_is_no_batch_either(
    bus: EventBus, loop: Emitter, value: Any
) -> None:
    bus.on("batch_loaded")(lambda batch: value)
    with pytest.raises(MISTAKE):
        load(loop, "data")


def test_an_answer_is_an_answer_and_keeps_the_value(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: SkipBatch("corrupt"))
    assert load(loop, "data") == "data"
    assert loop.answers.skip is not None


def test_a_list_of_answers_is_answers(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: [SkipBatch("corrupt"), Stop("corrupt")])
    assert load(loop, "data") == "data"
    assert (loop.answers.skip is not None, loop.answers.stop is not None) == (True, True)


def test_a_handler_that_is_not_due_changes_nothing(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded", when=lambda step: step > 1)(lambda batch: "changed")
    assert load(loop, "data") == "data"


def test_a_handler_need_not_name_the_value_to_replace_it(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda: "changed")
    assert load(loop, "data") == "changed"


def test_the_event_shows_the_value_as_it_is_by_then(bus: EventBus, loop: Emitter) -> None:
    seen: list[object] = []
    bus.on("batch_loaded", priority=2)(lambda: "changed")
    bus.on("batch_loaded", priority=1)(lambda event: seen.append(event.fields["batch"]))
    bus.on("batch_loaded")(lambda **fields: seen.append(fields["batch"]))
    load(loop, "data")
    assert seen == ["changed", "changed"]


def test_an_isolated_handler_never_replaces(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded", on_error="isolate")(lambda batch: "changed")
    assert load(loop, "data") == "data"


def test_a_plain_blinker_receiver_never_replaces(bus: EventBus, loop: Emitter) -> None:
    seen: list[object] = []

    def plain(sender: object, **fields: object) -> str:
        seen.append(fields["batch"])
        return "changed"

    bus.signal("batch_loaded").connect(plain)
    bus.on("batch_loaded", priority=1)(lambda batch: batch + "!")
    assert load(loop, "data") == "data!"
    assert seen == ["data!"]


def test_emit_of_a_transform_is_an_error_that_names_transform(loop: Emitter) -> None:
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_loaded", batch=1, epoch=1, step=1)
    assert_says(caught.value, "transform", "batch_loaded")


def test_transform_of_a_signal_without_a_value_is_an_error(loop: Emitter) -> None:
    with pytest.raises(MISTAKE) as caught:
        loop.transform("batch_finished", 3, epoch=1, step=1)
    assert_says(caught.value, "batch_finished")


def test_the_value_is_not_given_twice(loop: Emitter) -> None:
    with pytest.raises(MISTAKE) as caught:
        loop.transform("batch_loaded", 1, batch=2, epoch=1, step=1)
    assert_says(caught.value, "batch")


def test_transform_checks_fields_like_emit(loop: Emitter) -> None:
    with pytest.raises(MISTAKE) as caught:
        loop.transform("batch_loaded", 1, epohc=1)
    assert_says(caught.value, "epohc", "epoch")


def test_a_failing_transform_reaches_the_loop(bus: EventBus, loop: Emitter) -> None:
    def broken(batch: object) -> None:
        raise ValueError("broken")

    bus.on("batch_loaded")(broken)
    with pytest.raises(ValueError, match="broken"):
        load(loop, "data")


def test_an_isolated_handler_that_fails_leaves_the_value(bus: EventBus, loop: Emitter) -> None:
    def broken(batch: object) -> None:
        raise ValueError("broken")

    bus.on("batch_loaded", priority=1)(lambda batch: batch + 1)
    bus.on("batch_loaded", on_error="isolate")(broken)
    assert load(loop, 1) == 2


def test_the_loader_is_a_transform_too(bus: EventBus, loop: Emitter) -> None:
    bus.on("loader_opened")(lambda loader, epoch: loader[epoch:])
    assert loop.transform("loader_opened", [1, 2, 3], epoch=1) == [2, 3]


def test_a_coroutine_is_never_a_value(bus: EventBus, loop: Emitter) -> None:
    async def later() -> None: ...

    bus.on("batch_loaded")(lambda: later())
    with pytest.raises(MISTAKE) as caught:
        load(loop, "data")
    assert_says(caught.value, "coroutine")
