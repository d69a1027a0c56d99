"""Filters: when a subscription is due."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eventbus import (
    Emitter,
    EventBus,
    FieldError,
    RestoredState,
    at,
    at_most_every,
    every,
    from_,
    on_rank,
    until,
)
from eventbus.due import as_filter

from .recorders import MISTAKE, StepCollector, assert_says


def due_steps(when: Any, steps: list[int]) -> list[int]:
    """Which of the steps reach a handler with this filter."""
    bus, due = EventBus(), StepCollector()
    bus.on("batch_finished", when=when)(due)
    loop = bus.bind(sender="train")
    for step in steps:
        loop.emit("batch_finished", epoch=1, step=step)
    return due.steps


def due_counts(when: Any, number: int) -> list[int]:
    """Which of so many emissions of a signal without a clock reach a handler, from 1."""
    bus, due = EventBus(), StepCollector()
    bus.on("sample_drawn", when=when)(due)
    loop = bus.bind(sender="train")
    for count in range(1, number + 1):
        loop.emit("sample_drawn", step=count)
    return due.steps


@pytest.mark.parametrize(
    ("when", "due"),
    [
        (every(3), [3, 6, 9]),
        (every(1), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (at(2), [2]),
        (at(2, 5, 99), [2, 5]),
        (from_(7), [7, 8, 9]),
        (until(3), [1, 2, 3]),
        (from_(3) & until(5), [3, 4, 5]),
        (every(4) | at(1), [1, 4, 8]),
        (~every(2), [1, 3, 5, 7, 9]),
        (~every(2) & from_(4) | at(2), [2, 5, 7, 9]),
        (every(2) & every(3), [6]),
    ],
)
def test_filters_on_counts_read_the_clock(when: Any, due: list[int]) -> None:
    assert due_steps(when, list(range(1, 10))) == due
    assert due_counts(when, 9) == due


def test_nothing_is_due_by_every_before_the_first_step() -> None:
    assert due_steps(every(1), [0, 1]) == [1]
    assert due_steps(every(5), [0]) == []


def test_filters_on_the_clock_keep_no_state() -> None:
    assert due_steps(every(10), [10, 10, 37, 40, 5, 10, 0, 20]) == [10, 10, 40, 10, 20]
    assert due_steps(at(3), [3, 4, 3]) == [3, 3]
    assert due_steps(until(2), [5, 1, 9, 2]) == [1, 2]


clocks = st.lists(st.integers(min_value=0, max_value=40), max_size=20)


@given(n=st.integers(min_value=1, max_value=12), steps=clocks)
def test_every_is_due_exactly_on_multiples(n: int, steps: list[int]) -> None:
    assert due_steps(every(n), steps) == [step for step in steps if step > 0 and step % n == 0]


@given(n=st.integers(min_value=1, max_value=12), steps=clocks)
def test_from_and_until_split_the_clock(n: int, steps: list[int]) -> None:
    assert due_steps(from_(n), steps) == [step for step in steps if step >= n]
    assert due_steps(until(n), steps) == [step for step in steps if step <= n]


@given(a=st.integers(1, 6), b=st.integers(1, 6), steps=clocks)
def test_combinations_obey_de_morgan(a: int, b: int, steps: list[int]) -> None:
    assert due_steps(~(every(a) & from_(b)), steps) == due_steps(~every(a) | ~from_(b), steps)
    assert due_steps(~(every(a) | from_(b)), steps) == due_steps(~every(a) & ~from_(b), steps)


def test_each_subscription_counts_its_own_emissions(bus: EventBus) -> None:
    loop, early, late, shared = bus.bind(sender="train"), StepCollector(), StepCollector(), every(2)
    bus.on("sample_drawn", when=shared)(early)
    loop.emit("sample_drawn", step=1)
    bus.on("sample_drawn", when=shared)(late)
    for step in range(2, 6):
        loop.emit("sample_drawn", step=step)
    assert (early.steps, late.steps) == ([2, 4], [3, 5])


@pytest.mark.parametrize("turned", [False, True])
def test_the_count_runs_whatever_other_filters_say(bus: EventBus, turned: bool) -> None:
    due = StepCollector()

    def is_late(step: int) -> bool:
        return step > 5

    bus.on("sample_drawn", when=every(4) & is_late if turned else is_late & every(4))(due)
    loop = bus.bind(sender="train")
    for step in range(1, 13):
        loop.emit("sample_drawn", step=step)
    assert due.steps == [8, 12]


def test_an_emission_that_failed_before_it_counts_too(bus: EventBus) -> None:
    due = StepCollector()

    @bus.on("sample_drawn", priority=1)
    def broken(step: int) -> None:
        if step == 1:
            raise ValueError("broken")

    bus.on("sample_drawn", when=every(2))(due)
    loop = bus.bind(sender="train")
    with pytest.raises(ValueError, match="broken"):
        loop.emit("sample_drawn", step=1)
    for step in (2, 3, 4):
        loop.emit("sample_drawn", step=step)
    assert due.steps == [2, 4]


def test_the_count_is_of_emissions_that_concern_the_subscription(bus: EventBus) -> None:
    due = StepCollector()
    bus.on("sample_drawn", when=every(2), sender="a")(due)
    a, b = bus.bind(sender="a"), bus.bind(sender="b")
    for step in range(1, 5):
        a.emit("sample_drawn", step=step)
        b.emit("sample_drawn", step=-step)
    assert due.steps == [2, 4]


def test_a_predicate_is_asked_by_field_name() -> None:
    assert due_steps(lambda step: step in (2, 3), [1, 2, 3, 4]) == [2, 3]
    assert due_steps(lambda epoch, step: epoch == 1 and step == 4, [1, 4]) == [4]


def test_a_predicate_combines_with_filters_on_either_side() -> None:
    def odd(step: int) -> bool:
        return step % 2 == 1

    steps = list(range(1, 10))
    assert due_steps(every(3) & odd, steps) == [3, 9]
    assert due_steps(odd & every(3), steps) == [3, 9]
    assert due_steps(every(3) | odd, steps) == [1, 3, 5, 6, 7, 9]
    assert due_steps(odd | every(3), steps) == [1, 3, 5, 6, 7, 9]


def test_a_predicate_in_a_combination_is_checked_too(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on("batch_finished", when=every(3) & ~(from_(2) | (lambda lss: True)))(lambda: None)
    assert_says(caught.value, "lss", "loss")


def test_an_async_predicate_is_refused(bus: EventBus) -> None:
    async def due(step: int) -> bool:
        return True

    with pytest.raises(MISTAKE) as caught:
        bus.on("batch_finished", when=due)(lambda: None)
    assert_says(caught.value, "async")


def test_a_predicate_that_raises_fails_like_its_handler(bus: EventBus) -> None:
    def broken(step: int) -> bool:
        raise RuntimeError("broken predicate")

    calls: list[int] = []
    bus.on("batch_finished", when=broken, on_error="isolate")(lambda: calls.append(0))
    bus.on("batch_finished")(lambda step: calls.append(step))
    bus.bind(sender="train").emit("batch_finished", epoch=1, step=1)
    assert calls == [1]
    bus.on("batch_finished", when=broken)(lambda: None)
    with pytest.raises(RuntimeError, match="broken predicate"):
        bus.bind(sender="train").emit("batch_finished", epoch=1, step=2)


@pytest.mark.parametrize("make", [every, at, from_, until])
@pytest.mark.parametrize("wrong", [1.5, "3", None, True])
def test_a_count_that_is_not_a_whole_number_is_refused(make: Any, wrong: object) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make(wrong)
    assert_says(caught.value, repr(wrong))


@pytest.mark.parametrize(
    "call", [lambda: every(0), lambda: every(-1), at, lambda: at_most_every(-1)]
)
def test_a_filter_that_could_never_be_due_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        call()


@pytest.mark.parametrize("when", [every(2), at(2), from_(2), until(2), every(2) & from_(1)])
@pytest.mark.parametrize("clock", [None, "4"])
def test_a_clock_that_is_no_number_is_told(bus: EventBus, when: Any, clock: object) -> None:
    steps = StepCollector()
    bus.on("batch_finished", when=when)(steps)
    loop = bus.bind(sender="train")
    for step in (1, 2, 3):
        loop.emit("batch_finished", epoch=1, step=step)
    with pytest.raises(FieldError) as caught:
        loop.emit("batch_finished", epoch=1, step=clock)
    told = str(caught.value)
    assert f"counts by 'step', a whole number; 'train' sent step={clock!r}" in told
    assert caught.value.field == "step"


def test_the_python_words_for_and_or_not_are_no_filters() -> None:
    with pytest.raises(TypeError):
        bool(every(3))


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def due_times(when: Any, times: list[float]) -> list[int]:
    clock, due = Clock(), StepCollector()
    bus = EventBus(monotonic=clock)
    bus.on("batch_finished", when=when)(due)
    loop = bus.bind(sender="train")
    for step, time in enumerate(times, 1):
        clock.now = 1000.0 + time
        loop.emit("batch_finished", epoch=1, step=step)
    return due.steps


def test_at_most_every_lets_the_seconds_pass() -> None:
    times = [0, 1, 9.9, 10, 11, 19.9, 20, 50, 59, 60]
    assert due_times(at_most_every(10), times) == [1, 4, 7, 8, 10]


@pytest.mark.parametrize(
    "when", [every(2) & at_most_every(10), at_most_every(10) & every(2)], ids=["after", "before"]
)
def test_at_most_every_counts_from_when_the_handler_last_ran(when: Any) -> None:
    assert due_times(when, [0, 1, 2, 3, 11, 12, 13, 14]) == [2, 6]


def test_each_subscription_has_its_own_seconds() -> None:
    clock, first, second, shared = Clock(), StepCollector(), StepCollector(), at_most_every(10)
    bus = EventBus(monotonic=clock)
    bus.on("batch_finished", when=shared)(first)
    bus.on("batch_finished", when=shared)(second)
    bus.bind(sender="train").emit("batch_finished", epoch=1, step=1)
    assert (first.steps, second.steps) == ([1], [1])


@pytest.mark.parametrize(("rank", "due"), [("0", [1]), ("1", []), (None, [1])])
def test_on_rank_reads_the_rank_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, due: list[int]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert due_steps(on_rank(0), [1]) == due


def test_a_filter_that_is_not_due_reads_no_field(bus: EventBus) -> None:
    class Unreadable:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"somebody read {name}")

    steps = StepCollector()

    @bus.on("batch_finished", when=every(10))
    def read(step: int, loss: Any) -> None:
        loss.item()

    bus.on("batch_finished")(steps)
    bus.bind(sender="train").emit("batch_finished", epoch=1, step=9, loss=Unreadable())
    assert steps.steps == [9]


def test_filters_show_themselves() -> None:
    assert repr(every(3)) == "every(3)"
    assert repr(at(1, 5)) == "at(1, 5)"
    assert repr(from_(2) & ~until(7)) == "from_(2) & ~until(7)"


def _is_odd(step: int) -> bool:
    return step % 2 == 1


@pytest.mark.parametrize("travel", [lambda when: pickle.loads(pickle.dumps(when)), copy.deepcopy])
@pytest.mark.parametrize(
    "when",
    [
        every(3),
        at(2, 5, 99),
        from_(7),
        until(3),
        ~every(2) & from_(4) | at(2),
        every(3) & _is_odd,
        on_rank(0) & every(4),
        at_most_every(3600.0),
    ],
    ids=repr,
)
def test_a_filter_that_travelled_is_due_as_before(when: Any, travel: Any) -> None:
    arrived = travel(when)
    assert repr(arrived) == repr(when)
    assert due_steps(arrived, list(range(10))) == due_steps(when, list(range(10)))


def test_a_filter_cannot_be_pickled_with_a_predicate_that_cannot() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(every(2) & (lambda step: step > 5))


def test_the_seconds_are_those_since_the_handler_was_called_on_any_of_its_signals() -> None:
    clock, calls = Clock(), []
    bus = EventBus(monotonic=clock)
    started_and_finished = bus.on("epoch_started", "epoch_*", when=at_most_every(10))
    started_and_finished(lambda event: calls.append((clock(), event.name)))
    for now, name in [(0, "epoch_started"), (1, "epoch_finished"), (10, "epoch_finished")]:
        clock.now = now
        bus.emit(name, epoch=1, step=1)
    assert calls == [(0, "epoch_started"), (10, "epoch_finished")]


def test_a_count_that_was_saved_waits_for_a_signal_that_a_pattern_covers_later() -> None:
    due: list[int] = []

    def counting() -> Emitter:
        bus = EventBus()
        bus.on("sample_*", name="log", when=every(3))(lambda number: due.append(number))
        return bus.bind(sender="train")

    loop = counting()
    for number in range(1, 5):
        loop.emit("sample_drawn", number=number)
    state = loop.emit("state_requested").state
    loop = counting()
    loop.emit("state_restored", state=RestoredState(dict(state)))
    for number in range(5, 10):
        loop.emit("sample_drawn", number=number)
    assert due == [3, 6, 9]


def test_a_torch_that_is_built_without_distributed_is_rank_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch.distributed", without)
    monkeypatch.delenv("RANK", raising=False)
    assert due_steps(on_rank(0), [1]) == [1]


@pytest.mark.parametrize("profiled", [False, True])
@pytest.mark.parametrize("combine", [lambda p: p & every(4), lambda p: every(4) & p])
def test_a_predicate_is_asked_where_the_clock_says_so_on_either_side(
    bus: EventBus, profiled: bool, combine: Any
) -> None:
    asked: list[int] = []

    def ask(step: int) -> bool:
        asked.append(step)
        return True

    bus.on("batch_finished", when=combine(ask))(lambda: None)
    if profiled:  # interpreted all along, else compiled
        bus.profile()
    for step in range(1, 41):
        bus.emit("batch_finished", epoch=1, step=step)
    assert asked == list(range(4, 41, 4))


@pytest.mark.parametrize(
    "combine", [lambda p: p | every(4), lambda p: ~(~as_filter(p) & ~every(4))]
)
def test_a_predicate_is_asked_each_time_where_the_clock_alone_cannot_say(
    bus: EventBus, combine: Any
) -> None:
    asked: list[int] = []

    def ask(step: int) -> bool:
        asked.append(step)
        return False

    due: list[int] = []
    bus.on("batch_finished", when=combine(ask))(lambda step: due.append(step))
    for step in range(1, 9):
        bus.emit("batch_finished", epoch=1, step=step)
    assert (asked, due) == ([*range(1, 9)], [4, 8])


@pytest.mark.parametrize("clock", [int, float, numpy.int64, numpy.array, torch.tensor])
@pytest.mark.parametrize("when", [at(2, 4), every(2)])
def test_a_clock_is_any_number(bus: EventBus, clock: Any, when: Any) -> None:
    due: list[int] = []
    bus.on("batch_finished", when=when)(lambda step: due.append(int(step)))
    for step in range(1, 5):
        bus.emit("batch_finished", epoch=1, step=clock(step))
    assert due == [2, 4]
