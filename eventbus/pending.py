"""The answers that a run has been given and not served yet."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from eventbus.answers import Answer, Answers, Request, Stop
from eventbus.inbox import Inbox

__all__ = ["Pending"]


class Pending:
    """Accumulates answers; none is overwritten or taken back before its span has ended.

    Parameters
    ----------
    inbox
        Where answers from outside emissions arrive. Those given before this was made are heard
        where they hold for all runs, or where no run has heard them: one that came while none was
        under way is for the next.
    outer
        The pending answers of the run that this one is inside of: its stops are pending here too.

    Attributes
    ----------
    quiet : bool
        True only where nothing is pending and nothing unread; one look spares the rest.
    is_run : bool
        False for what the bus emits of its own: it does not hear answers in a run's place.
    answered : int
        How many answers handlers gave in emissions, and not from elsewhere meanwhile.
    """

    __slots__ = (
        "__weakref__",
        "_given",
        "_inbox",
        "_outer",
        "_read",
        "_reading",
        "answered",
        "is_run",
        "quiet",
    )

    quiet: bool
    is_run: bool
    answered: int

    def __init__(self, inbox: Inbox, outer: Pending | None = None) -> None:
        self._inbox = inbox
        self._outer = outer
        self._read = inbox.heard
        self._given: list[Request] = list(inbox.standing())
        self.is_run = True
        self.answered = 0
        self._reading = threading.Lock()
        self._look()
        inbox.add_reader(self)

    @property
    def answers(self) -> Answers:
        """All that are pending now."""
        if self._read != len(self._inbox):
            self._merge()
        own = Answers(tuple(self._given)) if self._given else Answers.NONE
        return own if self._outer is None else _with_stops(own, self._outer.answers)

    def accept(self, answer: Request) -> None:
        """Make an answer pending."""
        self._given.append(answer)  # in one go: threads that answer at once lose none
        self.quiet = False

    def answer(self, answer: Request) -> None:
        """Make the answer of a handler to an emission under way pending."""
        self.answered += 1
        self.accept(answer)

    def begin(self, kinds: tuple[type[Answer], ...]) -> None:
        """A span begins: drop what is left from the one before; what came meanwhile is for it."""
        for answer in [a for a in self._given if not self._stays(a, kinds)]:
            with suppress(ValueError):  # another thread was faster
                self._given.remove(answer)
        self._look()

    def end(self, kinds: tuple[type[Answer], ...]) -> None:
        """A span has ended: drop what was meant for it."""
        if self._read != len(self._inbox):
            self._merge()
        self.begin(kinds)

    def _stays(self, answer: Request, kinds: tuple[type[Answer], ...]) -> bool:
        if not isinstance(answer, kinds):
            return True
        return isinstance(answer, Stop) and answer in self._inbox.standing()

    def _merge(self) -> None:
        # Never waits: another thread, or what this OS signal interrupted, is reading already.
        if self._reading.acquire(blocking=False):
            try:
                new = self._inbox.since(self._read)
                self._read += len(new)
                self._given.extend(a for a in new if not any(a is held for held in self._given))
                if self.is_run:
                    self._inbox.heard = max(self._inbox.heard, self._read)
            finally:
                self._reading.release()

    def __reduce__(self) -> tuple[Any, ...]:
        from eventbus.inert import inert_pending

        return inert_pending, ()

    def _look(self) -> None:
        # Set first, looked at after: an answer that another thread gives meanwhile is not missed.
        self.quiet = self._outer is None
        if self._given or self._read != len(self._inbox):
            self.quiet = False


def _with_stops(own: Answers, outer: Answers) -> Answers:
    stops = tuple(a for a in outer.pending if isinstance(a, Stop) and a not in own.pending)
    return Answers(own.pending + stops) if stops else own
