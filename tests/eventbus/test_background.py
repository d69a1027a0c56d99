"""Background handlers: another thread, the same order, the same fields, answers that come later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus import (
    AttachError,
    Background,
    Emitter,
    EventBus,
    FieldError,
    HandlerError,
    every,
    handles,
)

from .backends import noting
from .recorders import assert_says, finish


def close(loop: Emitter) -> None:
    loop.emit("run_closed", outcome="completed")


@pytest.mark.parametrize("background", [True, Background(size=64)])
def test_a_background_handler_runs_on_a_thread_of_its_own(
    bus: EventBus, loop: Emitter, background: Any
) -> None:
    threads: list[threading.Thread] = []
    bus.on("batch_finished", background=background)(
        lambda step: threads.append(threading.current_thread())
    )
    finish(loop)
    finish(loop, 2)
    close(loop)
    assert len(threads) == 2
    assert threads[0] is threads[1] is not threading.current_thread()


def test_emissions_are_handled_in_order(bus: EventBus, loop: Emitter) -> None:
    steps: list[int] = []
    bus.on("batch_finished", background=True)(noting(steps))
    for step in range(1, 501):
        finish(loop, step)
    close(loop)
    assert steps == list(range(1, 501))


def test_a_mark_an_override_and_once_take_background_too(bus: EventBus, loop: Emitter) -> None:
    threads: dict[str, list[Any]] = {"mark": [], "override": [], "once": [], "off": []}

    def on_thread(name: str) -> Callable[[], None]:
        return lambda: threads[name].append(threading.current_thread())

    mark = handles("batch_finished", background=True)
    bus.attach(mark(on_thread("mark")))
    bus.attach(handles("batch_finished")(on_thread("override")), background=True)
    bus.once("batch_finished", background=True)(on_thread("once"))
    bus.attach(mark(on_thread("off")), background=False)
    finish(loop)
    finish(loop, 2)
    close(loop)
    assert {name: len(found) for name, found in threads.items()} == {
        "mark": 2,
        "override": 2,
        "once": 1,
        "off": 2,
    }
    elsewhere = {name for name, found in threads.items() if found[0] != threading.current_thread()}
    assert elsewhere == {"mark", "override", "once"}


class Tracker:
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.threads: set[threading.Thread] = set()

    @handles("batch_finished")
    def log(self, step: int) -> None:
        self._note("log", step)

    @handles("epoch_finished")
    def sum_up(self, epoch: int) -> None:
        self._note("sum_up", epoch)

    @handles("run_closed")
    def close(self, outcome: str) -> None:
        self._note("close", outcome)

    def _note(self, what: str, value: Any) -> None:
        self.told.append((what, value))
        self.threads.add(threading.current_thread())


def test_the_methods_of_an_object_share_one_thread_and_one_order(
    bus: EventBus, loop: Emitter
) -> None:
    tracker = Tracker()
    bus.attach(tracker, background=True)
    for epoch in (1, 2):
        finish(loop, epoch)
        loop.emit("epoch_finished", epoch=epoch, step=epoch)
    close(loop)
    assert tracker.told == [
        ("log", 1),
        ("sum_up", 1),
        ("log", 2),
        ("sum_up", 2),
        ("close", "completed"),
    ]
    assert len(tracker.threads) == 1


def test_an_object_whose_methods_want_different_queues_is_refused(bus: EventBus) -> None:
    class Torn:
        @handles("batch_finished", background=Background(size=1))
        def one(self) -> None: ...

        @handles("epoch_finished", background=Background(size=2))
        def two(self) -> None: ...

    with pytest.raises(AttachError) as caught:
        bus.attach(Torn())
    assert_says(caught.value, "Torn", "size=1", "size=2")
    assert bus.subscriptions == ()
    assert bus.registry.workers == ()


@pytest.mark.parametrize("held", ["model", "models", "optimizer", "optimizers", "scheduler"])
def test_what_the_loop_goes_on_changing_cannot_be_named(bus: EventBus, held: str) -> None:
    handler = eval(f"lambda epoch, {held}=None: None")
    with pytest.raises(HandlerError) as caught:
        bus.on("epoch_finished", background=True, name="save")(handler)
    assert_says(caught.value, "'save'", "background", repr(held))
    assert bus.subscriptions == ()


def test_the_filter_of_a_background_handler_is_asked_on_the_loops_thread(
    bus: EventBus, loop: Emitter
) -> None:
    asked: list[threading.Thread] = []
    steps: list[int] = []

    def odd(step: int, model: Any = None) -> bool:  # the loop's thread may look at the model
        asked.append(threading.current_thread())
        return step % 2 == 1

    bus.on("batch_finished", when=odd, background=True)(noting(steps))
    for step in range(1, 31):
        finish(loop, step)
    close(loop)
    assert steps == list(range(1, 31, 2))
    assert set(asked) == {threading.current_thread()}


def test_a_count_filter_holds_for_a_background_handler(bus: EventBus, loop: Emitter) -> None:
    steps: list[int] = []
    bus.on("batch_finished", when=every(10), background=True)(noting(steps))
    for step in range(1, 101):
        finish(loop, step)
    close(loop)
    assert steps == list(range(10, 101, 10))


def test_a_field_that_was_not_sent_fails_in_the_loop(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True, name="log")(lambda loss: None)
    with pytest.raises(FieldError) as caught:
        finish(loop)
    assert_says(caught.value, "'log'", "'loss'", "did not send")


def test_rest_fields_come_without_context(bus: EventBus) -> None:
    told: list[Any] = []
    bus.on("batch_finished", background=True)(lambda **fields: told.append(fields))
    loop = bus.bind(sender="train", model="the model")
    finish(loop)
    close(loop)
    assert told == [{"epoch": 1, "step": 1}]


def test_an_event_comes_detached_and_without_the_model(bus: EventBus) -> None:
    told: list[Any] = []
    bus.on("batch_finished", background=True)(lambda event: told.append(event))
    context: dict[str, Any] = {"model": object(), "optimizer": object(), "config": {"lr": 0.1}}
    loop = bus.bind(sender="train", run="digits", **context)
    batch = [1, 2]
    loop.emit("batch_finished", epoch=1, step=3, batch=batch)
    batch.append(3)
    close(loop)
    (event,) = told
    assert (event.name, event.sender, event.bus) == ("batch_finished", "train", bus)
    assert event.fields == {"epoch": 1, "step": 3, "batch": [1, 2]}
    assert {*event.context} == {"run_id", "run", "config"}
    with pytest.raises(TypeError):
        event.fields["epoch"] = 2


def test_context_that_stays_as_it_is_may_be_named(bus: EventBus) -> None:
    told: list[Any] = []
    handler = lambda run, config, sender, bus: told.append((run, config, sender, bus))  # noqa: E731
    bus.on("batch_finished", background=True)(handler)
    loop = bus.bind(sender="train", run="digits", config={"lr": 0.1})
    finish(loop)
    close(loop)
    assert told == [("digits", {"lr": 0.1}, "train", bus)]


# -- seeing it


def test_describe_shows_background(bus: EventBus) -> None:
    bus.on("epoch_finished", when=every(2), background=True, on_error="isolate", name="log")(
        lambda epoch: None
    )
    assert bus.describe() == "epoch_finished\n     0  log  every(2), isolated, background"


def test_a_profile_counts_what_was_handed_over(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True, name="log")(lambda step: None)
    with bus.profile() as profile:
        finish(loop)
        finish(loop, 2)
    assert [(row.handler, row.calls) for row in profile.rows] == [("log", 2)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 1.5},
        {"size": True},
        {"overflow": "drop"},
        {"timeout_s": -1.0},
        {"timeout_s": None},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        Background(**wrong)
    assert_says(caught.value, *wrong, "got")


def test_background_takes_options_and_nothing_else(bus: EventBus) -> None:
    with pytest.raises(TypeError) as caught:
        bus.on("batch_finished", background="thread")  # type: ignore[arg-type]
    assert_says(caught.value, "Background(...)", "'thread'")


def test_a_generator_is_refused_as_it_makes_no_value_in_the_background(bus: EventBus) -> None:
    def every_other(loader: Any) -> Any:
        yield from loader

    with pytest.raises(HandlerError) as caught:
        bus.on("loader_opened", background=True)(every_other)
    assert_says(caught.value, "every_other", "yields", "never run")
