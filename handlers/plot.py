"""The curves of a run as a picture that is always up to date."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eventbus import Filter, Priority, at_most_every, handles, on_rank
from eventbus.handlers._appending import replace
from eventbus.handlers._arguments import path_given
from eventbus.handlers._curves import Curves
from eventbus.handlers._requires import require
from eventbus.handlers._run_file import path_of_run
from eventbus.handlers._waits_for_epochs import WaitsForEpochs

__all__ = ["Plot"]

_SUFFIXES = (".png", ".svg", ".pdf")
_BY_STEPS = 'History(on="batch_finished", when=every(100)), and draw its plot()'


class Plot:
    """Draws the metrics of each epoch into one picture file.

    The file is replaced at once: whoever opens it sees a whole picture. No display and no pyplot.

    ==================  =====================================================================
    signals consumed    `epoch_finished`, `run_started`, `run_finished`, `run_closed`
    values produced     a file
    cost                reads the metrics each epoch: one transfer from the device; a drawing takes
                        some tenths of a second, when it is due and once at the end
    state               all rows; starts anew with a run that does not resume
    needs               matplotlib: `pip install 'training-eventbus[plot]'`
    band, errors        REPORT; isolated; rank 0 draws
    ==================  =====================================================================

    Parameters
    ----------
    path
        Where, ending in `.png`, `.svg` or `.pdf`. `{run_id}` in it is replaced by the run's.
    when
        A filter on `epoch_finished` that says when to draw: `every(5)` epochs.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The path does not say which kind of picture.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from eventbus import EventBus, every
    >>> from eventbus.handlers import Plot
    >>> bus, path = EventBus(), Path(tempfile.mkdtemp()) / "curves.png"
    >>> with bus.attach(Plot(path, when=every(2))):
    ...     for epoch, loss in enumerate([0.9, 0.5, 0.4], start=1):
    ...         _ = bus.emit("epoch_finished", epoch=epoch, step=10 * epoch, metrics={"loss": loss})
    >>> path.read_bytes()[1:4]
    b'PNG'
    """

    def __init__(self, path: str | os.PathLike[str], *, when: Filter | None = None) -> None:
        require("matplotlib.figure", extra="plot", wanted_by="Plot")
        self._template = path_given("Plot", path)
        if Path(self._template).suffix.lower() not in _SUFFIXES:
            kinds = ", ".join(_SUFFIXES)
            raise ValueError(f"a picture's path ends in {kinds}; got {os.fspath(path)!r}")
        self._curves = Curves()
        self._is_drawn = True
        self._waits = WaitsForEpochs("Plot", ["epoch_finished"], _BY_STEPS)
        due = (at_most_every(30.0) if when is None else when) & on_rank(0)
        mark = handles("epoch_finished", when=due, priority=Priority.REPORT, on_error="isolate")
        self.draw = mark(self.draw)  # type: ignore[method-assign]  # marked with what was asked for

    @handles("run_started", priority=Priority.REPORT + 1, on_error="isolate")
    def start(self, resumed_from: str | None = None) -> None:
        """Forget the run before, unless this one resumes."""
        self._waits.start(resumed_from)
        if resumed_from is None:
            self._curves.clear()

    @handles("epoch_finished", when=on_rank(0), priority=Priority.REPORT + 1, on_error="isolate")
    def record(self, epoch: int, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Keep the metrics of an epoch. Reading them synchronises with their device."""
        if metrics is not None:
            self._curves.record(epoch, step, metrics)
            self._is_drawn = False

    def draw(self, run_id: str | None = None) -> None:
        """Write the picture."""
        path = path_of_run(self._template, run_id)
        picture = io.BytesIO()
        self._curves.draw(wanted_by="Plot").savefig(picture, format=path.suffix[1:].lower())
        replace(path, picture.getvalue())
        self._is_drawn = True

    @handles("run_finished", when=on_rank(0), priority=Priority.REPORT, on_error="isolate")
    def finish(self, epoch: int | None = None, step: int | None = None) -> None:
        """Warn where there was nothing to draw, since the loop has no epochs."""
        self._waits.warn(epoch, step)

    @handles("run_closed", when=on_rank(0), priority=Priority.REPORT, on_error="isolate")
    def close(self, run_id: str | None = None) -> None:
        """Write the picture once more, where an epoch is not in it yet."""
        if not self._is_drawn:
            self.draw(run_id)

    def state_dict(self) -> dict[str, Any]:
        """Return all rows as plain Python."""
        return self._curves.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the rows of a checkpoint."""
        self._curves.restore(state)
        self._is_drawn = False
