"""Whether the metric of the best tells of the very weights that are saved."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus import Event
from eventbus.signal_names import covers

from ._monitor import Monitor

__all__ = ["Measured"]

_MEASURES = ("epoch_finished", "validation_done")


class Measured:
    """Tells metrics that were just measured from the last ones there were.

    A signal that the user chose carries what was measured of the weights as they are. The end of a
    run, which is saved besides, carries the last of each: the model may have been trained since.
    It has not where the metric came at the very step that is saved.

    Parameters
    ----------
    monitor
        None where none is best.
    signals
        Those that the user chose.

    Attributes
    ----------
    signals
        On which the metric may come. Where the user chose the end of epochs, or of validations, a
        `Stop` may be answered to the one before the other comes.
    """

    def __init__(self, monitor: Monitor | None, signals: Iterable[str]) -> None:
        self._monitor, self._chosen = monitor, tuple(signals)
        measures = any(map(self._is_chosen, _MEASURES))
        self.signals = tuple(dict.fromkeys((*self._chosen, *(_MEASURES if measures else ()))))
        self._step: int | None = None

    def forget(self) -> None:
        """Another run begins."""
        self._step = None

    def hear(self, event: Event) -> None:
        """Note at which step the metric came, whether or not a save is due; it is not read."""
        monitor, metrics = self._monitor, event.fields.get("metrics")
        if monitor is None or not metrics:
            return
        if self._is_chosen(event.name):
            monitor.seen |= monitor.notice(metrics)
        if monitor.metric in metrics:
            self._step = event.fields.get("step")

    def read(self, event: Event) -> bool:
        """Read the metric on a signal that a save is made on, where it tells of what is saved.

        Returns
        -------
        bool
            Whether it does: not where it was measured at another step, or the save of that step
            has it already.
        """
        monitor, step, self._step = self._monitor, self._step, None
        if monitor is None:
            return True
        if not self._is_chosen(event.name) and (step is None or step != event.fields.get("step")):
            return False
        monitor.read(event.fields.get("metrics"))
        return True

    def _is_chosen(self, name: str) -> bool:
        return any(covers(signal, name) for signal in self._chosen)
