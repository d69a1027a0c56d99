"""Saving off the loop's thread: one save at a time, and what becomes of it is never lost."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ._checkpoint_files import SavedCheckpoint
from ._checkpoint_loading import CheckpointError
from ._checkpoint_snapshot import Buffers

__all__ = ["LONGEST_WAIT_S", "Writer"]

LONGEST_WAIT_S = 600.0
"""So long a save that is under way is waited for, by the next one and at the run's end."""

Put = Callable[[Mapping[str, Any]], SavedCheckpoint]
logger = logging.getLogger("eventbus.handlers.checkpoint")

_under_way: set[_Task] = set()


class _Task:
    """One save on a thread of its own."""

    def __init__(self, job: Callable[[], SavedCheckpoint]) -> None:
        self._job = job
        self.saved: SavedCheckpoint | None = None
        self.error: BaseException | None = None
        self.given_up = False
        self.process = os.getpid()
        self._over = threading.Event()
        # A daemon: a disk that hangs must not keep the process, and a half save has no name yet.
        thread = threading.Thread(target=self._work, name="eventbus checkpoint", daemon=True)
        _wait_at_exit()
        _under_way.add(self)
        try:
            thread.start()
        except BaseException:  # it cannot: there is nothing to wait for
            _under_way.discard(self)
            raise

    def wait(self, timeout_s: float) -> bool:
        """Wait so long at most; tell whether it is over."""
        # Not by the thread: before Python 3.13 one whose `join` Ctrl-C cuts passes for dead.
        return self._over.wait(timeout_s)

    def _work(self) -> None:
        try:
            self.saved = self._job()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self.error = error
        finally:
            _under_way.discard(self)
            self._over.set()


@functools.cache
def _wait_at_exit() -> None:
    """Have the end of the process wait, as the end of a run does, where no run was closed."""
    atexit.register(_finish)


def _finish() -> None:
    own = [task for task in _under_way if task.process == os.getpid()]  # others are a parent's
    for task in own:
        if not task.given_up and task.wait(LONGEST_WAIT_S) and task.error is not None:
            logger.error("saving a checkpoint failed: %s", task.error)


class Writer:
    """Copies state on the caller's thread and saves the copy on another.

    In a process that was forked meanwhile there is nothing under way: the save is the parent's.
    """

    def __init__(self, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self.longest_wait_s = longest_wait_s
        self._buffers = Buffers()
        self._task: _Task | None = None
        self._process = os.getpid()

    def start(self, state: Mapping[str, Any], put: Put) -> None:
        """Copy the state and have it saved; the one before must have been settled."""
        self._leave_parent()
        snapshot = self._buffers.copy(state)
        self._task = _Task(lambda: put(snapshot.wait()))

    @property
    def has_given_up(self) -> bool:
        """Whether the save under way was waited for in vain; it is not waited for again."""
        return self._task is not None and self._task.given_up

    def settle(self, directory: str | Path, *, wait: bool) -> SavedCheckpoint | None:
        """Return what has been saved since the last time, and None where nothing has.

        Raises
        ------
        CheckpointError
            It is still under way after the longest wait, or was when that had passed.
        BaseException
            What saving it raised.
        """
        if self._task is None:  # nearly always, and asked after each step
            return None
        self._leave_parent()
        task = self._task
        if task is None:
            return None
        if not task.wait(self.longest_wait_s if wait and not task.given_up else 0.0):
            if wait:
                self._give_up(task, directory)
            return None
        self._task = None
        if task.error is not None:
            raise task.error
        return task.saved

    def _give_up(self, task: _Task, directory: str | Path) -> NoReturn:
        task.given_up = True
        text = f"a checkpoint in {directory} is still not written after {self.longest_wait_s:g} s"
        # What the run has failed of before, this very wait perhaps, is not the cause of it.
        raise CheckpointError(text, path=Path(directory)) from None

    def close(self) -> None:
        """Give the memory back; a save that hangs is left to its thread."""
        self._task = None
        self._buffers = Buffers()

    def _leave_parent(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self.close()
