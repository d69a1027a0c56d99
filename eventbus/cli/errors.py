"""What a command says when it cannot go on: one line, never a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """A mistake of the caller's; the message is the one line that is shown, the exit code is 2.

    Examples
    --------
    >>> from eventbus.cli.errors import CommandError
    >>> str(CommandError("--epochs is at least 1, got 0"))
    '--epochs is at least 1, got 0'
    """
