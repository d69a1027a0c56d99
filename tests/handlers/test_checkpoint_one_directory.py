"""Several checkpoint handlers that save in one directory, at once: each keeps what is its own."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, Priority, every
from eventbus.handlers import Checkpoint, _checkpoint_attempts
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._checkpoint_loading import CheckpointError
from eventbus.handlers._checkpoint_shelf import Shelf
from eventbus.handlers._files import Files

from .hand_loop import Training, epochs_in, sequence_of
from .saving import CHANGES, draft, newest_step, state, unfinished

BOTH_WAYS = list(itertools.product([False, True], repeat=2))
"""Whether the one handler and the other write beside the training."""


class Between(Files):
    """A file system on which something else is done before the n-th change."""

    def __init__(self, at: int, done: Callable[[], object]) -> None:
        self.at, self.done, self.count = at, done, 0

    def __getattribute__(self, name: str) -> Any:
        if name in CHANGES:
            self.count += 1
            if self.count == self.at:
                self.done()
        return super().__getattribute__(name)


class HeldDisk(Files):
    """A disk that does nothing for other threads than the loop's before it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def scandir(self, path: Path) -> list[os.DirEntry[str]]:
        assert threading.current_thread() is threading.main_thread() or self.go.wait(60)
        return super().scandir(path)


class Keeper:
    """Saves as a handler does that keeps the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shelf = Shelf(keep=1, keep_best=1, monitor=None)
        self.shelf.begin()

    def save(self, step: int, files: Files | None = None) -> None:
        folder = Folder(self.path, files or Files())
        facts = draft(step, id=f"{id(self)}-{step}", series=self.shelf.series)
        self.shelf.put(folder, facts, folder.draw_number(), state(step))

    def is_there(self) -> bool:
        return self.shelf.last_path is not None and self.shelf.last_path.exists()


def two_keepers(path: Path) -> tuple[Keeper, Keeper]:
    """Two that have saved before, where an attempt has failed on a disk that failed for good."""
    one, other = Keeper(path), Keeper(path)
    one.save(10)
    other.save(11)
    left = path / f".unfinished-10-1-{_checkpoint_attempts._HOST}-{os.getpid()}-0123abcd"
    left.mkdir()
    (left / "state.pt").touch()
    return one, other


def changes_of_a_save(path: Path) -> int:
    counting = Between(0, lambda: None)
    two_keepers(path)[0].save(20, counting)
    assert counting.count > 20
    return counting.count


def steps_in(path: Path) -> list[int | None]:
    return [saved.manifest.step for saved in Checkpoint.saved(path)]


def latest(path: Path) -> str:
    return (path / "latest").read_text().strip()


# -- at every operation


@pytest.mark.parametrize("steps", [(21, 22), (20, 20)], ids=["later steps", "the same step"])
def test_saves_of_another_handler_at_any_operation_of_one_leave_both_what_they_keep(
    steps: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for at in range(1, changes_of_a_save(tmp_path / "counted") + 1):
        path = tmp_path / str(at)
        one, other = two_keepers(path)
        one.save(20, Between(at, lambda other=other: [other.save(step) for step in steps]))  # type: ignore[misc]  # called before the next round
        assert steps_in(path) == [20, steps[-1]], f"operation {at}"
        assert [saved.sequence for saved in Checkpoint.saved(path)] == [3, 5]
        assert latest(path) == Checkpoint.saved(path)[-1].path.name
        assert newest_step(path) == steps[-1]
        assert (one.is_there(), other.is_there()) == (True, True)
        assert unfinished(path) == []
    assert caplog.text == ""


@pytest.mark.parametrize("step", [20, 21])
def test_failure_at_any_operation_leaves_what_another_handler_saves_meanwhile(
    step: int, tmp_path: Path
) -> None:
    for at in range(1, changes_of_a_save(tmp_path / "counted") + 1):
        path = tmp_path / str(at)
        one, other = two_keepers(path)

        def fail(other: Keeper = other) -> None:
            other.save(step)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with contextlib.suppress(CheckpointError):  # what befalls the deleting is only told
            one.save(20, Between(at, fail))
        assert other.is_there(), f"operation {at}"
        assert one.is_there()
        assert (path / latest(path) / "manifest.json").exists()
        one.save(30)
        other.save(31)
        assert steps_in(path)[-2:] == [30, 31]
        assert unfinished(path) == []


def test_number_of_a_save_that_fails_is_given_again(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(CheckpointError):
        keeper.save(10, Between(5, fail))
    keeper.save(20)
    assert [saved.sequence for saved in Checkpoint.saved(tmp_path)] == [1]


def test_directory_has_the_same_numbers_by_another_path(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path / "run", target_is_directory=True)
    numbers = [Folder(tmp_path / name, Files()).draw_number() for name in ("run", "linked", "run")]
    assert numbers == [1, 2, 3]


# -- in a run


def both(path: Path, asynchronous: tuple[bool, bool], **arguments: Any) -> EventBus:
    """A handler for the best, which saves rarely, and one to go on from."""
    bus = EventBus()
    rarely, often = (
        Checkpoint(path, keep=1, asynchronous=asynchronous[0], when=every(2), **arguments),
        Checkpoint(path, keep=1, asynchronous=asynchronous[1], best=None, **arguments),
    )
    bus.attach(rarely, name="rarely")
    bus.attach(often, name="often")
    return bus


@pytest.mark.parametrize("asynchronous", BOTH_WAYS)
@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 4]])
def test_run_with_two_handlers_of_one_directory_goes_on_and_each_keeps_its_own(
    cuts: list[int], asynchronous: tuple[bool, bool], tmp_path: Path
) -> None:
    losses = sequence_of([5, 1, 4, 3, 2, 6])
    for cut in cuts:
        bus = both(tmp_path, asynchronous, resume="auto")
        assert Training(bus).run(6, losses, fail_after=cut).epoch == cut
        assert steps_in(tmp_path)[-1] == 10 * cut
    resumed = Training(both(tmp_path, asynchronous, resume="auto")).run(6, losses)
    assert torch.equal(resumed.weight, Training(EventBus()).run(6, losses).weight)
    assert epochs_in(tmp_path) == [2, 6, 6]
    assert [saved.manifest.best is None for saved in Checkpoint.saved(tmp_path)].count(True) == 1
    assert unfinished(tmp_path) == []


@pytest.mark.parametrize("asynchronous", BOTH_WAYS)
def test_runs_in_several_threads_save_in_one_directory(
    asynchronous: tuple[bool, bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(Training(both(tmp_path, asynchronous), run=name).run, 20)
            for name in ("a", "b")
        ]
        assert [run.result(60).epoch for run in runs] == [20, 20]
    saved = Checkpoint.saved(tmp_path)
    assert sorted(str(one.manifest.run) for one in saved) == ["a", "a", "b", "b"]
    assert {one.manifest.epoch for one in saved} == {20}
    assert len({one.sequence for one in saved}) == 4
    assert latest(tmp_path) == saved[-1].path.name
    assert caplog.text == ""


def test_newest_is_what_was_to_be_saved_last_though_it_was_written_first(tmp_path: Path) -> None:
    bus = EventBus()
    slow = Checkpoint(tmp_path, on="asked_slowly", best=None, asynchronous=True)
    slow.files = disk = HeldDisk()
    bus.attach(slow, name="slow")
    bus.attach(Checkpoint(tmp_path, on="asked_quickly", best=None), name="quick")
    training = Training(bus)
    bus.on("state_requested")(training.give)
    training.loop.emit("asked_slowly", epoch=1, step=10)
    training.loop.emit("asked_quickly", epoch=2, step=20)
    assert latest(tmp_path) == "step-00000020-0002"
    disk.go.set()
    training.loop.emit("run_closed", outcome="completed")
    assert steps_in(tmp_path) == [10, 20]
    assert latest(tmp_path) == "step-00000020-0002"


def test_run_that_is_over_is_not_gone_on_from_by_what_another_handler_was_still_writing(
    tmp_path: Path,
) -> None:
    bus, disk = EventBus(), HeldDisk()
    slow = Checkpoint(tmp_path, best=None, asynchronous=True, resume="auto")
    slow.files = disk
    bus.attach(Checkpoint(tmp_path, when=every(2), best=None, resume="auto"), name="closed first")
    bus.on("run_closed", priority=Priority.PERSIST)(disk.go.set)
    bus.attach(slow, name="slow")
    training = Training(bus)
    bus.on("state_requested")(training.give)
    training.loop.emit("run_opened")
    training.loop.emit("epoch_finished", epoch=1, step=10)
    training.loop.emit("run_closed", outcome="completed")
    assert steps_in(tmp_path) == [10]
    assert bus.bind(sender="train").emit("run_opened").restored is None
