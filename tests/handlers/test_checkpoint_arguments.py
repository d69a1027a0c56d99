"""Checkpoint: what it takes, and what it offers without a bus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, EventBusError
from eventbus.handlers import Checkpoint

from .hand_loop import train

# -- without a bus


def test_checkpoint_loads_as_plain_python(tmp_path: Path) -> None:
    checkpoint = train(tmp_path)
    assert checkpoint.last_path is not None
    state = Checkpoint.load(checkpoint.last_path)
    assert type(state) is dict
    assert state["loop"] == {"epoch": 5}
    assert state["model"]["weight"].device.type == "cpu"


def test_saved_lists_oldest_first_and_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    train(tmp_path / "run", keep=None, epochs=2)
    assert [s.sequence for s in Checkpoint.saved(tmp_path / "run")] == [1, 2]
    assert Checkpoint.saved(tmp_path / "none") == []


# -- arguments


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_keep_is_a_count(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(ValueError, match="keep is at least 1, or None for all"):
        Checkpoint(tmp_path, keep=keep)


@pytest.mark.parametrize("keep_best", [0, -1, True, None])
def test_keep_best_is_a_count(tmp_path: Path, keep_best: Any) -> None:
    with pytest.raises(ValueError, match="keep_best is at least 1; got"):
        Checkpoint(tmp_path, keep_best=keep_best)


@pytest.mark.parametrize("resume", [True, None, ""])
def test_resume_is_a_word_or_a_path(tmp_path: Path, resume: Any) -> None:
    with pytest.raises(TypeError, match="resume is 'auto', 'never' or a path"):
        Checkpoint(tmp_path, resume=resume)


@pytest.mark.parametrize("resume", ["yes", "Auto", "always", "auto "])
def test_a_word_that_is_neither_auto_nor_a_directory_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"'auto', 'never' or a path; got {resume!r}"):
        Checkpoint(tmp_path, resume=resume)
    (tmp_path / resume).mkdir()
    Checkpoint(tmp_path, resume=resume)
    Checkpoint(tmp_path, resume=tmp_path / "not there yet")


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("checkpoint_saved", "on='checkpoint_saved' is what each save emits"),
        (("epoch_finished", "state_requested"), "on='state_requested' is what each save emits"),
        ("checkpoint_*", r"on='checkpoint_\*' covers 'checkpoint_saved', which each save emits"),
        ("*", r"on='\*' covers 'checkpoint_saved', which each save emits"),
    ],
)
def test_signal_of_a_save_is_none_to_save_on(tmp_path: Path, on: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"Checkpoint: {said}, .* such as 'epoch_finished'"):
        Checkpoint(tmp_path, on=on)


def test_mode_is_checked(tmp_path: Path) -> None:
    mode: Any = "best"
    with pytest.raises(ValueError, match="mode is 'min' or 'max'"):
        Checkpoint(tmp_path, mode=mode)


def test_second_one_asks_for_a_name(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))
    with pytest.raises(EventBusError, match="name="):
        bus.attach(Checkpoint(tmp_path))
