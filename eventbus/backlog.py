"""A bounded queue and the one thread that works it off."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Generic, Literal, Protocol, TypeVar

__all__ = ["Backlog", "Overflow", "Runnable"]

Overflow = Literal["block", "drop_oldest", "latest"]


class Runnable(Protocol):
    """What waits in a backlog."""

    def run(self) -> None:
        """Do it; raises nothing."""


T = TypeVar("T", bound=Runnable)


class Backlog(Generic[T]):
    """Tasks in order, at most `size` of them waiting; done on a daemon thread of their own.

    The thread holds nothing but this while it waits for work, so it keeps no bus alive. In a forked
    child, where the thread does not exist and the lock may be held for ever, everything is a no-op.

    Parameters
    ----------
    name
        The thread's.
    size
        How many tasks may wait, besides the one under way.
    overflow
        What gives way to a task for which there is no place.

    Attributes
    ----------
    dropped : int
        How many tasks gave way.
    """

    def __init__(self, name: str, size: int, overflow: Overflow) -> None:
        self.dropped = 0
        self._name = name
        self._size = size
        self._overflow = overflow
        self._waiting: deque[T] = deque()
        self._current: T | None = None
        self._done = 0
        self._gave_up_at = -1
        self._thread: threading.Thread | None = None
        self._leaving = False
        self._pid = os.getpid()
        self._changed = threading.Condition()  # its lock is reentrant: an OS signal may emit too

    @property
    def tasks(self) -> list[T]:
        """The one under way, where there is one, and those that wait."""
        if self._is_elsewhere():
            return []
        with self._changed:
            return [*([] if self._current is None else [self._current]), *self._waiting]

    def put(self, task: T, *, last: bool = False) -> int:
        """Add a task; return how many gave way to it.

        Waits for a place where `overflow` is "block". The thread ends after a `last` one.
        """
        if self._is_elsewhere():
            return 0
        with self._changed:
            given_way = self._make_room()  # dies after the lock is released
            self._leaving = last
            self._start()
            self._waiting.append(task)
            self.dropped += len(given_way)
            self._changed.notify_all()
        return len(given_way)

    def wait(self, timeout_s: float) -> int:
        """Wait until everything is done, at most so long; return how many tasks are left.

        Where waiting was in vain once and nothing has moved since, it does not wait again.
        """
        if self._is_elsewhere() or self._is_own_thread():
            return 0
        with self._changed:
            stuck = self._gave_up_at == self._done
            if not self._changed.wait_for(self._is_idle, 0 if stuck else timeout_s):
                self._gave_up_at = self._done
            return len(self._waiting) + (self._current is not None)

    def end(self) -> None:
        """Have the thread end once everything is done."""
        if self._is_elsewhere():
            return
        with self._changed:
            self._leaving = True
            self._changed.notify_all()

    def _is_elsewhere(self) -> bool:
        return os.getpid() != self._pid

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _is_idle(self) -> bool:
        return not self._waiting and self._current is None

    def _make_room(self) -> list[T]:
        if self._overflow == "block" and not self._is_own_thread():
            self._changed.wait_for(lambda: len(self._waiting) < self._size)
        keep = 0 if self._overflow == "latest" else self._size - 1
        return [self._waiting.popleft() for _ in range(len(self._waiting) - keep)]

    # -- the thread

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task.run()
            self._finished()
            del task  # else it would be held until the next one comes

    def _next(self) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._leaving)
            if not self._waiting:
                self._thread = None
                return None
            self._current = self._waiting.popleft()
            self._changed.notify_all()  # there is a place
            return self._current

    def _finished(self) -> None:
        with self._changed:
            self._current = None
            self._done += 1
            self._changed.notify_all()
