"""Lives that every handler has: with them its state changes, and can be cut anywhere (T19)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventbus.state import has_state

from .lives import (
    ARGUMENTS,
    Life,
    Nursery,
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
