"""Import a third-party library when a handler is made, or say in one line what to install."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, *, extra: str, wanted_by: str) -> ModuleType:
    """Import `module`, which comes with the extra of that name.

    Parameters
    ----------
    module
        The full name: `"rich.live"`.
    extra
        The extra of this distribution that brings it.
    wanted_by
        Who needs it, as people know it: `"ProgressBar"`.

    Raises
    ------
    ImportError
        It is not installed. A library that is there but broken raises its own error.

    Examples
    --------
    >>> from eventbus.handlers._requires import require
    >>> require("json", extra="json", wanted_by="Example").__name__
    'json'
    >>> require("no_such_library", extra="moon", wanted_by="Example")
    Traceback (most recent call last):
    ...
    ImportError: Example needs no_such_library: pip install 'training-eventbus[moon]'
    """
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        message = f"{wanted_by} needs {library}: pip install 'training-eventbus[{extra}]'"
        raise ImportError(message, name=library) from error
