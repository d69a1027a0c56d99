"""The function made for settled handlers says what the interpreter says, and shows its source."""

from __future__ import annotations

import linecache
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import eventbus.compiled
import eventbus.port
from eventbus import (
    Emitter,
    EventBus,
    FieldError,
    Filter,
    Stop,
    at,
    every,
    from_,
    handles,
    until,
)
from eventbus.frames import SENT
from eventbus.shown import Shown
from eventbus.signals import batch_finished
from eventbus.source import FEW, UNROLLED

from .backends import PATIENCE_S
from .test_processes import run_script


@pytest.fixture(autouse=True)
def compile_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventbus.port, "WARM", 0)


def steps(loop: Emitter, *numbers: int) -> None:
    for step in numbers:
        loop.emit("batch_finished", epoch=1, step=step)


def is_compiled(loop: Emitter) -> bool:
    return "batch_finished" in loop.settled


def keep(seen: list[Any], mark: Any) -> Callable[[int], None]:
    return lambda step: seen.append((mark, step))


def test_settled_handlers_are_compiled_and_a_change_takes_it_back(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[Any] = []
    bus.on("batch_finished")(keep(seen, "first"))
    steps(loop, 1, 2)
    assert is_compiled(loop)
    bus.on("batch_finished", priority=1)(keep(seen, "second"))
    assert not is_compiled(loop)
    steps(loop, 3, 4)
    assert is_compiled(loop)
    assert seen[2:] == [("second", 3), ("first", 3), ("second", 4), ("first", 4)]


@pytest.mark.parametrize("number", [1, FEW, UNROLLED, UNROLLED + 1])
@pytest.mark.parametrize("always", [0, 1, UNROLLED + 1])
def test_any_number_of_handlers_runs_when_due(
    bus: EventBus, loop: Emitter, number: int, always: int
) -> None:
    seen: list[Any] = []
    for index in range(number):
        bus.on("batch_finished", when=every(3))(keep(seen, index))
    for index in range(always):
        bus.on("batch_finished")(keep(seen, f"always {index}"))
    steps(loop, *range(1, 8))
    assert is_compiled(loop)
    for step in range(1, 8):
        due = [index for index in range(number) if step % 3 == 0]
        expected = [*due, *(f"always {index}" for index in range(always))]
        assert [mark for mark, at_step in seen if at_step == step] == expected


def test_a_clock_that_jumps_repeats_or_restarts_is_looked_at_anew(
    bus: EventBus, loop: Emitter
) -> None:
    filters = [every(5), every(7), at(3, 40), from_(30) & ~every(2), until(2), every(4) | at(1)]
    due: list[Any] = []
    for when in filters:
        for copy in range(FEW):
            bus.on("batch_finished", when=when)(keep(due, (repr(when), copy)))
    clocks = [1, 2, 3, 50, 3, 3, 10, 0, -5, 35, 36, 1, 100, 99, 98, 40, 41, 42]
    for clock in clocks:
        due.clear()
        steps(loop, clock)
        c = clock
        expected = [
            c > 0 and c % 5 == 0,
            c > 0 and c % 7 == 0,
            c in (3, 40),
            c >= 30 and not (c > 0 and c % 2 == 0),
            c <= 2,
            (c > 0 and c % 4 == 0) or c == 1,
        ]
        assert {mark for (mark, _), _ in due} == {
            repr(when) for when, wanted in zip(filters, expected, strict=True) if wanted
        }
    assert is_compiled(loop)


def test_many_distinct_periods_are_still_met(bus: EventBus, loop: Emitter) -> None:
    seen: list[Any] = []
    for period in range(2, 40):
        bus.on("batch_finished", when=every(period))(keep(seen, period))
    steps(loop, *range(1, 200))
    assert is_compiled(loop)
    assert seen == [(p, step) for step in range(1, 200) for p in range(2, 40) if step % p == 0]


def test_a_failure_is_blamed_on_the_handler_at_which_it_came_up(
    bus: EventBus, loop: Emitter
) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise ArithmeticError("three")

    seen: list[Any] = []
    bus.on("batch_finished")(keep(seen, "before"))
    bus.on("batch_finished", name="culprit")(fail)
    bus.on("batch_finished")(keep(seen, "after"))
    bus.on("batch_finished", on_error="isolate")(keep(seen, "isolated"))
    steps(loop, 1, 2)
    assert is_compiled(loop)
    seen.clear()
    with pytest.raises(ArithmeticError) as caught:
        steps(loop, 3)
    assert "'culprit'" in caught.value.__notes__[0]
    assert "step 3" in caught.value.__notes__[0]
    assert seen == [("before", 3), ("isolated", 3)]
    assert caught.value.__context__ is None


def test_an_answer_is_heard_and_the_handlers_after_it_run(bus: EventBus, loop: Emitter) -> None:
    seen: list[Any] = []
    bus.on("batch_finished", name="enough")(lambda step: Stop("enough") if step == 3 else None)
    bus.on("batch_finished")(keep(seen, "after"))
    steps(loop, 1, 2)
    assert is_compiled(loop)
    answers = loop.emit("batch_finished", epoch=1, step=3)
    assert answers.stop is not None
    assert answers.stop.by == "enough"
    assert seen[-1] == ("after", 3)
    assert loop.emit("batch_finished", epoch=1, step=4).stop == answers.stop


def test_a_failure_after_an_answer_is_blamed_on_who_failed(bus: EventBus, loop: Emitter) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise ArithmeticError("three")

    bus.on("batch_finished", name="enough")(lambda step: Stop("enough") if step == 3 else None)
    bus.on("batch_finished", name="culprit")(fail)
    steps(loop, 1, 2)
    assert is_compiled(loop)
    with pytest.raises(ArithmeticError) as caught:
        steps(loop, 3)
    assert [note.count("culprit") for note in caught.value.__notes__] == [1]
    assert not bus.underway
    assert loop.answers.stop is not None


def test_a_failure_among_very_many_handlers_is_blamed_too(bus: EventBus, loop: Emitter) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise ArithmeticError("three")

    for index in range(UNROLLED + 1):
        bus.on("batch_finished")(keep([], index))
    bus.on("batch_finished", name="culprit")(fail)
    steps(loop, 1, 2)
    assert is_compiled(loop)
    with pytest.raises(ArithmeticError) as caught:
        steps(loop, 3)
    assert [note.count("culprit") for note in caught.value.__notes__] == [1]


def test_a_field_that_is_missing_later_is_named(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", name="log_loss")(lambda step, loss: None)
    for step in (1, 2):
        loop.emit("batch_finished", epoch=1, step=step, loss=0.5)
    assert is_compiled(loop)
    with pytest.raises(FieldError, match=r"'log_loss' asks for 'loss'"):
        loop.emit("batch_finished", epoch=1, step=3)


def test_a_filtered_handler_may_ask_for_what_was_not_sent_until_it_is_due(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("batch_finished", when=every(4), name="log_loss")(lambda loss: None)
    steps(loop, 1, 2, 3)
    assert is_compiled(loop)
    with pytest.raises(FieldError, match=r"'log_loss' asks for 'loss'"):
        steps(loop, 4)


def test_a_misspelt_field_is_an_error_with_a_suggestion_by_name(
    bus: EventBus, loop: Emitter
) -> None:
    steps(loop, 1, 2)
    assert is_compiled(loop)
    with pytest.raises(FieldError, match="did you mean 'loss'"):
        loop.emit("batch_finished", epoch=1, step=3, lss=0.5)
    with pytest.raises(TypeError, match="lss"):
        bus.signal("batch_finished").emit(epoch=1, step=3, lss=0.5)


def test_a_type_error_of_a_handler_stays_its_own(bus: EventBus, loop: Emitter) -> None:
    seen: list[int] = []

    @bus.on("batch_finished")
    def add(step: int) -> None:
        seen.append(step)
        if step == 3:
            len(step)  # type: ignore[arg-type]  # what is tested

    steps(loop, 1, 2)
    with pytest.raises(TypeError, match="has no len"):
        steps(loop, 3)
    assert seen == [1, 2, 3]


def test_an_emission_inside_another_is_filled_in(bus: EventBus, loop: Emitter) -> None:
    seen: list[Any] = []
    bus.on("batch_finished")(lambda step, bus: bus.emit("metrics_measured", metrics={"n": step}))
    bus.on("metrics_measured")(lambda epoch, step, sender: seen.append((epoch, step, sender)))
    steps(loop, 1, 2, 3)
    assert is_compiled(loop)
    assert seen == [(1, step, "train") for step in (1, 2, 3)]


def test_the_source_is_shown_in_tracebacks(bus: EventBus) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    bus.on("batch_finished")(fail)
    signal = bus.signal(batch_finished)
    for step in (1, 2):
        signal.emit(epoch=1, step=step)
    with pytest.raises(KeyboardInterrupt) as caught:
        signal.emit(epoch=1, step=3)
    frames = traceback.extract_tb(caught.value.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith("<eventbus batch_finished")]
    assert [frame.line for frame in ours] == ["_eb_r = _eb_h0(step)"]
    assert linecache.getline(ours[0].filename, 1).startswith("def emit(")


def test_after_an_interrupt_the_next_emission_is_outermost_again(bus: EventBus) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    bus.on("batch_finished")(fail)
    signal = bus.signal(batch_finished)
    for step in (1, 2):
        signal.emit(epoch=1, step=step)
    with pytest.raises(KeyboardInterrupt):
        signal.emit(epoch=1, step=3)
    assert not bus.underway


def test_other_fields_than_at_first_are_carried_by_name_too(bus: EventBus, loop: Emitter) -> None:
    seen: list[Any] = []
    bus.on("batch_finished")(lambda step, loss=None, **rest: seen.append((step, loss, rest)))
    bus.on("batch_finished")(lambda step, batch_size=1: seen.append((step, batch_size)))
    steps(loop, 1, 2)
    assert is_compiled(loop)
    seen.clear()
    loop.emit("batch_finished", step=3, epoch=1)
    loop.emit("batch_finished", epoch=1, step=4, loss=0.5)
    loop.emit("batch_finished", step=5, batch_size=8)
    assert seen == [
        (3, None, {"epoch": 1}),
        (3, 1),
        (4, 0.5, {"epoch": 1}),
        (4, 1),
        (5, None, {"batch_size": 8}),
        (5, 8),
    ]


def test_as_many_fields_as_at_first_are_not_taken_for_the_same(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[Any] = []
    bus.on("batch_finished")(lambda step, epoch=None: seen.append((epoch, step)))
    steps(loop, 1, 2)
    with pytest.raises(FieldError, match="did you mean 'epoch'"):
        loop.emit("batch_finished", epch=1, step=3)
    loop.emit("batch_finished", step=4, loss=0.5)
    assert seen == [(1, 1), (1, 2), (None, 4)]


def test_a_sender_and_context_are_taken_out_of_the_fields(bus: EventBus) -> None:
    seen: list[Any] = []
    bus.on("batch_finished")(lambda step, sender, model=None: seen.append((step, sender, model)))
    for step in (1, 2):
        bus.emit("batch_finished", step=step, sender="train", model="a model")
    for step in (3, 4):
        bus.emit("batch_finished", epoch=1, step=step)
    bus.emit("batch_finished", step=5, sender="train")
    bus.emit("batch_finished", step=6, model="another")
    assert seen == [
        (1, "train", "a model"),
        (2, "train", "a model"),
        (3, None, None),
        (4, None, None),
        (5, "train", None),
        (6, None, "another"),
    ]


@pytest.mark.parametrize("typed", [False, True])
def test_a_dict_of_metrics_is_only_shown(bus: EventBus, loop: Emitter, typed: bool) -> None:
    shown: list[Any] = []
    bus.on("validation_done")(lambda metrics: shown.append(metrics))
    bus.on("validation_done")(lambda event: shown.append(event.fields["metrics"]))
    emit = loop.signal("validation_done").emit if typed else partial(loop.emit, "validation_done")
    metrics = {"val_loss": 0.5}
    for round_ in (1, 2, 3):
        emit(name="val", round=round_, metrics=metrics)
    assert shown == [metrics] * 6
    for one in shown:
        with pytest.raises(TypeError):
            one["val_loss"] = 0.0


def test_the_twin_is_shown_in_tracebacks_too(bus: EventBus, loop: Emitter) -> None:
    def fail(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    bus.on("batch_finished")(fail)
    steps(loop, 1, 2, 3)
    with pytest.raises(KeyboardInterrupt) as caught:
        steps(loop, 4)
    frames = traceback.extract_tb(caught.value.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith("<eventbus batch_finished")]
    assert [frame.line for frame in ours] == ["_eb_r = _eb_h0(step)"]
    assert linecache.getline(ours[0].filename, 1) == f"def emit({SENT}):\n"


def test_the_twin_goes_when_the_handlers_change_while_it_is_made(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[Any] = []

    @bus.on("batch_finished")
    def subscribe_another(step: int) -> None:
        if step == 2:
            bus.on("batch_finished")(keep(seen, "another"))

    steps(loop, 1, 2, 3, 4)
    assert seen == [("another", 3), ("another", 4)]


@pytest.mark.parametrize("root", [False, True])
def test_an_emit_kept_from_before_is_compiled_too(bus: EventBus, loop: Emitter, root: bool) -> None:
    called_from: list[str] = []

    @bus.on("batch_finished")
    def look_around(step: int) -> None:
        called_from.append(sys._getframe(1).f_code.co_filename)

    emit = bus.signal(batch_finished).emit if root else loop.signal(batch_finished).emit
    for step in (1, 2, 3):
        emit(epoch=1, step=step)
    assert [file.startswith("<eventbus") for file in called_from] == [False, True, True]


@pytest.fixture(params=["the bus's", "a run's"])
def kept(request: pytest.FixtureRequest, bus: EventBus, loop: Emitter) -> Any:
    """`emit`, kept by a loop after a function was made for the handlers of then."""
    signal: Any = (bus if request.param == "the bus's" else loop).signal(batch_finished)
    for step in (1, 2, 3):
        signal.emit(epoch=1, step=step)
    assert signal.emit.__code__.co_filename.startswith("<eventbus")
    return signal.emit


def test_who_comes_and_goes_is_known_to_an_emit_that_was_kept(bus: EventBus, kept: Any) -> None:
    heard: list[int] = []
    listener = bus.on("batch_finished")(lambda step: heard.append(step))
    for step in (4, 5, 6, 7):
        kept(epoch=1, step=step)
    bus.detach(listener)
    kept(epoch=1, step=8)
    assert heard == [4, 5, 6, 7]


def test_an_emit_that_was_kept_is_compiled_again(bus: EventBus, kept: Any) -> None:
    called_from: list[str] = []

    @bus.on("batch_finished")
    def look_around(step: int) -> None:
        called_from.append(sys._getframe(1).f_code.co_filename)

    for step in (4, 5, 6):
        kept(epoch=1, step=step)
    assert [file.startswith("<eventbus") for file in called_from] == [False, True, True]


def test_an_emit_that_was_kept_is_no_emission_around_its_own(bus: EventBus, kept: Any) -> None:
    outer: list[Any] = []
    bus.on("batch_finished")(lambda event: outer.append(event.outer))
    kept(epoch=1, step=4)
    assert outer == [None]


def test_an_emit_that_was_kept_refuses_what_it_always_did(bus: EventBus, kept: Any) -> None:
    bus.on("batch_finished")(lambda step: None)
    with pytest.raises(FieldError, match="carries no field 'los'; did you mean 'loss'"):
        kept(epoch=1, step=4, los=0.5)
    with pytest.raises(TypeError, match="the fields of 'batch_finished' are given by name"):
        kept(4)


def test_an_emit_that_was_kept_and_is_running_goes_on(bus: EventBus, loop: Emitter) -> None:
    heard: list[Any] = []
    emitters: list[Any] = []

    @bus.on("batch_finished", priority=1)
    def subscribe_another(step: int) -> None:
        if step == 4:
            bus.on("batch_finished")(keep(heard, "another"))
            loop.emit("log", text="inside")

    bus.on("log")(lambda event: emitters.append(event.outer.name))
    bus.on("batch_finished")(keep(heard, "first"))
    for step in (1, 2, 3):
        loop.signal(batch_finished).emit(epoch=1, step=step)
    emit = loop.signal(batch_finished).emit
    for step in (4, 5):
        emit(epoch=1, step=step)
    assert heard[3:] == [("first", 4), ("first", 5), ("another", 5)]
    assert emitters == ["batch_finished"]


def missing_loss(bus: EventBus, loop: Emitter, on_error: str) -> list[str]:
    """Emit by the typed path until it is compiled, then without the loss; say who ran."""
    ran: list[str] = []
    bus.on("batch_finished", priority=1)(lambda step: ran.append("before"))
    reader = bus.on("batch_finished", name="reader", on_error=on_error)  # type: ignore[arg-type]
    reader(lambda loss: ran.append("reader"))
    bus.on("batch_finished", priority=-1, on_error="isolate")(lambda step: ran.append("after"))
    emit_finished = loop.signal(batch_finished).emit
    for step in range(20):
        emit_finished(epoch=1, step=step, loss=0.5)
    del ran[:]
    loop.signal(batch_finished).emit(epoch=1, step=21)
    return ran


def test_an_observer_that_misses_an_optional_field_ends_nothing_on_the_typed_path(
    bus: EventBus, loop: Emitter
) -> None:
    failed: list[str] = []
    bus.on("handler_failed")(lambda handler: failed.append(handler))
    assert missing_loss(bus, loop, "isolate") == ["before", "after"]
    assert failed == ["reader"]


def test_an_optional_field_that_is_missed_is_named_on_the_typed_path(
    bus: EventBus, loop: Emitter
) -> None:
    with pytest.raises(FieldError, match=r"'reader' asks for 'loss'.*'batch_finished'"):
        missing_loss(bus, loop, "raise")


def test_fields_are_given_by_name(loop: Emitter) -> None:
    with pytest.raises(TypeError, match="the fields of 'batch_finished' are given by name"):
        loop.signal(batch_finished).emit(1, 2)  # type: ignore[call-arg]  # what is refused


def test_an_os_signal_may_emit_while_the_compiler_is_being_imported(tmp_path: Path) -> None:
    assert run_script(EMITTED_BY_ALARMS, tmp_path) == "emitted\n"


EMITTED_BY_ALARMS = """
import importlib.util, signal, sys
from eventbus import EventBus

bus = EventBus()
bus.on("batch_finished")(lambda step: None)
bus.on("epoch_finished")(lambda epoch: None)

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "eventbus.source":  # which the compiler imports
            for _ in range(20):
                bus.emit("epoch_finished", epoch=1, step=1)

sys.meta_path.insert(0, Interrupting())
for step in range(20):
    bus.emit("batch_finished", epoch=1, step=step)
assert "eventbus.compiled" in sys.modules
print("emitted")
"""


def test_an_emission_inside_one_is_filled_in_though_another_thread_comes_in_between(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_measured: list[int] = []
    other_is_in, other_may_end = threading.Event(), threading.Event()
    others: list[threading.Thread] = []
    one, two = (bus.bind(sender=name).signal(batch_finished) for name in ("one", "two"))

    def view(metrics: dict[str, float]) -> Mapping[str, float]:
        if metrics == {"loss": 0.5} and not others:
            emit_other = partial(two.emit, epoch=1, step=7, metrics={})
            others.append(threading.Thread(target=emit_other, daemon=True))
            others[0].start()
            assert other_is_in.wait(PATIENCE_S)
        return Shown(metrics)

    @bus.on("batch_finished")
    def measure(step: int, metrics: dict[str, float], bus: EventBus) -> None:
        if step == 7:
            other_is_in.set()
            assert other_may_end.wait(PATIENCE_S)
        if step == 5:
            other_may_end.set()
            others[0].join(PATIENCE_S)
            bus.emit("metrics_measured", metrics={})

    bus.on("metrics_measured")(lambda step: steps_measured.append(step))
    monkeypatch.setattr("eventbus.compiled.Shown", view)
    for port in (one, two):
        port.emit(epoch=1, step=1, metrics={})
        port.emit(epoch=1, step=2, metrics={})
    one.emit(epoch=1, step=5, metrics={"loss": 0.5})
    assert steps_measured == [5]


@pytest.mark.parametrize(
    ("make", "is_due"),
    [
        (at, lambda n, step: step == n),
        (every, lambda n, step: step % n == 0),
        (from_, lambda n, step: step >= n),
        (until, lambda n, step: step <= n),
    ],
    ids=["at", "every", "from_", "until"],
)
def test_each_filter_is_heard_among_many(
    bus: EventBus,
    loop: Emitter,
    make: Callable[[int], Filter],
    is_due: Callable[[int, int], bool],
) -> None:
    seen: dict[int, list[tuple[None, int]]] = {n: [] for n in range(60, 60 + 2 * FEW)}
    for n, calls in seen.items():
        bus.on("batch_finished", when=make(n))(keep(calls, None))
    steps(loop, *range(1, 151))
    due = {n: [(None, step) for step in range(1, 151) if is_due(n, step)] for n in seen}
    assert seen == due


Emission = Callable[[int], object]


def emissions(bus: EventBus, loop: Emitter, **fields: Any) -> list[Emission]:
    """Ways to emit `batch_finished` of a step: by name and by the typed path, compiled at once."""
    signal = bus.signal(batch_finished)
    return [
        lambda step: loop.emit("batch_finished", epoch=1, step=step, **fields),
        lambda step: signal.emit(epoch=1, step=step, **fields),
    ]


def test_an_event_that_is_asked_for_with_a_default_is_given(bus: EventBus, loop: Emitter) -> None:
    names: list[str] = []
    bus.on("batch_finished")(lambda step, event=None: names.append(getattr(event, "name", "none")))
    for emit in emissions(bus, loop):
        for step in range(4):
            emit(step)
    assert names == ["batch_finished"] * 8


@pytest.mark.parametrize("name", ["error", "len", "int", "KeyError", "Exception", "self"])
def test_a_field_may_have_the_name_of_what_python_has(bus: EventBus, name: str) -> None:
    stub: dict[str, Any] = {}
    exec(f"def sample_drawn(*, step: int, {name}: int) -> None: ...", stub)
    drawn = bus.declare(clock="step")(stub["sample_drawn"])
    failed: list[str] = []

    @bus.on(drawn, when=every(2), on_error="isolate")
    def fail(step: int) -> None:
        raise ValueError("the handler's own")

    bus.on("handler_failed")(lambda exception: failed.append(str(exception)))
    fields = {name: 1}
    for emit in (bus.signal(drawn).emit, partial(bus.emit, drawn)):
        bus.signal(drawn).changed()
        for step in (1, 2, 3):
            emit(step=step, **fields)
    assert failed == ["the handler's own"] * 2


def test_what_a_loop_does_not_send_is_filled_in_by_the_emission_around_it(
    bus: EventBus, loop: Emitter
) -> None:
    drawn_at: list[int] = []

    @bus.declare(clock="step")
    def sample_drawn(*, step: int, text: str) -> None: ...

    bus.on(sample_drawn)(lambda step: drawn_at.append(step))
    inner: Any = bus.signal(sample_drawn)
    bus.on("batch_finished")(lambda: inner.emit(text="to be"))
    for _ in range(3):
        inner.emit(step=0, text="or not")
    del drawn_at[:]
    steps(loop, 1, 2, 3)
    assert drawn_at == [1, 2, 3]


def test_a_required_field_that_is_not_sent_fails_who_asks_for_it_alone(
    bus: EventBus, loop: Emitter
) -> None:
    ran: list[int] = []
    failed: list[str] = []
    bus.on("batch_finished", name="reader", on_error="isolate")(lambda epoch: None)
    bus.on("batch_finished")(lambda step: ran.append(step))
    bus.on("handler_failed")(lambda handler: failed.append(handler))
    signal: Any = loop.signal(batch_finished)
    for step in (1, 2, 3):
        signal.emit(epoch=1, step=step)
    signal.emit(step=4)
    assert (ran, failed) == ([1, 2, 3, 4], ["reader"])


def test_the_emit_of_another_bus_is_a_handler_whatever_changes_there(bus: EventBus) -> None:
    other = EventBus()
    heard: list[int] = []
    forwarded: Any = other.signal(batch_finished)
    other.on("batch_finished")(lambda step: heard.append(step))
    for step in (1, 2, 3):
        forwarded.emit(epoch=1, step=step)
    bus.on("batch_finished")(forwarded.emit)
    other.on("batch_finished")(lambda step: heard.append(step * 10))
    for step in (4, 5):
        bus.emit("batch_finished", epoch=1, step=step)
    assert heard == [1, 2, 3, 4, 40, 5, 50]


def test_fields_by_position_are_refused_once_compiled(loop: Emitter) -> None:
    signal: Any = loop.signal(batch_finished)
    for step in (1, 2, 3):
        signal.emit(epoch=1, step=step)
    with pytest.raises(TypeError, match="'batch_finished' are given by name; got 1"):
        signal.emit(1, 2)
    with pytest.raises(TypeError, match="'batch_finished' are given by name; got None"):
        signal.emit(None, 2)


def test_a_predicate_cannot_change_what_others_see(bus: EventBus, loop: Emitter) -> None:
    refused: list[int] = []

    def write(step: int, metrics: dict[str, float]) -> bool:
        try:
            metrics["seen"] = 1.0
        except TypeError:
            refused.append(step)
        return True

    bus.on("batch_finished", when=write)(lambda: None)
    metrics = {"loss": 0.5}
    for emit in emissions(bus, loop, metrics=metrics):
        for step in range(3):
            emit(step)
    assert (refused, metrics) == ([0, 1, 2] * 2, {"loss": 0.5})


def test_a_signal_may_be_declared_anew_with_more_fields_from_inside(bus: EventBus) -> None:
    def declare(with_more: bool) -> Any:
        def sample_drawn(*, step: int) -> None: ...

        def more_drawn(*, step: int, more: int = 0) -> None: ...

        stub = more_drawn if with_more else sample_drawn
        stub.__name__ = stub.__qualname__ = "sample_drawn"  # as of a notebook's cell, run again
        return bus.declare(clock="step")(stub)

    outer_steps: list[int] = []
    signal: Any = bus.signal(declare(with_more=False))

    @bus.on("sample_drawn")
    def declare_anew(step: int) -> None:
        if step == 3:
            declare(with_more=True)
            bus.emit("batch_finished", epoch=1)

    bus.on("batch_finished")(lambda step: outer_steps.append(step))
    for step in (1, 2, 3):
        signal.emit(step=step)
    assert outer_steps == [3]


def test_sources_are_shown_as_long_as_they_may_run(
    bus: EventBus, loop: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventbus.compiled, "_code", eventbus.compiled._code.__wrapped__)

    def shown() -> int:
        return sum(file.startswith("<eventbus batch_finished") for file in linecache.cache)

    bus.on("batch_finished")(lambda step: None)
    steps(loop, 1, 2, 3)
    before = shown()
    for step in range(50):
        with bus.attach(handles("batch_finished", when=at(step))(lambda: None), name="now"):
            steps(loop, step, step)
    steps(loop, 1, 2, 3)
    assert shown() == before > 0
