"""A save that waits until the run has come to a place from which it can go on exactly."""

from __future__ import annotations

from collections.abc import Callable

from eventbus import Event, EventBus, Priority

__all__ = ["Later"]

_ENDS_OF_STEPS = ("batch_finished", "epoch_finished")
_LAST = ("epoch_interrupted", "run_finished")
_LATER = ("validation_done", *_ENDS_OF_STEPS, *_LAST)


class Later:
    """Hears, while a save is put off, the signals on which it may be made up for.

    Nothing is subscribed before that, so steps cost nothing. It waits for the end of the next step
    at most: a loop that never is in such a place is to have checkpoints all the same.

    Parameters
    ----------
    save
        Called with each of them; it makes the save, or puts it off again.
    """

    def __init__(self, save: Callable[[Event], None]) -> None:
        self._save = save
        self._began: Event | None = None  # the first that was put off
        self._last: Event | None = None
        self._bus: EventBus | None = None

    def may_wait(self, event: Event) -> bool:
        """Tell whether to save on a signal that is to come: not at the end, nor for ever."""
        if event.name in (*_LAST, "run_failed", "run_closed"):
            return False
        began = self._began
        is_later = began is not None and began.fields.get("step") != event.fields.get("step")
        return not (is_later and event.name in _ENDS_OF_STEPS)

    def wait(self, event: Event) -> None:
        """Put a save off."""
        self._began, self._last = self._began or event, event
        if self._bus is None:
            self._bus = event.bus
            sender = event.sender if event.emitter.inner else None
            event.bus.on(*_LATER, sender=sender, priority=Priority.PERSIST, name="Checkpoint")(
                self.hear
            )

    def hear(self, event: Event) -> None:
        """Make up for what was put off, unless that was on this very signal."""
        if self._began is not None and event is not self._last:
            self._save(event)

    def leave(self, bus: EventBus) -> None:
        """Whoever saves was detached from this bus."""
        if self._bus is bus:
            self.cease()

    def cease(self) -> None:
        """It was saved, or never will be."""
        self._began = self._last = None
        if self._bus is not None:
            self._bus.detach(self.hear)
            self._bus = None
