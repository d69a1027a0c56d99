"""How spans end, and how a failure while closing is kept from hiding the failure before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from eventbus.failures import describe_error

__all__ = ["Ending", "described", "noted", "told_to"]

log = logging.getLogger("eventbus.loops")


class Ending(Enum):
    """How the body of a loop came to its end."""

    COMPLETED = auto()
    LEFT = auto()  # by break or return, or because another loop began
    FAILED = auto()


@contextmanager
def noted(cause: BaseException) -> Iterator[None]:
    """Turn an exception raised inside into a note on `cause` and an entry in the log.

    Whatever a handler raises while a run is closing must not hide why it closes. Ctrl-C and
    `SystemExit` pass.
    """
    try:
        yield
    except Exception as error:
        cause.add_note(f"while closing the run, a handler raised {described(error)}")
        log.error("a handler failed while the run was closing", exc_info=error)


@contextmanager
def told_to(fail: Callable[[BaseException], None]) -> Iterator[None]:
    """Have `fail` called with whatever is raised inside, which goes on."""
    try:
        yield
    except BaseException as error:
        fail(error)
        raise


def described(error: BaseException) -> str:
    """Word an exception in one line, whatever its own `__str__` does."""
    return describe_error(error).partition("\n")[0]
