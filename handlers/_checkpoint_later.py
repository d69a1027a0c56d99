"""A save that waits until the run has come to a place from which it can go on exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from eventbus import Event, EventBus, Priority

from ._checkpoint_manifest import Manifest

__all__ = ["Later"]

_ENDS_OF_STEPS = ("batch_finished", "epoch_finished")
_LATER = ("validation_done", *_ENDS_OF_STEPS)
_LAST = ("epoch_interrupted", "run_finished", "run_failed", "run_closed")


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
        self._draft: Manifest | None = None
        self._began: Event | None = None
        self._bus: EventBus | None = None

    def may_wait(self, event: Event) -> bool:
        """Tell whether to save on a signal that is to come: not at the end, nor for ever."""
        if event.name in _LAST:
            return False
        has_waited = self._draft is not None and self._draft.step != event.fields.get("step")
        return not (has_waited and event.name in _ENDS_OF_STEPS)

    def wait(self, event: Event, draft: Manifest) -> None:
        """Put a save off."""
        self._draft, self._began = draft, event
        if self._bus is None:
            self._bus = event.bus
            sender = event.sender
            event.bus.on(*_LATER, sender=sender, priority=Priority.PERSIST, name="Checkpoint")(
                self.hear
            )

    def hear(self, event: Event) -> None:
        """Make up for what was put off, unless that was on this very signal."""
        if self._draft is not None and event is not self._began:
            self._save(event)

    def with_metrics(self, draft: Manifest) -> Manifest:
        """Return a draft that has also the metrics of the one put off, if of the same weights."""
        if self._draft is None or self._draft.step != draft.step:
            return draft
        return replace(draft, metrics={**self._draft.metrics, **draft.metrics})

    def cease(self) -> None:
        """It was saved, or never will be."""
        self._draft = self._began = None
        if self._bus is not None:
            self._bus.detach(self.hear)
            self._bus = None
