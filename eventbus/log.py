"""The bus's logger, `logging.getLogger("eventbus")`, made when there is something to say.

`logging` takes a tenth of the time of `import eventbus`, and most runs have nothing to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["log"]


def log() -> Logger:
    """Return the logger."""
    import logging

    return logging.getLogger("eventbus")
