"""Batches that were skipped, for whoever tells of them at the end of an epoch."""

from __future__ import annotations


class Skips:
    """How many batches were skipped since they were told last, and why the first one.

    Examples
    --------
    >>> from eventbus.handlers._skips import Skips
    >>> skips = Skips()
    >>> skips.note("the loss is nan")
    >>> skips.note(None)
    >>> skips.take(), skips.take()
    ('2 batches skipped, the first: the loss is nan', '')
    """

    def __init__(self) -> None:
        self._count = 0
        self._first: str | None = None

    def note(self, reason: str | None) -> None:
        """Count one."""
        if not self._count:
            self._first = reason
        self._count += 1

    def take(self) -> str:
        """Return them in words, nothing where there were none, and forget them."""
        count, first = self._count, self._first
        self._count, self._first = 0, None
        if not count:
            return ""
        told = f"{count} batch{'' if count == 1 else 'es'} skipped"
        which = "" if count == 1 else ", the first"
        return f"{told}{which}: {first}" if first else told
