"""Which runs are open on a bus, and which thread each of them is in."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus.emitter import Emitter

__all__ = ["OpenRuns"]


class OpenRuns:
    """The runs that are open on one bus.

    A run is in the thread that opened it, and in the last one that went on with it: a program may
    open a run in one and train in another.

    Attributes
    ----------
    emitters : tuple of Emitter
        Whose run is opened and not closed yet, the outermost first.
    """

    def __init__(self) -> None:
        self.emitters: tuple[Emitter, ...] = ()
        self._threads: dict[Emitter, tuple[threading.Thread, ...]] = {}  # opened, goes on with it
        self._lock = threading.RLock()  # an OS signal may open a run within any of this

    def around(self) -> tuple[Emitter, ...]:
        """Return the runs that one opened by this thread is inside of.

        Raises
        ------
        RuntimeError
            One of them is in another thread: nothing here is inside it.
        """
        with self._lock:
            self._refuse_others()
            return self.emitters

    def claim(self, emitter: Emitter) -> None:
        """Have a run that is about to be opened be in this thread.

        Raises
        ------
        RuntimeError
            Another thread has one, or has just claimed it.
        """
        with self._lock:
            self._refuse_others()
            self._threads[emitter] = (threading.current_thread(),)

    def go_on_with(self, emitter: Emitter) -> None:
        """Take note that this thread goes on with a run, whichever has opened it."""
        with self._lock:
            if emitter in self._threads:
                self._threads[emitter] = (self._threads[emitter][0], threading.current_thread())

    def add(self, emitter: Emitter) -> None:
        """Take note that a run is opened, here."""
        with self._lock:
            self._threads[emitter] = (threading.current_thread(),)
            if emitter not in self.emitters:
                self.emitters = (*self.emitters, emitter)

    def remove(self, emitter: Emitter) -> None:
        """Take note that a run is closed, or was not opened after all."""
        with self._lock:
            self._threads.pop(emitter, None)
            self.emitters = tuple(held for held in self.emitters if held is not emitter)

    def renew_lock(self) -> None:
        """Take a new lock, in a forked child where the old one may be held."""
        self._lock = threading.RLock()

    def _refuse_others(self) -> None:
        here = threading.current_thread()
        for emitter, threads in self._threads.items():
            alive = [thread for thread in threads if thread.is_alive()]  # else it was left open
            if alive and here not in alive:
                there = alive[-1].name
                raise RuntimeError(
                    f"run {emitter.sender!r} is open on this bus in thread {there!r}: make a bus "
                    "for each of several Runs at a time, with handlers of its own"
                )
