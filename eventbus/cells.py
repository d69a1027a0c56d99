"""The cell of a notebook that a call comes from, and whether it is one that is run again."""

from __future__ import annotations

import inspect
import sys
from types import CodeType, FrameType

__all__ = ["calling_cell", "is_run_again"]


def calling_cell() -> CodeType | None:
    """Return the code outside of all functions that this is called from: a cell, or a script."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        frame = frame.f_back
    return None if frame is None else frame.f_code


def is_run_again(before: CodeType | None, cell: CodeType | None) -> bool:
    """Tell whether a cell is one that has run before, and not the same run of it.

    A cell is compiled whenever it is run: to code that is equal, and not the same. A loop comes by
    the same code twice.
    """
    if before is None or cell is None or before is cell or before != cell:
        return False
    names = before.co_filename, cell.co_filename
    return len(set(names)) == 1 or all(name.startswith("<ipython-input-") for name in names)
