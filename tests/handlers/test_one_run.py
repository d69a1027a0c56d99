"""Whose run the state of a handler is of: what it forgets, and what it goes on with."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import EventBus, RestoredState
from eventbus.handlers import History

from .reporting import finish_epochs, resume, start

SAVED = {"epochs": [1, 2], "steps": [10, 20], "metrics": {"loss": [1.0, 0.5]}}


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


def used(bus: EventBus) -> History:
    """Return a history, attached to this bus, of a run that came to its end."""
    history = History()
    bus.attach(history)
    loop = start(bus, run_id="earlier")
    finish_epochs(loop, 1, 3)
    loop.emit("run_closed", outcome="completed")
    return history


def test_run_that_was_saved_without_a_handler_begins_without_what_it_knew(bus: EventBus) -> None:
    history = used(bus)
    finish_epochs(resume(bus, {"loop": {"epoch": 4}}), 5, 6)
    assert history.epochs == [5, 6]


@pytest.mark.parametrize("saved", [SAVED, {"epochs": [], "steps": [], "metrics": {}}])
def test_run_that_was_saved_with_a_handler_goes_on_with_what_it_knew(
    bus: EventBus, saved: Any
) -> None:
    history = used(bus)
    finish_epochs(resume(bus, {"History": saved}), 5, 5)
    assert history.epochs == [*saved["epochs"], 5]


def test_run_that_is_resumed_without_any_state_on_the_bus_finds_it_as_it_was(bus: EventBus) -> None:
    history = used(bus)
    loop = bus.bind(sender="train", run_id="later")
    loop.emit("run_started", resumed_from="initial_epoch=3")
    finish_epochs(loop, 4, 4)
    assert history.epochs == [1, 2, 3, 4]


def test_state_that_is_loaded_by_hand_is_of_the_run_that_begins_next(bus: EventBus) -> None:
    history = used(bus)
    loop = bus.bind(sender="train", run_id="later")
    loop.emit("state_restored", state=RestoredState({"loop": {}}), path="checkpoint")
    history.load_state_dict(SAVED)
    loop.emit("run_started", resumed_from="checkpoint")
    assert history.epochs == [1, 2]
    loop.emit("run_closed", outcome="completed")
    resume(bus, {"loop": {"epoch": 4}}, run_id="third")
    assert history.epochs == []


def test_one_that_is_attached_in_the_middle_of_another_run_forgets_its_own(bus: EventBus) -> None:
    history = used(EventBus(strict=True))
    loop = start(bus)
    bus.attach(history)
    assert history.epochs == []
    finish_epochs(loop, 4, 4)
    assert history.epochs == [4]


def test_one_that_is_attached_late_to_a_resumed_run_takes_its_part(bus: EventBus) -> None:
    history = used(EventBus(strict=True))
    finish_epochs(resume(bus, {"History": SAVED}), 3, 3)
    bus.attach(history)
    assert history.epochs == [1, 2]


def test_state_that_is_loaded_by_hand_is_kept_in_the_middle_of_a_run(bus: EventBus) -> None:
    history = used(EventBus(strict=True))
    history.load_state_dict(SAVED)
    start(bus)
    bus.attach(history)
    assert history.epochs == [1, 2]


def test_one_that_is_attached_again_within_its_run_goes_on(bus: EventBus) -> None:
    history = History()
    bus.attach(history)
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    bus.detach(history)
    finish_epochs(loop, 3, 3)
    bus.attach(history)
    finish_epochs(loop, 4, 4)
    assert history.epochs == [1, 2, 4]


def test_one_that_came_in_the_middle_of_a_run_is_of_that_run(bus: EventBus) -> None:
    history = used(EventBus(strict=True))
    loop = start(bus)
    bus.attach(history)
    finish_epochs(loop, 4, 5)
    bus.detach(history)
    bus.attach(history)
    assert history.epochs == [4, 5]


def test_one_of_an_outer_run_is_not_of_the_inner_ones_alone(bus: EventBus) -> None:
    history = History()
    bus.attach(history)
    outer = start(bus, run_id="outer")
    finish_epochs(outer, 1, 1)
    inner = bus.bind(sender="fold", run_id="inner", parent=outer)
    inner.emit("run_opened")
    bus.detach(history)
    bus.attach(history)
    inner.emit("run_closed", outcome="completed")
    assert history.epochs == [1]


def joined_late(bus: EventBus) -> History:
    """Return a history that took its part in the middle of a run, which then came to its end."""
    loop = resume(bus, {"History": SAVED})
    history = History()
    bus.attach(history)
    finish_epochs(loop, 3, 3)
    loop.emit("run_closed", outcome="completed")
    assert history.epochs == [1, 2, 3]
    return history


def test_state_that_was_taken_late_is_not_that_of_the_run_that_begins_next(bus: EventBus) -> None:
    history = joined_late(bus)
    finish_epochs(resume(bus, {"loop": {"epoch": 4}}, run_id="other"), 5, 6)
    assert history.epochs == [5, 6]


def test_state_that_was_taken_late_is_not_that_of_another_run_under_way(bus: EventBus) -> None:
    history = joined_late(bus)
    other = EventBus(strict=True)
    loop = start(other, run_id="other")
    other.attach(history)
    finish_epochs(loop, 2, 2)
    assert history.epochs == [2]
