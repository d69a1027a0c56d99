"""Checkpoint: one that was moved elsewhere, with a symbolic link of its name in its place."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.handlers import Checkpoint, _checkpoint_attempts
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._checkpoint_loading import CheckpointError
from eventbus.handlers._files import Files

from .hand_loop import Training, epochs_in, train
from .saving import draft, state


def move_away(path: Path, elsewhere: Path) -> Path:
    """Move a checkpoint to another directory, leave a link in its place; return where it is."""
    elsewhere.mkdir(exist_ok=True)
    moved = path.rename(elsewhere / path.name)
    path.symlink_to(moved)
    return moved


def go_on(directory: Path, epochs: int, **arguments: object) -> Training:
    bus = EventBus()
    bus.attach(Checkpoint(directory, resume="auto", **arguments))  # type: ignore[arg-type]  # as they are given
    return Training(bus).run(epochs)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints, of which the newest is the best."""
    train(tmp_path / "run", epochs=3, keep=None)
    return tmp_path / "run"


# -- reading


def test_run_goes_on_from_one_that_was_moved_away(run: Path, tmp_path: Path) -> None:
    newest = run / "step-00000030-0003"
    move_away(newest, tmp_path / "large")
    assert go_on(run, 4).resumed_from == str(newest)
    assert epochs_in(run)[-2:] == [3, 4]
    assert (run / "latest").read_text() == "step-00000040-0004\n"


def test_one_that_was_moved_away_is_loaded_and_listed(run: Path, tmp_path: Path) -> None:
    newest = run / "step-00000030-0003"
    move_away(newest, tmp_path / "large")
    assert Checkpoint.saved(run)[-1].path == newest
    for path in (run, newest):
        assert Checkpoint.load(path)["loop"]["epoch"] == 3
        assert Checkpoint.weights(path).keys() == {"weight"}


def test_directory_of_checkpoints_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    resumed = go_on(tmp_path / "link", 4)
    assert resumed.resumed_from == str(tmp_path / "link" / "step-00000030-0003")
    assert Checkpoint.load(run)["loop"]["epoch"] == 4


def test_link_that_leads_nowhere_is_told_once_and_passed_over(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = move_away(run / "step-00000030-0003", tmp_path / "large")
    moved.rename(tmp_path / "unmounted")
    assert go_on(run, 3).resumed_from == str(run / "step-00000020-0002")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"passed over, an older one is tried: checkpoint {run}" in warnings[0]
    assert warnings[0].endswith(f"it is a link to {moved}, and no directory is there")
    (tmp_path / "unmounted").rename(moved)
    assert [saved.sequence for saved in Checkpoint.saved(run)][-2:] == [3, 4]


def test_link_to_a_file_is_passed_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (run / "step-00000040-0004").symlink_to(tmp_path / "notes.txt")
    assert go_on(run, 3).resumed_from == str(run / "step-00000030-0003")


def test_link_that_cannot_be_followed_is_not_passed_over(run: Path) -> None:
    (run / "step-00000040-0004").symlink_to(run / "step-00000040-0004")
    with pytest.raises(CheckpointError, match="Too many levels of symbolic links"):
        go_on(run, 4)


# -- nothing behind a link is deleted or renamed


def test_superseded_one_that_was_moved_away_is_kept_and_told_once(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "step-00000020-0002"
    moved = move_away(path, tmp_path / "large")
    go_on(run, 6, keep=1)
    assert epochs_in(run) == [2, 6]
    assert path.is_symlink()
    assert Checkpoint.load(moved)["loop"]["epoch"] == 2
    assert caplog.text.count(f"{path} is kept, for it is a link") == 1


def test_damaged_one_that_was_moved_away_is_put_aside_by_its_link(
    run: Path, tmp_path: Path
) -> None:
    moved = move_away(run / "step-00000030-0003", tmp_path / "large")
    (moved / "state.pt").write_bytes(b"")
    go_on(run, 4)
    assert (run / "step-00000030-0003.damaged").readlink() == moved
    assert sorted(entry.name for entry in moved.iterdir()) == ["manifest.json", "state.pt"]


def test_sweeping_follows_no_link(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run", Files())
    elsewhere = Folder(tmp_path / "elsewhere", Files()).commit(draft(10), state(10)).path
    name = f".unfinished-10-1-{_checkpoint_attempts._HOST}-{os.getpid()}-0123abcd"
    folder.path.mkdir()
    (folder.path / name).symlink_to(elsewhere)
    folder.sweep()
    assert Checkpoint.load(elsewhere)["loop"] == {"step": 10}
