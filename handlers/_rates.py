"""How far a run has come, how fast it goes, and how long it will take yet.

All on a monotonic clock that is given: a wall clock may be set back, and tests bring their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sized


def size_of(loader: object) -> int | None:
    """Return the number of batches in a loader, or None where it cannot tell."""
    if not isinstance(loader, Sized):
        return None
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # an iterable dataset has no length to give
        return None


def spell(seconds: float) -> str:
    """Write a duration for people: `m:ss`, `h:mm:ss`, or `d days h:mm:ss`.

    Examples
    --------
    >>> from eventbus.handlers._rates import spell
    >>> spell(75), spell(3 * 3600 + 62), spell(90_061)
    ('1:15', '3:01:02', '1d 1:01:01')
    """
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class Throughput:
    """Counts per second since the last time that somebody asked, pauses left out.

    Parameters
    ----------
    monotonic
        The clock, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: float | None = None
        self._clear()

    def resume(self) -> None:
        """Let time count: training goes on."""
        self._since = self._monotonic()

    def pause(self) -> None:
        """Let time not count: a validation is not slow training."""
        if self._since is not None:
            self._elapsed += self._monotonic() - self._since
            self._since = None

    def add(self, count: int) -> None:
        """Count that many more; what ends a pause that nobody ended is not counted."""
        if self._since is None:
            self.resume()
        else:
            self._count += count

    def read(self) -> float | None:
        """Return the rate per second and begin anew; None while unknown."""
        was_running = self._since is not None
        self.pause()
        rate = self._count / self._elapsed if self._count and self._elapsed > 0 else None
        self._clear()
        if was_running:
            self.resume()
        return rate

    def _clear(self) -> None:
        self._count = 0
        self._elapsed = 0.0


class Progress:
    """The part of a run that is done, from whatever totals the loop has told.

    Totals may be epochs, steps, both or none. Within an epoch the length of the loader counts, or
    the steps of the epoch before.

    Parameters
    ----------
    monotonic
        The clock, in seconds.

    Attributes
    ----------
    epochs, steps, batches : int or None
        Totals: of the run, of the run, of the epoch under way.
    epoch, step, batch_index : int
        What is under way or done, from 1; 0 before the first.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.start()

    def start(
        self, epochs: int | None = None, steps: int | None = None, *, resumed: bool = False
    ) -> None:
        """Begin a run of so many epochs or steps."""
        self.epochs, self.steps = epochs, steps
        self.batches: int | None = None
        self.steps_per_epoch: int | None = None
        self.epoch = self.step = self.batch_index = self._first_step = 0
        self._is_between = False
        self._resumed = resumed
        self._started = self._monotonic()
        self._origin: tuple[float, float] | None = None

    def start_epoch(self, epoch: int, step: int) -> None:
        """Begin an epoch after that many steps."""
        self._enter(epoch, step)
        if not self._resumed:  # else it may begin in the middle, as its first step will show
            self._set_origin()

    def reach(self, epoch: int, step: int) -> None:
        """Note the step that was just finished."""
        if epoch != self.epoch:  # the loop emits no epoch_started
            self._enter(epoch, step - 1)
        self.step = step
        if self._origin is None:
            self._set_origin()

    def finish_epoch(self, epoch: int, step: int, *, complete: bool = True) -> None:
        """Close an epoch; a complete one tells how many steps the next will have."""
        if complete and epoch == self.epoch and step > self._first_step:
            self.steps_per_epoch = step - self._first_step
        self.epoch, self.step = epoch, step
        self._is_between = True

    def _enter(self, epoch: int, step: int) -> None:
        self.epoch = epoch
        self.step = self._first_step = step
        self.batches, self.batch_index = None, 0
        self._is_between = False

    def _set_origin(self) -> None:
        done = self.fraction()
        if done is not None and self._origin is None:
            self._origin = (self._monotonic(), done)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run was started in this process."""
        return self._monotonic() - self._started

    def of_epoch(self) -> float | None:
        """Return the part of the last epoch that is done, 0 to 1; None while unknown."""
        if self._is_between:
            return 1.0
        if self.batches and self.batch_index:
            return min(1.0, self.batch_index / self.batches)
        if self.steps_per_epoch:
            return min(1.0, (self.step - self._first_step) / self.steps_per_epoch)
        return 0.0 if self.step == self._first_step else None

    def fraction(self) -> float | None:
        """Return the part of the run that is done, 0 to 1; None while unknown."""
        parts = [part for part in (self._by_steps(), self._by_epochs()) if part is not None]
        # With both totals the run ends at whichever comes first.
        return min(1.0, max(parts)) if parts else None

    def eta_s(self) -> float | None:
        """Return the seconds that are left at the pace so far; None while unknown."""
        done = self.fraction()
        if done is None or self._origin is None:
            return None
        since, before = self._origin
        if done <= before:
            return None
        return (1.0 - done) * (self._monotonic() - since) / (done - before)

    def _by_steps(self) -> float | None:
        return self.step / self.steps if self.steps else None

    def _by_epochs(self) -> float | None:
        part = self.of_epoch()
        if not self.epochs or part is None:
            return None
        return (max(self.epoch, 1) - 1 + part) / self.epochs
