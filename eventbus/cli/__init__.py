"""The command `eventbus`: the application on top of bus, handlers and loops.

typer and rich are needed here only, and imported when the command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_LIBRARIES = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Parameters
    ----------
    arguments
        As typed after `eventbus`; those of the process if None.

    Returns
    -------
    int
        0: done. 1: typer or rich is not installed. 2: a mistake of the caller's, said in one line.
        130: Ctrl-C. 141: nobody reads the output any more.

    Examples
    --------
    >>> from eventbus.cli import main
    >>> main(["--version"])  # doctest: +ELLIPSIS
    eventbus ...
    0
    """
    try:
        from eventbus.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        need = f"eventbus: the command needs {error.name}: pip install 'training-eventbus[cli]'"
        print(need, file=sys.stderr)
        return 1
    return run(sys.argv[1:] if arguments is None else list(arguments))
