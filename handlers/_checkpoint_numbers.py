"""What the threads of a process share that save in one directory: its numbers, and `latest`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["Numbers", "numbers_of"]


class Numbers:
    """The numbers of the saves in a directory, each of which is drawn once.

    They count the saves in the order in which those were asked for: one that is written beside the
    training may have its name after later ones, and is the older one all the same. A number that is
    drawn for a save that fails is drawn again where it still is the highest.

    Attributes
    ----------
    pointing
        Held by whoever writes `latest`. This lock and the other one may be taken again by who has
        them, since a handler of the system's signals may save as well.

    Examples
    --------
    >>> numbers, on_disk = Numbers(), lambda: 3
    >>> numbers.draw(on_disk), numbers.draw(on_disk)
    (4, 5)
    >>> numbers.give_back(5)
    >>> numbers.newest(on_disk)
    4
    """

    def __init__(self) -> None:
        self.pointing = threading.RLock()
        self._drawing = threading.RLock()
        self._drawn: set[int] = set()

    def newest(self, on_disk: Callable[[], int]) -> int:
        """Return the highest number, of a save that has its name or of one that is to have it."""
        with self._drawing:
            return max(on_disk(), *self._drawn, 0)

    def draw(self, on_disk: Callable[[], int]) -> int:
        """Draw the next number, for a save that begins."""
        with self._drawing:
            number = self.newest(on_disk) + 1
            self._drawn.add(number)
            return number

    def give_back(self, number: int) -> None:
        """The save has its name, or has failed."""
        with self._drawing:
            self._drawn.discard(number)


_of_directories: dict[tuple[int, str], Numbers] = {}
"""By process, since a lock that another thread holds while a process forks stays held in the child;
and by directory."""


def numbers_of(path: Path) -> Numbers:
    """Return the numbers of a directory, the same ones in every thread and by whichever path."""
    key = os.getpid(), os.path.realpath(path)
    return _of_directories.setdefault(key, Numbers())
