"""All metrics of a run in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from eventbus import Event, Priority, handles
from eventbus.handlers._arguments import On, When, signals_given
from eventbus.handlers._curves import Curves
from eventbus.handlers._one_run import OfOneRun
from eventbus.handlers._requires import require
from eventbus.handlers._waits_for_epochs import WaitsForEpochs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["History"]


class History(OfOneRun, Mapping[str, list[float]]):
    """Keeps the metrics of each epoch, as a mapping of names to lists.

    Row `i` of every list belongs together: `history["val_loss"][i]` was measured in epoch
    `history.epochs[i]`, after step `history.steps[i]`. All lists are as long as `history.epochs`;
    where a metric was absent (a validation every other epoch) the value is NaN.

    ==================  =====================================================================
    signals consumed    those of `on`, `run_started`, `run_finished`
    values produced     none on the bus
    cost                reads the metrics: one transfer from the device for each row
    state               all rows; starts anew with a run that does not resume
    needs               for `plot` and `to_dataframe` matplotlib and pandas:
                        `pip install 'training-eventbus[plot,pandas]'`
    band, errors        REPORT; isolated
    ==================  =====================================================================

    Parameters
    ----------
    on
        The signals that give a row each. They must carry `metrics`; `epoch` and `step` are 0 where
        one carries none.
    when
        A filter on them.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import History
    >>> bus = EventBus()
    >>> history = History()
    >>> with bus.attach(history):
    ...     _ = bus.emit("epoch_finished", epoch=1, step=10, metrics={"loss": 0.5})
    ...     _ = bus.emit("epoch_finished", epoch=2, step=20, metrics={"loss": 0.4, "val_loss": 0.6})
    >>> history["loss"], history["val_loss"], history.epochs
    ([0.5, 0.4], [nan, 0.6], [1, 2])
    """

    def __init__(self, on: On = ("epoch_finished",), *, when: When | None = None) -> None:
        self._curves = Curves()
        signals, instead = signals_given(on), 'on="batch_finished", when=every(100)'
        self._waits = WaitsForEpochs("History", signals, instead)
        mark = handles(*signals, when=when, priority=Priority.REPORT, on_error="isolate")
        self.record = mark(self.record)  # type: ignore[method-assign]  # marked with what was asked for

    def record(
        self, metrics: Mapping[str, float] | None = None, epoch: int = 0, step: int = 0
    ) -> None:
        """Add a row."""
        if metrics is not None:
            self._curves.record(epoch, step, metrics)

    @handles("run_started", priority=Priority.REPORT + 1, on_error="isolate")
    def start(self, event: Event, resumed_from: str | None = None) -> None:
        """Forget the run before, unless this one resumes."""
        self._waits.start(resumed_from)
        self._begin_run(event)

    def _start_over(self) -> None:
        self._curves.clear()

    @handles("run_finished", priority=Priority.REPORT, on_error="isolate")
    def finish(self, epoch: int | None = None, step: int | None = None) -> None:
        """Warn where there was nothing to keep, since the loop has no epochs."""
        self._waits.warn(epoch, step)

    @property
    def epochs(self) -> list[int]:
        """The epoch of each row, from 1."""
        return self._curves.epochs

    @property
    def steps(self) -> list[int]:
        """The step of each row, from 1."""
        return self._curves.steps

    def __getitem__(self, name: str) -> list[float]:
        try:
            return self._curves.metrics[name]
        except KeyError:
            known = ", ".join(self) or "none yet"
            raise KeyError(f"no metric {name!r} in the history; there are: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._curves.metrics)

    def __len__(self) -> int:
        return len(self._curves.metrics)

    # It is attached, and detached, as the object that it is: not one for another of equal rows.

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a `pandas.DataFrame` with the columns epoch, step, and one for each metric.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        require("pandas", extra="pandas", wanted_by="History.to_dataframe")
        import pandas as pd

        counts = {"epoch": self.epochs, "step": self.steps}
        return pd.DataFrame({**dict(self), **counts}, columns=_columns(counts, self))

    def plot(self) -> Figure:
        """Return a `matplotlib.figure.Figure` of the curves; it needs no display.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        return self._curves.draw(wanted_by="History.plot")

    def state_dict(self) -> dict[str, Any]:
        """Return all rows as plain Python."""
        return self._curves.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the rows of a checkpoint."""
        self._note_given()
        self._curves.restore(state)


def _columns(counts: Mapping[str, object], metrics: History) -> list[str]:
    return [*counts, *(name for name in metrics if name not in counts)]
