"""Marks on methods: of the class, of the instance, inherited, overridden."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

from eventbus import AttachError, Emitter, EventBus, handles

from .recorders import Counter, run_epochs


def test_a_signal_chosen_when_made_is_marked_on_the_instance(bus: EventBus, loop: Emitter) -> None:
    class Chosen:
        def __init__(self, on: str) -> None:
            self.calls: list[str] = []
            self.decided = handles(on)(self.decide)

        def decide(self, event: Any) -> None:
            self.calls.append(event.name)

    one, other = Chosen("epoch_started"), Chosen("epoch_finished")
    bus.attach(one)
    bus.attach(other)
    run_epochs(loop, 1)
    assert (one.calls, other.calls) == (["epoch_started"], ["epoch_finished"])


def test_the_mark_of_the_instance_wins_over_that_of_the_class(bus: EventBus, loop: Emitter) -> None:
    class Default:
        def __init__(self) -> None:
            self.calls: list[str] = []
            vars(self)["note"] = handles("epoch_finished")(self.note)

        @handles("epoch_started")
        def note(self, event: Any) -> None:
            self.calls.append(event.name)

    default = Default()
    bus.attach(default)
    run_epochs(loop, 1)
    assert default.calls == ["epoch_finished"]


def test_a_subclass_inherits_marks_and_adds_its_own(bus: EventBus, loop: Emitter) -> None:
    class More(Counter):
        @handles("run_started")
        def start(self) -> None:
            self.calls.append("start")

    more = More()
    bus.attach(more)
    loop.emit("run_started")
    run_epochs(loop, 1)
    assert more.calls == ["start", "begin 1"]


def test_an_overridden_method_keeps_its_place(bus: EventBus, loop: Emitter) -> None:
    """The other way it would silently never be called, as misspelt hooks are elsewhere."""

    class Louder(Counter):
        def begin(self, epoch: int) -> None:
            self.calls.append(f"BEGIN {epoch}")

    louder = Louder()
    bus.attach(louder)
    run_epochs(loop, 1)
    assert louder.calls == ["BEGIN 1"]


def test_an_overriding_mark_replaces_the_inherited_one(bus: EventBus, loop: Emitter) -> None:
    class Elsewhere(Counter):
        @handles("run_started")
        def begin(self) -> None:  # type: ignore[override]  # another signal, other fields
            self.calls.append("begin")

    elsewhere = Elsewhere()
    bus.attach(elsewhere)
    loop.emit("run_started")
    run_epochs(loop, 1)
    assert elsewhere.calls == ["begin"]


def test_static_and_class_methods_may_be_marked(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []

    class Odd:
        @staticmethod
        @handles("run_started")
        def static() -> None:
            seen.append("static")

        @classmethod
        @handles("run_started")
        def of_class(cls) -> None:
            seen.append(cls.__name__)

    bus.attach(Odd())
    loop.emit("run_started")
    assert seen == ["static", "Odd"]


def test_attaching_runs_no_property(bus: EventBus) -> None:
    class Lazy(Counter):
        @property
        def expensive(self) -> int:
            raise AssertionError("somebody read it")

    bus.attach(Lazy())


def test_methods_of_one_object_run_in_the_order_they_are_written(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[str] = []

    class Ordered:
        @handles("run_started")
        def zeta(self) -> None:
            seen.append("zeta")

        @handles("run_started")
        def alpha(self) -> None:
            seen.append("alpha")

    bus.attach(Ordered())
    loop.emit("run_started")
    assert seen == ["zeta", "alpha"]


def test_marks_stand_above_or_below_static_and_class_methods(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []

    class Report:
        @handles("epoch_finished")
        @staticmethod
        def above() -> None:
            seen.append("above")

        @staticmethod
        @handles("epoch_finished")
        def below() -> None:
            seen.append("below")

        @handles("epoch_finished")
        @classmethod
        def of_class(cls) -> None:
            seen.append(cls.__name__)

    bus.attach(Report())
    run_epochs(loop, 1)
    assert seen == ["above", "below", "Report"]


class Chosen:
    """A handler whose signal was chosen when it was made."""

    def __init__(self, on: str) -> None:
        self.calls: list[int] = []
        self.note = handles(on)(self.note)  # type: ignore[method-assign]  # marked, as handlers do

    def note(self, epoch: int) -> None:
        self.calls.append(epoch)


def _through_a_process(thing: Any) -> Any:
    """What a process that is spawned gets: multiprocessing pickles partials in a way of its own."""
    return pickle.loads(ForkingPickler.dumps(thing))


def _pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("travel", [_through_a_process, _pickled, copy.deepcopy])
def test_the_mark_of_an_instance_goes_along_where_it_is_copied(
    bus: EventBus, loop: Emitter, travel: Callable[[Any], Any]
) -> None:
    original = Chosen("epoch_finished")
    arrived = travel(original)
    bus.attach(arrived)
    run_epochs(loop, 2)
    assert (arrived.calls, original.calls) == ([1, 2], [])


@pytest.mark.parametrize("travel", [_through_a_process, _pickled, copy.deepcopy])
def test_a_marked_method_travels_without_its_object(
    bus: EventBus, loop: Emitter, travel: Callable[[Any], Any]
) -> None:
    arrived = travel(Chosen("epoch_finished").note)
    bus.attach(arrived)
    run_epochs(loop, 1)
    assert arrived.__self__.calls == [1]


def test_a_marked_partial_keeps_its_mark_in_another_process(bus: EventBus, loop: Emitter) -> None:
    bus.attach(_through_a_process(handles("epoch_finished")(functools.partial(_keep, _kept))))
    run_epochs(loop, 1)
    assert _kept == [1]


_kept: list[int] = []


def _keep(kept: list[int], epoch: int) -> None:
    _kept.append(epoch)  # `kept` was pickled: it is another list


def test_a_marked_method_looks_like_the_method() -> None:
    chosen = Chosen("epoch_finished")
    marked: Any = chosen.note
    assert (marked.__name__, marked.__self__) == ("note", chosen)
    assert list(inspect.signature(marked).parameters) == ["epoch"]


def test_a_shallow_copy_is_refused_as_it_would_act_on_the_original(bus: EventBus) -> None:
    with pytest.raises(AttachError, match="shallow copy: its 'note' works on the one that was"):
        bus.attach(copy.copy(Chosen("epoch_finished")))


def test_a_marked_method_of_another_object_may_be_kept(bus: EventBus, loop: Emitter) -> None:
    class Group:
        def __init__(self, one: Chosen) -> None:
            self.note = one.note

    one = Chosen("epoch_finished")
    bus.attach(Group(one))
    run_epochs(loop, 1)
    assert one.calls == [1]
