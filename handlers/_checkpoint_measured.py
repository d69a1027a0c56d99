"""Whether the metric of the best tells of the very weights that are saved."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus import Event
from eventbus.signal_names import covers

from ._monitor import Monitor

__all__ = ["Measured"]


class Measured:
    """Tells metrics that were just measured from the last ones there were.

    A signal that the user chose carries what was measured of the weights as they are. The end of a
    run, which is saved besides, carries the last of each: the model may have been trained since.

    Parameters
    ----------
    monitor
        None where none is best.
    signals
        Those that the user chose.

    Attributes
    ----------
    sparse
        Those of them that tell of an epoch or a validation, and are worth to hear each time.
    """

    def __init__(self, monitor: Monitor | None, signals: Iterable[str]) -> None:
        self._monitor, self._signals = monitor, tuple(signals)
        self.sparse = [
            name
            for name in ("epoch_finished", "validation_done")
            if any(covers(signal, name) for signal in self._signals)
        ]
        self._step: int | None = None

    def forget(self) -> None:
        """Another run begins."""
        self._step = None

    def hear(self, event: Event) -> None:
        """Note at which step the metric came, whether or not a save is due; it is not read."""
        monitor = self._monitor
        if monitor is not None and monitor.notice(event.fields.get("metrics") or {}):
            monitor.seen = True
            self._step = event.fields.get("step")

    def read(self, event: Event) -> str | None:
        """Read the metric on a signal that a save is made on.

        Returns
        -------
        str or None
            Its key, where what the signal carries under it is no news of what is saved: it was
            measured at another step, or the save of that step has it already.
        """
        monitor, step, self._step = self._monitor, self._step, None
        if monitor is None:
            return None
        is_chosen = any(covers(signal, event.name) for signal in self._signals)
        if not is_chosen and (step is None or step != event.fields.get("step")):
            return monitor.metric
        monitor.read(event.fields.get("metrics"))
        return None
