"""Lives that every handler has: with them its state changes, and can be cut anywhere (T19)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, Priority
from eventbus.handle import Handle
from eventbus.handlers import Checkpoint
from eventbus.state import has_state

from .lives import (
    ARGUMENTS,
    Life,
    Nursery,
    Trained,
    assert_ends_as_whole,
    live,
    make,
    trained_by,
    with_handler,
)
from .test_every_handler import HANDLERS, every_handler, same

UNMOVED = {
    "AlterBatch": "its function draws nothing",
    "NonFiniteGuard": "nothing is skipped",
}
"""Handlers whose state is, after a life, what it was; and why."""


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a default path leads


def test_arguments_are_those_of_handlers_that_exist() -> None:
    names = {cls.__name__ for cls in HANDLERS}
    assert set(ARGUMENTS) <= names
    assert set(UNMOVED) <= names


def test_handler_that_cannot_live_without_arguments_has_some() -> None:
    class Newcomer:
        def __init__(self, needed: int) -> None: ...

    with pytest.raises(TypeError, match="needed"):
        make(Newcomer, Path())


@every_handler
def test_state_changes_in_the_life_of_a_handler_that_has_one(cls: type, tmp_path: Path) -> None:
    bus, handler = with_handler(cls, tmp_path)
    if not has_state(handler):
        pytest.skip(f"{cls.__name__} keeps no state")
    fresh = handler.state_dict()
    trained_by(bus, epochs=4)
    assert same(handler.state_dict(), fresh) == (cls.__name__ in UNMOVED)


@every_handler
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_run_killed_at_each_emission_of_an_epoch_ends_as_one_that_was_not(
    cls: type, tmp_path: Path, lives: Nursery
) -> None:
    whole = live(cls, tmp_path / "whole")
    assert_ends_as_whole(cls, tmp_path / "cut", lives, whole, moments_of(whole))


def moments_of(life: Life) -> list[tuple[str, int]]:
    """Return each emission of the second epoch, and what opens and ends the run, in order.

    The end of an epoch is that of its save: it does not come again where the save is resumed from.
    """
    told = dict.fromkeys((name, step) for name, _, step, *_ in life.told)
    ends = ("run_opened", "run_started", "run_finished", "run_closed")
    return [
        (name, step)
        for name, step in told
        if name in ends or (name != "epoch_finished" and step is not None and 3 <= step <= 6)
    ]


# -- another run


IDS = {"run_id", "run", "checksum"}
"""What is drawn for each run, or depends on that: no two have the same."""


def alike(one: Any, other: Any) -> bool:
    """Compare states but for what is drawn, or depends on the clock: texts, bytes, checksums."""
    if isinstance(one, dict):
        keys = one.keys() - IDS
        return keys == other.keys() - IDS and all(alike(one[key], other[key]) for key in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, str | bytes):
        return type(one) is type(other)
    return same(one, other)


def used_in_a_run(cls: type, folder: Path) -> Any:
    """Return a stateful handler that was in a run, and in its process, to its end."""
    bus, handler = with_handler(cls, folder)
    if not has_state(handler):
        pytest.skip(f"{cls.__name__} keeps no state")
    trained_by(bus, epochs=6)
    bus.detach(handler)
    return handler


def ended(handler: Any, bus: EventBus) -> tuple[Any, Trained]:
    """Train with a handler that is there or comes; return its state at the end, and the rest."""
    trained = trained_by(bus, epochs=4)
    return handler.state_dict(), trained


@every_handler
def test_used_handler_begins_anew_in_a_resumed_run_that_was_saved_without_it(
    cls: type, tmp_path: Path
) -> None:
    handlers = used_in_a_run(cls, tmp_path / "used"), make(cls, tmp_path / "fresh")
    bus = EventBus(strict=True)
    bus.attach(Checkpoint(tmp_path / "battery"), name="battery")
    trained_by(bus, epochs=1)
    ends = []
    for number, handler in enumerate(handlers):
        folder = shutil.copytree(tmp_path / "battery", tmp_path / f"battery-{number}")
        bus = EventBus(strict=True)
        bus.attach(handler)
        bus.attach(Checkpoint(folder, resume="auto"), name="battery")
        ends.append(ended(handler, bus))
    (used_state, used), (fresh_state, fresh) = ends
    assert len(fresh.losses) == 9, "it did not go on from the checkpoint"
    assert alike(used_state, fresh_state)
    assert used == fresh


@every_handler
def test_used_handler_begins_anew_where_it_is_attached_in_the_middle_of_another_run(
    cls: type, tmp_path: Path
) -> None:
    if cls is Checkpoint:
        pytest.skip("one that is to resume a run is refused in the middle of it")
    handlers = used_in_a_run(cls, tmp_path / "used"), make(cls, tmp_path / "fresh")
    ends = []
    for handler in handlers:
        bus = EventBus(strict=True)
        attach_after_an_epoch(bus, handler)
        ends.append(ended(handler, bus))
    (used_state, used), (fresh_state, fresh) = ends
    assert alike(used_state, fresh_state)
    assert used == fresh


@every_handler
def test_handler_that_is_attached_again_in_its_run_goes_on(cls: type, tmp_path: Path) -> None:
    ends = []
    for is_moved in (False, True):
        bus, handler = EventBus(strict=True), make(cls, tmp_path / str(is_moved))
        if not has_state(handler):
            pytest.skip(f"{cls.__name__} keeps no state")
        handle = bus.attach(handler)
        if is_moved:
            attach_after_an_epoch(bus, handler, leaving=handle)
        ends.append(ended(handler, bus))
    (still_state, still), (moved_state, moved) = ends
    assert alike(moved_state, still_state)
    assert moved == still


def attach_after_an_epoch(bus: EventBus, handler: Any, leaving: Handle | None = None) -> None:
    @bus.once("epoch_finished", priority=Priority.PERSIST - 1)
    def move() -> None:
        if leaving is not None:
            leaving.detach()
        bus.attach(handler)
