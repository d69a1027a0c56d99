"""What is said of a handler on the signals of epochs, in a loop that has steps and no epochs."""

from __future__ import annotations

import logging
from collections.abc import Iterable

__all__ = ["WaitsForEpochs"]

logger = logging.getLogger("eventbus.handlers")


class WaitsForEpochs:
    """Tells at the end of a run that what a handler was waiting for could not come.

    Steps cost nothing for it. A resumed run is not told: it may have had nothing left to do.

    Parameters
    ----------
    owner
        The handler's name, for the message.
    signals
        All that it is on.
    instead
        What to write.

    Examples
    --------
    >>> from eventbus.handlers._waits_for_epochs import WaitsForEpochs
    >>> waits = WaitsForEpochs("LRSchedule", ["epoch_finished"], 'per="step"')
    >>> waits.warn(epoch=1, step=10), waits.warn(epoch=0, step=0)
    (False, False)
    """

    def __init__(self, owner: str, signals: Iterable[str], instead: str) -> None:
        self._owner, self._signals, self._instead = owner, tuple(signals), instead
        self._resumes = False

    def start(self, resumed_from: str | None) -> None:
        """Note that a run begins."""
        self._resumes = resumed_from is not None

    def warn(self, epoch: int | None, step: int | None) -> bool:
        """Log one warning where the run that ends here trained steps outside of epochs."""
        if self._resumes or epoch != 0 or not step:  # in its first epoch it is in epoch 1
            return False
        if not all(signal.startswith("epoch_") for signal in self._signals):
            return False
        logger.warning(
            "%s never heard %s: the loop has steps and no epochs; write %s",
            self._owner,
            ", ".join(self._signals),
            self._instead,
        )
        return True
