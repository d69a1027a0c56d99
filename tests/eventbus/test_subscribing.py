"""Subscribing: what `bus.on`, `bus.once` and `bus.detach` promise."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, partialmethod
from typing import Any

import pytest

from eventbus import AttachError, Emitter, Event, EventBus, every, handles

from .recorders import MISTAKE, Counter, Recorder, StepCollector, assert_says, run_epochs


def test_on_returns_the_function_unchanged(bus: EventBus) -> None:
    def handler(epoch: int) -> None: ...

    assert bus.on("epoch_finished")(handler) is handler


def test_on_takes_several_names(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []

    @bus.on("epoch_started", "epoch_finished")
    def note(event: Any) -> None:
        seen.append(event.name)

    loop.emit("epoch_started", epoch=1, step=0)
    loop.emit("epoch_finished", epoch=1, step=9)
    assert seen == ["epoch_started", "epoch_finished"]


def test_on_without_a_name_is_an_error(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on()(lambda: None)
    assert_says(caught.value, "signal")


def test_on_used_without_parentheses_is_an_error(bus: EventBus) -> None:
    def handler() -> None: ...

    with pytest.raises(MISTAKE):
        bus.on(handler)  # type: ignore[arg-type]  # the mistake under test


def test_a_pattern_reaches_each_signal_that_it_matches(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []
    bus.on("validation_*")(lambda event: seen.append(event.name))
    loop.emit("validation_started", name="val", round=1, epoch=1, step=1)
    loop.emit("epoch_finished", epoch=1, step=1)
    loop.emit("validation_done", name="val", round=1, epoch=1, step=1)
    assert seen == ["validation_started", "validation_done"]


def test_a_pattern_covers_signals_that_appear_later(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []
    bus.on("my_*")(lambda event: seen.append(event.name))
    loop.emit("my_undeclared_thing")
    assert seen == ["my_undeclared_thing"]


def test_a_star_does_not_cover_failures_and_state(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []
    bus.on("*")(lambda event: seen.append(event.name))
    loop.emit("state_requested")
    loop.emit("handler_failed", handler="h", signal="s", exception=ValueError())
    loop.emit("run_finished", reason="completed")
    assert seen == ["run_finished"]


def test_failures_can_be_subscribed_to_by_name(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []
    bus.on("handler_failed")(lambda handler: seen.append(handler))
    loop.emit("handler_failed", handler="h", signal="s", exception=ValueError())
    assert seen == ["h"]


def test_once_is_called_once(bus: EventBus, loop: Emitter) -> None:
    steps = StepCollector()
    bus.once("batch_finished")(steps)
    for step in (1, 2, 3):
        loop.emit("batch_finished", epoch=1, step=step)
    assert steps.steps == [1]


def test_once_waits_until_its_filter_is_due(bus: EventBus, loop: Emitter) -> None:
    steps = StepCollector()
    bus.once("batch_finished", when=every(3))(steps)
    for step in range(1, 8):
        loop.emit("batch_finished", epoch=1, step=step)
    assert steps.steps == [3]


def test_once_is_called_once_though_it_emits_its_own_signal(bus: EventBus, loop: Emitter) -> None:
    steps: list[int] = []

    @bus.once("batch_finished")
    def again(bus: EventBus, step: int) -> None:
        steps.append(step)
        bus.emit("batch_finished", epoch=1, step=step + 1)

    loop.emit("batch_finished", epoch=1, step=1)
    assert steps == [1]


def test_once_is_called_once_though_an_inner_emission_comes_before_it(
    bus: EventBus, loop: Emitter
) -> None:
    steps = StepCollector()

    @bus.on("batch_finished", priority=1)
    def emit_first(bus: EventBus, step: int) -> None:
        if step == 1:
            bus.emit("batch_finished", epoch=1, step=50)

    bus.once("batch_finished")(steps)
    loop.emit("batch_finished", epoch=1, step=1)
    assert steps.steps == [50]


def test_once_is_used_up_by_a_call_that_raises(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.once("run_started")(recorder.failing("broken", ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        loop.emit("run_started")
    loop.emit("run_started")
    assert recorder.calls == ["broken"]


def test_detach_ends_every_subscription_of_a_function(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    handler = recorder.handler("h")
    bus.on("run_started")(handler)
    bus.on("run_finished", when=lambda reason: reason == "completed")(handler)
    bus.detach(handler)
    loop.emit("run_started")
    loop.emit("run_finished", reason="completed")
    assert recorder.calls == []


def test_detach_of_one_bound_method_leaves_its_sibling(bus: EventBus, loop: Emitter) -> None:
    class Pair:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def left(self) -> None:
            self.calls.append("left")

        def right(self) -> None:
            self.calls.append("right")

    pair = Pair()
    bus.on("run_started")(pair.left)
    bus.on("run_started")(pair.right)
    bus.detach(pair.left)
    loop.emit("run_started")
    assert pair.calls == ["right"]


def test_detach_of_an_object_ends_its_bound_methods(bus: EventBus, loop: Emitter) -> None:
    counter, other = Counter(), Counter()
    bus.attach(counter)
    bus.on("epoch_started")(counter.end)
    bus.on("epoch_started")(partial(counter.end))
    bus.on("epoch_started")(other.end)
    bus.detach(counter)
    run_epochs(loop, 1)
    assert (counter.calls, other.calls) == ([], ["end 1"])


def test_detach_of_an_object_ends_a_method_that_was_attached_alone(
    bus: EventBus, loop: Emitter
) -> None:
    counter = Counter()
    bus.attach(counter.begin)
    bus.detach(counter)
    run_epochs(loop, 1)
    assert counter.calls == []
    bus.attach(counter.begin)  # it may come back


def test_detach_of_a_function_leaves_what_was_made_of_it(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []

    def log(tag: str = "plain") -> None:
        seen.append(tag)

    bus.on("epoch_started")(partial(log, tag="other"))
    bus.on("epoch_started")(log)
    bus.detach(log)
    loop.emit("epoch_started", epoch=1, step=0)
    assert seen == ["other"]


def test_what_a_partial_was_given_no_field_goes_before(bus: EventBus, loop: Emitter) -> None:
    saved: list[Any] = []

    class Saver:
        def save(self, model: object, step: int, loss: object = None) -> None:
            saved.append((model, step, loss))

        save_average = partialmethod(save, model="the average")

    bus.on("batch_finished")(partial(Saver().save, model="the average"))
    bus.on("batch_finished")(partial(partial(Saver().save, loss=None), model="the average"))
    bus.on("batch_finished")(Saver().save_average)
    bus.bind(sender="train", model="raw").emit("batch_finished", epoch=1, step=7, loss=0.5)
    assert saved == [
        ("the average", 7, 0.5),
        ("the average", 7, None),
        ("the average", 7, 0.5),
    ]


def test_detach_of_a_partial_ends_it_where_it_was_marked(bus: EventBus) -> None:
    part = partial(lambda tag: None, "an epoch began")
    bus.attach(handles("epoch_started")(part))
    bus.detach(part)
    assert bus.subscriptions == ()


def test_detach_of_nothing_ends_nothing(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    bus.on("epoch_started")(counter.begin)
    with pytest.raises(AttachError, match="None is not attached"):
        bus.detach(None)
    run_epochs(loop, 1)
    assert counter.calls == ["begin 1"]


def test_detach_of_one_handler_leaves_another_that_is_equal(bus: EventBus, loop: Emitter) -> None:
    @dataclass
    class Equal:
        calls: list[str] = field(default_factory=list)

        def __call__(self, event: Any) -> None:
            self.calls.append(event.name)

    one, other = Equal(), Equal()
    bus.on("run_started")(one)
    bus.on("run_started")(other)
    bus.detach(one)
    loop.emit("run_started")
    assert (one.calls, other.calls) == ([], ["run_started"])


def test_detach_of_something_never_subscribed_is_an_error(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.detach(lambda: None)
    assert_says(caught.value, "lambda")


class Slotted:
    __slots__ = ("steps",)

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def __call__(self, step: int) -> None:
        self.steps.append(step)

    def method(self, step: int) -> None:
        self.steps.append(step)


def _append(steps: list[int], step: int) -> None:
    steps.append(step)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda steps: lambda step: steps.append(step), id="lambda"),
        pytest.param(lambda steps: partial(_append, steps), id="partial"),
        pytest.param(Slotted, id="slotted callable"),
        pytest.param(lambda steps: Slotted(steps).method, id="method of a temporary"),
    ],
)
def test_handlers_are_held_until_detached(bus: EventBus, loop: Emitter, make: Any) -> None:
    steps: list[int] = []
    bus.on("batch_finished")(make(steps))
    gc.collect()
    loop.emit("batch_finished", epoch=1, step=7)
    assert steps == [7]


def test_a_handler_that_is_not_callable_is_an_error(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on("run_started")(3)  # type: ignore[type-var]  # the mistake under test
    assert_says(caught.value, "3")


async def asynchronous() -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [asynchronous, AsyncCallable(), partial(asynchronous)],
    ids=["def", "call", "partial"],
)
def test_an_async_handler_is_refused_when_it_subscribes(bus: EventBus, handler: Any) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on("run_started")(handler)
    assert_says(caught.value, "async")


@pytest.mark.parametrize(
    ("keywords", "word"),
    [
        ({"priority": "high"}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"on_error": "ignore"}, "on_error"),
        ({"when": 3}, "filter"),
        ({"when": "every(3)"}, "filter"),
        ({"sender": ""}, "sender"),
        ({"sender": 0}, "sender"),
        ({"sender": True}, "sender"),
        ({"sender": object()}, "sender"),
    ],
)
def test_a_bad_option_is_refused_when_it_subscribes(
    bus: EventBus, loop: Emitter, keywords: Any, word: str
) -> None:
    recorder = Recorder()
    with pytest.raises(MISTAKE) as caught:
        bus.on("run_started", **keywords)(recorder.handler("h"))
    assert_says(caught.value, word)
    loop.emit("run_started")
    assert recorder.calls == []


def test_a_refused_subscription_leaves_nothing_behind(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    with pytest.raises(MISTAKE):
        bus.on("epoch_finished", "epoch_finishd")(recorder.handler("h"))
    loop.emit("epoch_finished", epoch=1, step=1)
    assert recorder.calls == []


def test_a_bus_is_made_and_passed_never_found() -> None:
    import eventbus

    assert not [name for name in vars(eventbus) if isinstance(getattr(eventbus, name), EventBus)]


def test_two_buses_know_nothing_of_each_other(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    EventBus().on("run_started")(recorder.handler("elsewhere"))
    bus.on("run_started")(recorder.handler("here"))
    loop.emit("run_started")
    assert recorder.calls == ["here"]


def test_a_method_is_shown_with_its_class_and_its_own_name(bus: EventBus) -> None:
    class Report:
        def show(self, epoch: int) -> None: ...

    bus.on("epoch_finished")(Report().show)
    bus.on("epoch_finished", name="mine")(Report().show)
    assert [s.label for s in bus.subscriptions] == ["Report.show", "mine"]
    assert [s.name for s in bus.subscriptions] == ["Report", "mine"]


@pytest.mark.parametrize("name", ["", 3])
def test_the_name_of_a_subscription_is_a_non_empty_string(bus: EventBus, name: Any) -> None:
    for subscribe in (bus.on, bus.once):
        with pytest.raises(TypeError, match="name= is a non-empty string"):
            subscribe("epoch_finished", name=name)
    with pytest.raises(TypeError, match="name= is a non-empty string"):
        bus.attach(lambda: None, name=name)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda bus: bus.on("run_started", nme="x"), "bus.on takes no 'nme'; did you mean 'name'?"),
        (
            lambda bus: bus.once("run_started", wen=1),
            "bus.once takes no 'wen'; did you mean 'when'?",
        ),
        (
            lambda bus: bus.attach(bus, every=5),
            "bus.attach takes no 'every' (it takes: thing, when",
        ),
        (lambda bus: bus.attach(), "bus.attach needs 'thing': bus.attach(thing=...)"),
        (
            lambda bus: bus.attach(print, "log"),
            "bus.attach takes thing by position; the others by name: when=, priority=, sender=",
        ),
        (lambda bus: bus.detach(print, print), "bus.detach takes thing by position"),
        (lambda bus: bus.detach(), "bus.detach needs 'thing': bus.detach(thing=...)"),
    ],
)
def test_a_wrong_argument_is_told_in_the_words_of_the_call(
    bus: Any, call: Callable[[Any], object], told: str
) -> None:
    with pytest.raises(TypeError) as caught:
        call(bus)
    assert str(caught.value).startswith(told)


def test_an_event_cannot_be_changed_by_who_is_given_it(bus: EventBus, loop: Emitter) -> None:
    def change(event: Event) -> None:
        for name in ("name", "sender", "signal", "emitter", "outer", "bus", "fields", "context"):
            with pytest.raises(AttributeError):
                setattr(event, name, None)

    bus.on("epoch_started")(change)
    loop.emit("epoch_started", epoch=1, step=0)
