"""Numbers for emissions, drawn by several threads at once."""

from __future__ import annotations

import itertools
import threading

__all__ = ["Tally"]


class Tally:
    """Gives each emission a number of its own; takes no lock, since an OS signal may emit, too.

    Parameters
    ----------
    drawn
        So many were numbered before, in an earlier life.

    Examples
    --------
    >>> from eventbus.tally import Tally
    >>> tally = Tally(3)
    >>> tally.draw(), tally.drawn
    (4, 4)
    """

    def __init__(self, drawn: int = 0) -> None:
        self._numbers = itertools.count(drawn + 1)
        self._last = {0: drawn}  # of each thread: none overwrites what another one has drawn

    def draw(self) -> int:
        """Return the next number, from 1."""
        number = next(self._numbers)
        self._last[threading.get_ident()] = number
        return number

    @property
    def drawn(self) -> int:
        """How many were numbered."""
        return max(list(self._last.values()))
