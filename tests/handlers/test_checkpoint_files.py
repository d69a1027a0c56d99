"""A directory of checkpoints, with the process dying and the disk failing at every operation.

Death (T01), leftovers (T02), the disk (T05), `latest` (T07), one step saved twice (T08).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus.handlers import _checkpoint_attempts
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._checkpoint_loading import CheckpointError
from eventbus.handlers._files import Files

from .saving import (
    CHANGES,
    Died,
    Failing,
    another_process,
    draft,
    leave_unfinished,
    newest_step,
    state,
    unfinished,
)


def save(folder: Folder, step: int) -> Path:
    """Do what a save does: commit, point, delete the one before."""
    before = folder.saved()
    saved = folder.commit(draft(step), state(step))
    folder.point_latest(saved)
    for superseded in before:
        folder.remove(superseded)
    return saved.path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run", Files())


def changes_of_a_save(path: Path) -> int:
    counting = Failing(0, Died())
    save(Folder(path, Files()), 10)
    save(Folder(path, counting), 20)
    return counting.count


def every_failpoint(path: Path) -> Iterator[tuple[int, Path]]:
    total = changes_of_a_save(path / "counted")
    assert total > 15
    for at in range(1, total + 1):
        yield at, path / str(at)


# -- what a save leaves


def test_commit_writes_state_and_manifest_under_one_name(folder: Folder) -> None:
    path = save(folder, 10)
    assert path.name == "step-00000010-0001"
    assert sorted(entry.name for entry in path.iterdir()) == ["manifest.json", "state.pt"]
    assert (folder.path / "latest").read_text() == "step-00000010-0001\n"
    assert newest_step(folder.path) == 10


def test_saves_of_the_same_step_stay_apart(folder: Folder) -> None:
    first = folder.commit(draft(10), state(10))
    second = folder.commit(draft(10), state(10))
    assert (first.path.name, second.path.name) == ("step-00000010-0001", "step-00000010-0002")


def test_newest_is_what_was_saved_last_not_the_highest_step(folder: Folder) -> None:
    folder.commit(draft(30), state(30))
    folder.commit(draft(20), state(20))
    assert newest_step(folder.path) == 20


def test_order_is_numeric_beyond_the_width_of_a_name(folder: Folder) -> None:
    for step in (9_000, 10_000, 200_000_000):
        folder.commit(draft(step), state(step))
    (folder.path / "step-00000001-9999").mkdir()
    folder.commit(draft(5), state(5))
    folder.commit(draft(6), state(6))
    assert [s.manifest.step for s in folder.saved()] == [9_000, 10_000, 200_000_000, 5, 6]


def test_number_taken_by_another_process_is_passed(folder: Folder) -> None:
    class Racing(Files):
        def rename(self, source: Path, target: Path) -> None:
            if target.name == "step-00000010-0001":
                target.mkdir()
                (target / "state.pt").touch()
            super().rename(source, target)

    saved = Folder(folder.path, Racing()).commit(draft(10), state(10))
    assert (saved.sequence, saved.path.name) == (2, "step-00000010-0002")


class Recording(Files):
    """A file system that tells in which order it was changed."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in CHANGES:
            self.told.append(name)
        return super().__getattribute__(name)


def test_save_reaches_the_disk_before_it_has_a_name_and_deletes_last(folder: Folder) -> None:
    save(folder, 10)
    files = Recording()
    save(Folder(folder.path, files), 20)
    order = [name for name, _ in itertools.groupby(files.told)]
    write_file = ["create", "write", "fsync"]
    assert order == [
        "makedirs",
        "mkdir",
        *write_file,  # the state
        *write_file,  # the manifest
        "fsync_directory",
        "rename",
        "fsync_directory",
        *write_file,  # latest
        "replace",
        "fsync_directory",
        "rename",  # only now the one before loses its name
        "unlink",
        "rmdir",
    ]


# -- death


def test_death_at_any_operation_leaves_the_previous_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for at, path in every_failpoint(tmp_path):
        save(Folder(path, Files()), 10)
        with pytest.raises(Died):
            save(Folder(path, Failing(at, Died(), for_good=True)), 20)
        step = newest_step(path)
        seen.add(step)
        assert step in (10, 20), f"operation {at}"
        assert (path / (path / "latest").read_text().strip() / "manifest.json").exists()
        another_process(monkeypatch)
        save(Folder(path, Files()), 30)
        assert newest_step(path) == 30
        assert unfinished(path) == []
    assert seen == {10, 20}


def test_death_in_the_very_first_save_leaves_nothing_or_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 15):
        path = tmp_path / str(at)
        with pytest.raises(Died):
            save(Folder(path, Failing(at, Died(), for_good=True)), 10)
        assert newest_step(path) in (None, 10), f"operation {at}"
        another_process(monkeypatch)
        save(Folder(path, Files()), 20)
        assert newest_step(path) == 20
        assert unfinished(path) == []


def test_attempt_of_a_dead_process_is_swept(folder: Folder) -> None:
    leave_unfinished(folder.path)
    folder.sweep()
    assert unfinished(folder.path) == []


@pytest.mark.parametrize(
    "name",
    [
        f".unfinished-10-1-00000000-{os.getpid()}-0123abcd",  # of another machine
        f".unfinished-10-1-{_checkpoint_attempts._HOST}-{os.getppid()}-0123abcd",  # alive
        ".unfinished-notes",
        "unfinished",
    ],
    ids=["elsewhere", "alive", "no writer", "visible"],  # the names differ between processes
)
def test_what_may_be_alive_or_not_ours_is_not_swept(folder: Folder, name: str) -> None:
    (folder.path / name).mkdir(parents=True)
    save(folder, 10)  # of the same step as the leftover
    assert (folder.path / name).is_dir()
    assert newest_step(folder.path) == 10


def test_attempt_under_way_in_this_process_is_not_swept(folder: Folder) -> None:
    class Sweeping(Files):
        def rename(self, source: Path, target: Path) -> None:
            folder.sweep()  # as a second checkpoint handler in another thread would
            super().rename(source, target)

    Folder(folder.path, Sweeping()).commit(draft(10), state(10))
    assert newest_step(folder.path) == 10


def test_abandoned_attempt_that_holds_something_else_is_kept(folder: Folder) -> None:
    name = folder.path / f".unfinished-10-1-{_checkpoint_attempts._HOST}-{os.getpid()}-0123abcd"
    name.mkdir(parents=True)
    (name / "thesis.tex").touch()
    folder.sweep()
    assert (name / "thesis.tex").exists()


# -- a failing disk


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES]
)
def test_failing_disk_leaves_the_previous_intact(tmp_path: Path, code: int) -> None:
    failures = 0
    for at, path in every_failpoint(tmp_path):
        save(Folder(path, Files()), 10)
        failing = Folder(path, Failing(at, OSError(code, os.strerror(code))))
        try:
            save(failing, 20)
        except CheckpointError as error:
            message = str(error)
        else:
            continue  # it befell the deleting of the one before, which is only told
        failures += 1
        assert str(path) in message
        assert os.strerror(code) in message
        assert unfinished(path) == [], f"operation {at}"
        assert newest_step(path) in (10, 20)
    assert failures > 10


def test_disk_that_fails_for_good_leaves_the_previous_and_what_is_left_is_swept_later(
    tmp_path: Path,
) -> None:
    broken = OSError(errno.EROFS, os.strerror(errno.EROFS))
    for at, path in itertools.islice(every_failpoint(tmp_path), 0, None, 3):
        save(Folder(path, Files()), 10)
        with contextlib.suppress(CheckpointError):
            save(Folder(path, Failing(at, broken, for_good=True)), 20)
        assert newest_step(path) in (10, 20), f"operation {at}"
        save(Folder(path, Files()), 30)
        assert newest_step(path) == 30
        assert unfinished(path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupt_at_any_operation_leaves_no_half(tmp_path: Path, error: BaseException) -> None:
    for at, path in every_failpoint(tmp_path):
        save(Folder(path, Files()), 10)
        with pytest.raises(type(error)):
            save(Folder(path, Failing(at, error)), 20)
        assert newest_step(path) in (10, 20)
        Folder(path, Files()).sweep()
        assert unfinished(path) == []


def test_superseded_checkpoint_that_cannot_be_deleted_is_told(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    saved = folder.commit(draft(10), state(10))
    Folder(folder.path, Failing(1, OSError(errno.EACCES, "Permission denied"))).remove(saved)
    assert "is not deleted: Permission denied" in caplog.text
    assert newest_step(folder.path) == 10


def test_checkpoint_with_a_file_of_someone_else_is_kept(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    saved = folder.commit(draft(10), state(10))
    (saved.path / "notes.txt").write_text("the good one")
    folder.remove(saved)
    assert (saved.path / "notes.txt").exists()
    assert "is kept, for it holds notes.txt" in caplog.text


def test_manifest_that_was_read_cannot_be_changed_for_later_readers(folder: Folder) -> None:
    folder.commit(draft(10), state(10))
    with pytest.raises(TypeError, match="take a copy"):
        folder.saved()[0].manifest.metrics.update(loss=0.0)  # type: ignore[attr-defined]  # on purpose
    assert folder.saved()[0].manifest.metrics == draft(10).metrics


@pytest.mark.parametrize(("idle_h", "is_swept"), [(0, False), (23, False), (25, True)])
def test_work_of_a_container_with_the_same_hostname_is_swept_when_it_is_a_day_old(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, idle_h: float, is_swept: bool
) -> None:
    monkeypatch.setattr(Path, "readlink", lambda path: Path("pid:[1]"))
    other = _checkpoint_attempts._machine()
    work = folder.path / f".unfinished-10-1-{other}-{os.getpid()}-0123abcd"
    work.mkdir(parents=True)
    written_at_s = work.stat().st_mtime - 3600 * idle_h
    os.utime(work, (written_at_s, written_at_s))
    for step in (10, 20):  # the second save is a while after the first one
        folder.commit(draft(step), state(step))
    assert work.exists() != is_swept
