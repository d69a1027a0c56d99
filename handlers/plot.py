"""The curves of a run as a picture that is always up to date."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eventbus import Event, Priority, at_most_every, handles, on_rank
from eventbus.handlers._appending import Mark, keep_aside, kept_aside, mark_of, replace
from eventbus.handlers._arguments import When
from eventbus.handlers._curves import Curves
from eventbus.handlers._one_run import OfOneRun
from eventbus.handlers._paths import RunNames, check_folder, file_given, path_of_run
from eventbus.handlers._requires import require
from eventbus.handlers._waits_for_epochs import WaitsForEpochs

__all__ = ["Plot"]

_SUFFIXES = (".png", ".svg", ".pdf")
_BY_STEPS = 'History(on="batch_finished", when=every(100)), and draw its plot()'


class Plot(OfOneRun):
    """Draws the metrics of each epoch into one picture file.

    The file is replaced at once: whoever opens it sees a whole picture. No display and no pyplot.
    The picture of another run that is there already is kept as `name.1.png`, `name.2.png` and so
    on, the latest with the highest number; a run that resumes replaces it.

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
        Where, ending in `.png`, `.svg` or `.pdf`. `{run}` and `{run_id}` in it become the run's
        name and id.
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

    def __init__(self, path: str | os.PathLike[str], *, when: When | None = None) -> None:
        require("matplotlib.figure", extra="plot", wanted_by="Plot")
        self._template = file_given("Plot", path, such_as="curves.png")
        if Path(self._template).suffix.lower() not in _SUFFIXES:
            kinds = ", ".join(_SUFFIXES)
            raise ValueError(f"a picture's path ends in {kinds}; got {os.fspath(path)!r}")
        self._curves = Curves()
        self._is_drawn = True
        self._resumes = False
        self._own: dict[Path, Mark] = {}  # what this run has drawn
        self._waits = WaitsForEpochs("Plot", ["epoch_finished"], _BY_STEPS)
        due = (at_most_every(30.0) if when is None else when) & on_rank(0)
        mark = handles("epoch_finished", when=due, priority=Priority.REPORT, on_error="isolate")
        self.draw = mark(self.draw)  # type: ignore[method-assign]  # marked with what was asked for

    @handles("run_started", priority=Priority.REPORT + 1, on_error="isolate")
    def start(self, event: Event, resumed_from: str | None = None) -> None:
        """Forget the run before, unless this one resumes."""
        self._waits.start(resumed_from)
        self._resumes = resumed_from is not None
        self._own.clear()
        self._begin_run(event)

    def _start_over(self) -> None:
        self._resumes = False
        self._own.clear()
        self._curves.clear()
        self._is_drawn = True

    @handles("epoch_finished", when=on_rank(0), priority=Priority.REPORT + 1, on_error="isolate")
    def record(self, epoch: int, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Keep the metrics of an epoch. Reading them synchronises with their device."""
        if metrics is not None:
            self._curves.record(epoch, step, metrics)
            self._is_drawn = False

    def draw(self, event: Event) -> None:
        """Write the picture."""
        path = path_of_run("Plot", self._template, RunNames.of(event))
        picture = io.BytesIO()
        self._curves.draw(wanted_by="Plot").savefig(picture, format=path.suffix[1:].lower())
        place = self._place_of(path)
        self._own[path] = replace(place, picture.getvalue())
        self._is_drawn = True

    @handles("run_finished", when=on_rank(0), priority=Priority.REPORT, on_error="isolate")
    def finish(self, epoch: int | None = None, step: int | None = None) -> None:
        """Warn where there was nothing to draw, since the loop has no epochs."""
        self._waits.warn(epoch, step)

    @handles("run_closed", when=on_rank(0), priority=Priority.REPORT, on_error="isolate")
    def close(self, event: Event) -> None:
        """Write the picture once more, where an epoch is not in it yet."""
        if not self._is_drawn:
            self.draw(event)

    def _place_of(self, path: Path) -> Path:
        check_folder("Plot", path.parent)
        own = self._own.get(path)
        if own is not None:  # a run that begins in its place keeps it aside
            asides = (each for each in kept_aside(path) if own == mark_of(each))
            return next(asides, path)
        if not self._resumes:
            keep_aside(path)
        return path

    def state_dict(self) -> dict[str, Any]:
        """Return all rows as plain Python."""
        return self._curves.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the rows of a checkpoint."""
        self._note_given()
        self._curves.restore(state)
        self._is_drawn = False
