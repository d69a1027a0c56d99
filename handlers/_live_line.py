"""One line at the bottom of a terminal, redrawn in place, that never ends a run.

While it is shown, what is printed and logged to the same terminal appears above it. A terminal that
goes away (a closed stream, a broken pipe, a lost connection) ends the line, quietly.
"""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.live import Live

__all__ = ["Beside", "LiveLine"]

_HOOK = "on_broken_pipe"


class Beside:
    """Parts in one line, a space between them; the terminal's edge crops it.

    rich's own table would do it too, in three times the time: it measures its columns.
    """

    def __init__(self, *parts: RenderableType) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for index, part in enumerate(self._parts):
            if index:
                yield Segment(" ")
            yield from console.render(part, options)


class LiveLine:
    """A line on a console of rich.

    Parameters
    ----------
    console
        Where; standard error, whatever that is when the line is opened, unless given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._given = console
        self._console: Console | None = None
        self._live: Live | None = None
        self._moved: list[tuple[logging.StreamHandler[Any], Any]] = []

    @property
    def is_open(self) -> bool:
        """Whether it is shown."""
        return self._live is not None

    @property
    def width(self) -> int:
        """Cells across the terminal; 0 while it is not shown."""
        return self._live.console.width if self._live is not None else 0

    def open(self) -> bool:
        """Show it where there is a terminal; tell whether there is."""
        from rich.console import Console
        from rich.live import Live

        self.close()
        console = Console(stderr=True) if self._given is None else self._given
        if not _is_terminal(console, forced=self._given is not None):
            return False
        _Hush.on(console)
        self._console = console
        streams = sys.stdout, sys.stderr
        self._live = live = Live(
            console=console,
            auto_refresh=False,  # no thread
            redirect_stdout=_isatty(sys.stdout),  # into a file or a pipe, it is not in the way
            redirect_stderr=_isatty(sys.stderr),
        )
        atexit.register(self.close)  # a loop that dies without run_closed: give the cursor back
        with self._giving_up():
            live.start()
            self._move_logging(dict(zip(streams, (sys.stdout, sys.stderr), strict=True)))
        return self.is_open

    def show(self, line: RenderableType) -> None:
        """Redraw it."""
        if self._live is not None:
            with self._giving_up():
                self._live.update(line, refresh=True)

    def close(self) -> None:
        """Leave the line as it is, and give all streams back; once more does nothing."""
        live, self._live = self._live, None
        if live is None:
            return
        atexit.unregister(self.close)
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []
        # It gives the streams back first. Then it may have nowhere to draw, or, where the terminal
        # went away while rich was starting, no hook to take off.
        with suppress(OSError, ValueError, IndexError):
            live.stop()
        assert self._console is not None
        _Hush.off(self._console)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """End the line where there is nobody to see it any more."""
        assert self._console is not None
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._console.quiet = True
        if self._console.quiet:
            self.close()

    def _move_logging(self, streams: dict[Any, Any]) -> None:
        """Send log lines above it: a `StreamHandler` keeps the stream that it was made with."""
        for handler in _stream_handlers():
            if handler.stream in streams and handler.stream is not streams[handler.stream]:
                self._moved.append((handler, handler.stream))
                handler.setStream(streams[handler.stream])


class _Hush:
    """What a console does on a broken pipe while lines are shown on it: rich raises SystemExit.

    It is put on as an attribute, to leave the class alone; what was there comes back with the last
    of the lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before = console.__dict__.get(_HOOK)
        self._lines = 0

    def __call__(self) -> None:
        self._console.quiet = True

    @classmethod
    def on(cls, console: Console) -> None:
        """Put it on for one more line."""
        held = console.__dict__.get(_HOOK)
        hush = held if isinstance(held, cls) else cls(console)
        hush._lines += 1
        console.__dict__[_HOOK] = hush

    @classmethod
    def off(cls, console: Console) -> None:
        """Take it off for one line; a hook that somebody has put in its place stays."""
        hush = console.__dict__.get(_HOOK)
        if not isinstance(hush, cls):
            return
        hush._lines -= 1
        if hush._lines == 0:
            del console.__dict__[_HOOK]
            if hush._before is not None:
                console.__dict__[_HOOK] = hush._before


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    return [handler for handler in found if type(handler) is logging.StreamHandler]


def _is_terminal(console: Console, *, forced: bool) -> bool:
    if console.is_jupyter:
        return True
    # FORCE_COLOR makes rich take a log file for a terminal.
    return (
        console.is_terminal and not console.is_dumb_terminal and (forced or _isatty(console.file))
    )


def _isatty(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # none at all, or closed
        return False
