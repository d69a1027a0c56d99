"""Attaching: marks are found on objects, modules and functions, all or none."""

from __future__ import annotations

import types
from io import StringIO
from typing import Any

import pytest

from eventbus import (
    AttachError,
    Background,
    Emitter,
    Event,
    EventBus,
    FieldError,
    RestoredState,
    Stop,
    every,
    handles,
    on_rank,
)

from .recorders import MISTAKE, Counter, Recorder, assert_says, run_epochs


def test_a_mark_alone_subscribes_nothing(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    run_epochs(loop)
    assert counter.calls == []


def test_a_marked_function_stays_a_function() -> None:
    def twice(epoch: int) -> int:
        return 2 * epoch

    assert handles("epoch_started")(twice) is twice
    assert twice(3) == 6


def test_attach_subscribes_each_marked_method(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    bus.attach(counter)
    run_epochs(loop)
    assert counter.calls == ["begin 1", "begin 2", "end 2"]


def test_detaching_the_handle_ends_all(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    handle = bus.attach(counter)
    handle.detach()
    handle.detach()
    run_epochs(loop)
    assert counter.calls == []


def test_detaching_the_thing_ends_all(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    bus.attach(counter)
    bus.detach(counter)
    run_epochs(loop)
    assert counter.calls == []


def test_a_handle_is_a_with_block(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    with bus.attach(counter):
        run_epochs(loop, 1)
    run_epochs(loop)
    assert counter.calls == ["begin 1"]


def test_a_with_block_detaches_when_it_fails_and_keeps_the_error(bus: EventBus) -> None:
    with pytest.raises(ValueError, match="mine"), bus.attach(Counter()):
        raise ValueError("mine")
    assert not bus.signal("epoch_started").receivers


@pytest.mark.parametrize("background", [True, Background(size=1)])
def test_a_mark_for_the_loops_thread_is_refused_in_the_background(
    bus: EventBus, background: Any
) -> None:
    class Saves:
        @handles("epoch_finished", background=False)
        def save(self) -> None: ...

    thing = Saves()
    with pytest.raises(AttachError, match=r"Saves\.save works on the loop's thread alone"):
        bus.attach(thing, background=background)
    bus.attach(thing, background=False)


class Lends:
    def __init__(self) -> None:
        self.told: list[EventBus] = []

    @handles("epoch_started")
    def begin(self) -> None: ...

    def on_detach(self, bus: EventBus) -> None:
        self.told.append(bus)


def test_a_thing_is_told_once_when_it_is_detached_however_that_is_done(bus: EventBus) -> None:
    thing = Lends()
    attachment = bus.attach(thing)
    assert thing.told == []
    attachment.detach()
    attachment.detach()
    assert thing.told == [bus]
    bus.attach(thing)
    bus.detach(thing)
    with bus.attach(thing):
        pass
    assert thing.told == [bus] * 3


class Asks:
    """Looks at the bus as it is attached, once its part of a restored state is there."""

    def __init__(self) -> None:
        self.seen: list[tuple[EventBus, int, object]] = []
        self.state: object = None

    @handles("epoch_started")
    def begin(self) -> None: ...

    def on_attach(self, bus: EventBus) -> None:
        self.seen.append((bus, len(bus.open_runs), self.state))

    def state_dict(self) -> object:
        return self.state

    def load_state_dict(self, state: object) -> None:
        self.state = state


def test_a_thing_is_told_when_it_is_attached_with_its_state_in_place(bus: EventBus) -> None:
    loop, thing = bus.bind(sender="train"), Asks()
    loop.emit("run_opened")
    loop.emit("state_restored", state=RestoredState({"Asks": 3}))
    bus.attach(thing)
    assert thing.seen == [(bus, 1, 3)]


def test_what_fails_as_it_is_told_is_not_attached(bus: EventBus) -> None:
    class Fails(Asks):
        def on_attach(self, bus: EventBus) -> None:
            raise RuntimeError("no run here")

    with pytest.raises(RuntimeError, match="no run here"):
        bus.attach(Fails())
    assert not bus.signal("epoch_started").receivers
    assert not bus.registry.state_names()


def test_a_thing_that_could_not_be_attached_is_not_told(bus: EventBus) -> None:
    thing = Lends()
    with pytest.raises(FieldError, match="misspelt"):
        bus.attach(thing, when=lambda misspelt: True)
    assert thing.told == []


def test_what_fails_as_it_is_told_is_detached_all_the_same(bus: EventBus) -> None:
    class Fails(Lends):
        def on_detach(self, bus: EventBus) -> None:
            raise RuntimeError("no weights")

    attachment = bus.attach(Fails())
    with pytest.raises(RuntimeError, match="no weights"):
        attachment.detach()
    assert not bus.signal("epoch_started").receivers


def test_marks_may_be_stacked(bus: EventBus, loop: Emitter) -> None:
    class Both:
        def __init__(self) -> None:
            self.calls: list[str] = []

        @handles("epoch_started")
        @handles("epoch_finished", when=every(2))
        def note(self, event: Any) -> None:
            self.calls.append(f"{event.name} {event.fields['epoch']}")

    both = Both()
    bus.attach(both)
    run_epochs(loop)
    assert both.calls == ["epoch_started 1", "epoch_started 2", "epoch_finished 2"]


def test_a_mark_may_name_several_signals(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []

    @handles("epoch_started", "epoch_finished")
    def note(event: Any) -> None:
        seen.append(event.name)

    bus.attach(note)
    run_epochs(loop, 1)
    assert seen == ["epoch_started", "epoch_finished"]


def test_keywords_override_the_marks(bus: EventBus) -> None:
    counter = Counter()
    bus.attach(counter, when=every(3), sender="train", priority=5)
    run_epochs(bus.bind(sender="other"), 6)
    run_epochs(bus.bind(sender="train"), 6)
    assert counter.calls == ["begin 3", "end 3", "begin 6", "end 6"]


def test_priority_zero_overrides_too(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    counter = Counter()
    bus.on("epoch_finished")(recorder.handler("normal"))
    bus.attach(counter, priority=0, when=every(1))
    bus.on("epoch_finished", priority=-1)(lambda: recorder.calls.extend(counter.calls))
    loop.emit("epoch_finished", epoch=1, step=1)
    assert recorder.calls == ["normal", "end 1"]


def test_priority_of_the_marks_that_open_and_close_a_handler_stays(
    bus: EventBus, loop: Emitter
) -> None:
    recorder = Recorder()

    class Log:
        @handles("run_opened", priority=9)
        def open(self) -> None:
            recorder.calls.append("open")

        @handles("epoch_finished", priority=9)
        def write(self) -> None:
            recorder.calls.append("write")

    bus.on("run_opened", "epoch_finished")(recorder.handler("normal"))
    bus.attach(Log(), priority=-1)
    loop.emit("run_opened")
    loop.emit("epoch_finished", epoch=1, step=1)
    assert recorder.calls == ["open", "normal", "normal", "write"]


def test_priority_of_what_has_no_other_marks_is_overridden(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()

    @handles("run_finished", priority=9)
    def report() -> None:
        recorder.calls.append("report")

    bus.on("run_finished")(recorder.handler("normal"))
    bus.attach(report, priority=-1)
    loop.emit("run_finished", reason="completed")
    assert recorder.calls == ["normal", "report"]


def test_on_error_overrides_too(bus: EventBus, loop: Emitter) -> None:
    class Logger:
        @handles("run_started", on_error="isolate")
        def log(self) -> None:
            raise OSError("disk full")

    bus.attach(Logger(), name="loud", on_error="raise")
    with pytest.raises(OSError, match="disk full"):
        loop.emit("run_started")


def test_the_name_is_the_class_unless_given(bus: EventBus, loop: Emitter) -> None:
    class Patience:
        @handles("epoch_finished")
        def decide(self) -> Stop:
            return Stop("enough")

    bus.attach(Patience())
    bus.attach(Patience(), name="second")
    answers = loop.emit("epoch_finished", epoch=1, step=1)
    assert [answer.by for answer in answers] == ["Patience", "second"]


def test_attaching_the_same_thing_twice_is_an_error(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    bus.attach(counter)
    with pytest.raises(MISTAKE) as caught:
        bus.attach(counter)
    assert_says(caught.value, "Counter")
    run_epochs(loop, 1)
    assert counter.calls == ["begin 1"]


def test_a_thing_that_was_detached_may_come_back(bus: EventBus, loop: Emitter) -> None:
    counter = Counter()
    bus.attach(counter).detach()
    bus.attach(counter)
    run_epochs(loop, 1)
    assert counter.calls == ["begin 1"]


def test_two_of_a_class_may_be_attached(bus: EventBus, loop: Emitter) -> None:
    one, other = Counter(), Counter()
    bus.attach(one)
    bus.attach(other)
    run_epochs(loop, 1)
    assert one.calls == other.calls == ["begin 1"]


def test_things_that_are_equal_are_told_apart(bus: EventBus, loop: Emitter) -> None:
    class Equal(Counter):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]  # as of a dataclass

    one, other = Equal(), Equal()
    bus.attach(one)
    bus.attach(other)
    bus.detach(one)
    run_epochs(loop, 1)
    assert (one.calls, other.calls) == ([], ["begin 1"])


@pytest.mark.parametrize("thing", [object(), 3, len, types])
def test_a_thing_without_marks_is_an_error(bus: EventBus, thing: Any) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.attach(thing)
    assert_says(caught.value, "handles")


def test_attaching_a_class_is_an_error_that_says_to_make_one(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.attach(Counter)
    assert_says(caught.value, "Counter", "instance")


def test_a_failed_attach_leaves_nothing_behind(bus: EventBus, loop: Emitter) -> None:
    class HalfWrong(Counter):
        @handles("batch_finished")
        def wrong(self, lss: float) -> None: ...

    half = HalfWrong()
    with pytest.raises(MISTAKE) as caught:
        bus.attach(half)
    assert_says(caught.value, "HalfWrong", "wrong", "lss", "loss")
    run_epochs(loop)
    assert half.calls == []
    with pytest.raises(MISTAKE):
        bus.detach(half)


def test_a_wrong_mark_is_told_when_attached(bus: EventBus) -> None:
    class Wrong:
        @handles("epoch_finishd")
        def end(self) -> None: ...

    with pytest.raises(MISTAKE) as caught:
        bus.attach(Wrong())
    assert_says(caught.value, "epoch_finishd", "epoch_finished")


def test_handles_without_parentheses_is_an_error() -> None:
    with pytest.raises(MISTAKE) as caught:
        handles(lambda: None)  # type: ignore[arg-type]  # the mistake under test
    assert_says(caught.value, "handles")


def test_a_module_attaches_the_functions_defined_there(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []
    module = types.ModuleType("my_handlers")

    @handles("run_started")
    def mine() -> None:
        seen.append("mine")

    @handles("run_started")
    def imported() -> None:
        seen.append("imported")

    mine.__module__ = "my_handlers"
    module.__dict__.update(mine=mine, imported=imported, Counter=Counter, counter=Counter())
    bus.attach(module)
    loop.emit("run_started")
    run_epochs(loop)
    assert seen == ["mine"]
    bus.detach(module)
    loop.emit("run_started")
    assert seen == ["mine"]


def test_a_filter_given_at_attach_leaves_the_life_of_a_handler_alone(bus: EventBus) -> None:
    class Saver:
        def __init__(self) -> None:
            self.calls: list[str] = []

        @handles("run_opened", "run_closed")
        def live(self, event: Event) -> None:
            self.calls.append(event.name)

        @handles("epoch_finished")
        def save(self, epoch: int) -> None:
            self.calls.append(f"epoch {epoch}")

    saver = Saver()
    bus.attach(saver, when=every(2))
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    for epoch in (1, 2, 3):
        loop.emit("epoch_finished", epoch=epoch, step=epoch)
    loop.emit("run_closed", outcome="completed")
    assert saver.calls == ["run_opened", "epoch 2", "run_closed"]


class Reporter:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    @handles("epoch_finished")
    def report(self, epoch: int) -> None:
        self.epochs.append(epoch)

    @handles("epoch_started")
    def other(self) -> None:
        raise AssertionError("it was not attached")


def _never(epoch: int) -> bool:
    return False


@pytest.mark.parametrize(
    ("marked", "given", "told"),
    [
        (on_rank(0), every(2), "on_rank(0) & every(2)"),
        (every(5) & on_rank(0), every(2), "on_rank(0) & every(2)"),
        (on_rank(0) & on_rank(0, 1), _never, "on_rank(0) & on_rank(0, 1) & _never"),
        (every(5), every(2), "every(2)"),
        (every(5) | on_rank(0), every(2), "every(2)"),
        (_never, every(2), "every(2)"),
        (on_rank(0), every(2) & on_rank(1), "every(2) & on_rank(1)"),
        (on_rank(0), every(2) | on_rank(1), "on_rank(0) & (every(2) | on_rank(1))"),
    ],
)
def test_a_filter_given_at_attach_leaves_the_guard_on_ranks(
    bus: EventBus, marked: Any, given: Any, told: str
) -> None:
    @handles("epoch_finished", when=marked)
    def write(epoch: int) -> None: ...

    bus.attach(write, when=given)
    assert repr(bus.subscriptions[0].when) == told
    assert told in bus.describe()


def test_other_ranks_stay_silent_whatever_the_filter(
    bus: EventBus, loop: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    @handles("epoch_finished", when=on_rank(0))
    def write(epoch: int) -> None:
        written.append(epoch)

    bus.attach(write, when=every(2))
    monkeypatch.setenv("RANK", "1")
    run_epochs(loop, 4)
    assert written == []
    monkeypatch.setenv("RANK", "0")
    run_epochs(loop, 4)
    assert written == [2, 4]


def test_a_marked_method_is_attached_without_its_object(bus: EventBus) -> None:
    reporter = Reporter()
    handle = bus.attach(reporter.report)
    assert [each.label for each in bus.subscriptions] == ["Reporter.report"]
    with pytest.raises(MISTAKE, match="attached already"):
        bus.attach(reporter.report)
    run_epochs(bus.bind(sender="train"), 2)
    bus.detach(reporter.report)
    assert bus.registry.attachments == ()
    run_epochs(bus.bind(sender="train"), 1)
    handle.detach()
    assert reporter.epochs == [1, 2]


def test_a_method_without_a_mark_is_refused(bus: EventBus) -> None:
    with pytest.raises(MISTAKE, match="nothing to attach"):
        bus.attach(StringIO().write)


def test_a_name_given_to_attach_wins_over_that_of_a_mark(bus: EventBus, loop: Emitter) -> None:
    @handles("epoch_finished", name="marked")
    def stop() -> Stop:
        return Stop("enough")

    with bus.attach(stop):
        assert [by for by, _ in loop.emit("epoch_finished", epoch=1, step=1).given] == ["marked"]
    bus.attach(stop, name="mine")
    assert [by for by, _ in loop.emit("epoch_finished", epoch=2, step=2).given] == ["mine"]
    assert [one.label for one in bus.subscriptions] == ["mine"]


def test_methods_keep_their_marks_names_behind_one_given_to_attach(bus: EventBus) -> None:
    class Two:
        @handles("epoch_finished", name="first")
        def one(self) -> None: ...

        @handles("epoch_finished")
        def two(self) -> None: ...

    bus.attach(Two(), name="mine")
    assert [(one.name, one.label) for one in bus.subscriptions] == [
        ("mine", "mine.first"),
        ("mine", "mine.two"),
    ]


def test_a_function_of_an_attached_module_is_attached_already(bus: EventBus) -> None:
    module = types.ModuleType("handlers_of_mine")

    @handles("epoch_finished")
    def report() -> None: ...

    report.__module__ = module.__name__
    vars(module)["report"] = report
    bus.attach(module)
    with pytest.raises(AttachError, match="attached already, with 'handlers_of_mine'"):
        bus.attach(report)


def test_what_was_detached_method_by_method_may_be_attached_again(
    bus: EventBus, loop: Emitter
) -> None:
    counter = Counter()
    bus.attach(counter)
    for subscription in bus.subscriptions:
        bus.detach(subscription.handler)
    bus.attach(counter)
    run_epochs(loop, 1)
    assert len(counter.calls) > 0


def test_a_method_without_self_is_refused(bus: EventBus) -> None:
    class Forgetful:
        @handles("epoch_finished")
        def report(epoch) -> None:  # noqa: N805 - the slip that is refused
            ...

    with pytest.raises(AttachError) as caught:
        bus.attach(Forgetful())
    assert_says(caught.value, "Forgetful.report", "'epoch'", "def report(self, epoch, ...)")
    assert bus.subscriptions == ()


def test_a_function_that_is_bound_to_something_else_keeps_its_first_parameter(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[tuple[str, int]] = []

    @handles("epoch_finished")
    def log(model: str, epoch: int) -> None:
        seen.append((model, epoch))

    bus.attach(types.MethodType(log, "a model"))
    loop.emit("epoch_finished", epoch=1, step=1)
    assert seen == [("a model", 1)]


def test_a_hook_that_does_not_take_the_bus_is_told(bus: EventBus) -> None:
    class Plugin(Counter):
        def on_attach(self) -> None: ...

    with pytest.raises(AttachError, match=r"Plugin\.on_attach is called with the bus: write"):
        bus.attach(Plugin())
    assert bus.subscriptions == ()


def test_priority_is_heeded_on_a_signal_of_ones_own_that_begins_like_a_runs(
    bus: EventBus, loop: Emitter
) -> None:
    order: list[str] = []

    class Benchmark:
        @handles("run_benchmarked")
        def first(self) -> None:
            order.append("attached")

        @handles("epoch_finished")
        def other(self) -> None: ...

    bus.on("run_benchmarked")(lambda: order.append("subscribed"))
    bus.attach(Benchmark(), priority=10)
    loop.emit("run_benchmarked")
    assert order == ["attached", "subscribed"]
