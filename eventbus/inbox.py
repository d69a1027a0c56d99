"""Answers from outside an emission: another thread, an OS signal, the user's own code."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Literal

from eventbus.answers import Request, Stop

if TYPE_CHECKING:
    from eventbus.pending import Pending

__all__ = ["Inbox", "Runs"]

Runs = Literal["current", "all"]


class Inbox:
    """A list that only grows. Each emitter remembers how far it has read.

    Giving an answer is one `list.append`, which takes no lock: an OS signal handler runs between
    two bytecodes of the very thread that might hold one.
    """

    def __init__(self) -> None:
        self._answers: list[tuple[Request, Runs]] = []
        self._readers: list[weakref.ref[Pending]] = []
        self.untold: deque[Stop] = deque()
        self.heard = 0
        """So many of them have been heard by a run."""

    def give(self, answer: Request, runs: Runs) -> None:
        """Add one."""
        self._answers.append((answer, runs))
        for ref in list(self._readers):
            reader = ref()
            if reader is not None:
                reader.quiet = False
        if isinstance(answer, Stop):
            self.untold.append(answer)

    def add_reader(self, reader: Pending) -> None:
        """Have a run's pending answers no longer quiet once something is given."""
        self._readers = [ref for ref in self._readers if ref() is not None]
        self._readers.append(weakref.ref(reader))

    def take_untold(self) -> list[Stop]:
        """Return the stops that `stop_requested` has not told of yet, once."""
        told = []
        while self.untold:
            told.append(self.untold.popleft())
        return told

    def since(self, index: int) -> list[Request]:
        """Return those given after the first `index` ones."""
        return [answer for answer, _ in self._answers[index:]]

    def standing(self) -> tuple[Request, ...]:
        """Return those that hold for later runs too."""
        return tuple(answer for answer, runs in self._answers if runs == "all")

    def __len__(self) -> int:
        return len(self._answers)
