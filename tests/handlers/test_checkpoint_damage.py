"""Damaged and hostile checkpoints: found before they are unpickled, and passed over (T04)."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._checkpoint_loading import CheckpointError, load_checkpoint
from eventbus.handlers._checkpoint_manifest import Sum, encode
from eventbus.handlers._checkpoint_payload import summed
from eventbus.handlers._files import Files
from eventbus.loops import Run

from .saving import draft, newest_step, state


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run", Files())


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place * 7919 % len(data)] ^= 1 << place % 8
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "one byte": lambda path: cut(path, 1),
    "half": lambda path: cut(path, path.stat().st_size // 2),
    "one byte short": lambda path: cut(path, path.stat().st_size - 1),
    "trailing junk": lambda path: path.write_bytes(path.read_bytes() + b"junk"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "link": link,
    "pipe": pipe,
    "directory": directory,
    "extra file beside it": lambda path: (path.parent / "extra").touch(),
    **{f"flipped bit {n}": functools.partial(flip, place=n) for n in range(100)},
}


OWN_CHECKS = re.compile(
    "does not match|bytes instead of|regular file|is missing|is not in its|manifest is|No such file"
)


@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_by_our_own_sums_and_the_older_one_is_used(
    folder: Folder, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.commit(draft(10), state(10))
    damaged = folder.commit(draft(20), state(20))
    DAMAGE[damage](damaged.path / name)
    # torch's own words in place of these would mean that it was unpickled
    with pytest.raises(CheckpointError, match=OWN_CHECKS) as caught:
        load_checkpoint(damaged.path, Files())
    assert str(damaged.path) in str(caught.value)
    assert newest_step(folder.path) == 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_directory_without_a_manifest_is_no_checkpoint(folder: Folder) -> None:
    (folder.path / "step-00000010-0001").mkdir(parents=True)
    assert folder.saved() == []
    assert newest_step(folder.path) is None


def test_latest_is_never_trusted(folder: Folder) -> None:
    folder.point_latest(folder.commit(draft(10), state(10)))
    for text in ("../elsewhere\n", "step-00000099-0099\n", "\0\xff"):
        (folder.path / "latest").write_text(text)
        assert newest_step(folder.path) == 10


def test_huge_manifest_is_not_read(folder: Folder) -> None:
    saved = folder.commit(draft(10), state(10))
    with (saved.path / "manifest.json").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(CheckpointError, match="larger than"):
        load_checkpoint(saved.path, Files())


# -- malice


class Hostile:
    """Makes a marker file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def plant(path: Path, content: Any, files: dict[str, Sum] | None = None) -> None:
    """Write a checkpoint whose sums are right and whose content is not ours."""
    path.mkdir(parents=True)
    with (path / "state.pt").open("wb") as file:
        torch.save(content, file)
    with (path / "state.pt").open("rb") as file:
        sums = {"state.pt": summed(file)}
    (path / "manifest.json").write_bytes(encode(draft(10, files=files or sums)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda bad: bad,
        lambda bad: {"model": {"weight": bad}},
        lambda bad: {"optimizer": {"state": {0: {"step": [bad]}}}},
    ],
)
def test_hostile_pickle_is_not_run(
    tmp_path: Path, folder: Folder, wrap: Callable[[Any], Any]
) -> None:
    marker = tmp_path / "marker"
    plant(folder.path / "step-00000010-0001", wrap(Hostile(marker)))
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(folder.path / "step-00000010-0001", Files())
    assert not marker.exists()


def test_manifest_that_lists_other_files_is_refused(folder: Folder) -> None:
    path = folder.path / "step-00000010-0001"
    plant(path, {}, files={"other.pt": Sum(1, "0" * 64)})
    with pytest.raises(CheckpointError, match="missing"):
        load_checkpoint(path, Files())


def test_loading_leaves_a_damaged_one_its_name(tmp_path: Path) -> None:
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, best=None, keep=None)
    bus.attach(checkpoint)
    with Run(bus, model=torch.nn.Linear(1, 1)) as run:
        for _ in run.epochs(2):
            pass
    newest = checkpoint.last_path
    assert newest is not None
    (newest / "state.pt").write_bytes(b"broken")
    assert Checkpoint.load(tmp_path)["loop"]["epoch"] == 1
    assert newest.is_dir()
