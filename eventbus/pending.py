"""The answers that a run has been given and not served yet."""

from __future__ import annotations

from eventbus.answers import Answer, Answers, Request, Stop
from eventbus.inbox import Inbox

__all__ = ["Pending"]


class Pending:
    """Accumulates answers; none is overwritten or taken back before its span has ended.

    Parameters
    ----------
    inbox
        Where answers from outside emissions arrive; those given before this was made are heard
        only where they hold for all runs.
    outer
        The pending answers of the run that this one is inside of: its stops are pending here too.

    Attributes
    ----------
    quiet : bool
        True only where nothing is pending and nothing unread; one look spares the rest.
    """

    __slots__ = ("__weakref__", "_answers", "_inbox", "_outer", "_read", "quiet")

    quiet: bool

    def __init__(self, inbox: Inbox, outer: Pending | None = None) -> None:
        self._inbox = inbox
        self._outer = outer
        self._read = len(inbox)
        self._set(inbox.standing())
        inbox.add_reader(self)

    @property
    def answers(self) -> Answers:
        """All that are pending now."""
        if self._read != len(self._inbox):
            self._merge()
        if self._outer is None:
            return self._answers
        return self._with_stops(self._outer.answers)

    def accept(self, answer: Request) -> None:
        """Make an answer pending."""
        self._set((*self._answers.pending, answer))

    def begin(self, kinds: tuple[type[Answer], ...]) -> None:
        """A span begins: drop what is left from the one before; what came meanwhile is for it."""
        if self._answers.pending:
            self._set(tuple(a for a in self._answers.pending if self._stays(a, kinds)))

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
        new = self._inbox.since(self._read)
        self._read += len(new)
        self._set((*self._answers.pending, *new))

    def _with_stops(self, outer: Answers) -> Answers:
        own = self._answers
        stops = tuple(a for a in outer.pending if isinstance(a, Stop) and a not in own.pending)
        return Answers(own.pending + stops) if stops else own

    def _set(self, pending: tuple[Request, ...]) -> None:
        self._answers = Answers(pending) if pending else Answers.NONE
        # Set first, looked at after: an answer given meanwhile by another thread is not missed.
        self.quiet = not pending and self._outer is None
        if self._read != len(self._inbox):
            self.quiet = False
