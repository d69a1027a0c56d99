"""Batches that were skipped, for whoever tells of them at the end of an epoch."""

from __future__ import annotations


class Skips:
    """How many batches were skipped since they were told last, and why the first one.

    One that no handler has skipped, after which no other came, was under way where the loop was
    left, stopped or failed: that is told of by itself.

    Examples
    --------
    >>> from eventbus.handlers._skips import Skips
    >>> skips = Skips()
    >>> skips.note("the loss is nan", by_handler=True)
    >>> skips.note("no labels")
    >>> skips.go_on()
    >>> skips.note("the loop was left")
    >>> skips.take(left=True), skips.take()
    ('2 batches skipped, the first: the loss is nan', '')
    """

    def __init__(self) -> None:
        self._count = 0
        self._first: str | None = None
        self._may_be_left = False

    def note(self, reason: str | None, *, by_handler: bool = False) -> None:
        """Count one."""
        if not self._count:
            self._first = reason
        self._count += 1
        self._may_be_left = not by_handler

    def go_on(self) -> None:
        """Another batch came after it."""
        self._may_be_left = False

    def take(self, *, left: bool = False) -> str:
        """Return them in words, nothing where there were none, and forget them.

        Parameters
        ----------
        left
            The loop over batches was not gone through to its end.
        """
        count, first = self._count - (left and self._may_be_left), self._first
        self._count, self._first, self._may_be_left = 0, None, False
        if not count:
            return ""
        told = f"{count} batch{'' if count == 1 else 'es'} skipped"
        which = "" if count == 1 else ", the first"
        return f"{told}{which}: {first}" if first else told
