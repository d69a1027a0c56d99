"""Which of several handlers restores a run: the one that has found the newest checkpoint.

They do not know one another. Each tells over the bus what it has found, and those that have an
older one hold their peace.
"""

from __future__ import annotations

from typing import Any

from eventbus import Event, EventBus, Priority, Restored, signal

from ._checkpoint_files import SavedCheckpoint
from ._checkpoint_loading import CheckpointError

__all__ = ["Offer", "state_offered"]

Found = tuple[SavedCheckpoint, dict[str, Any]]


@signal()
def state_offered(*, path: str, step: int, saved_at: str, told: bool) -> None:
    """A handler has a checkpoint to go on from. Within `run_opened`, once for each such handler.

    One that has a newer one answers `Restored(path)`. `told` is True where the user named it.
    """


class Offer:
    """What one handler has to restore a run from, until a newer one is offered.

    The newest is the one that was saved last, as in a directory; within a second, the one of the
    highest step. One that the user named comes before any that was found.

    Parameters
    ----------
    told
        The user named it.
    """

    def __init__(self, told: bool) -> None:
        self._told = told
        self._found: Found | None = None
        self._bus: EventBus | None = None

    def make(self, event: Event, found: Found) -> None:
        """Offer it; keep it if nobody has a newer one."""
        rank = self._rank(found[0])
        told, saved_at, step = rank
        path = str(found[0].path)
        answers = event.bus.emit(state_offered, path=path, step=step, saved_at=saved_at, told=told)
        if answers.restored is None:
            self._found, self._bus = found, event.bus
            sender = event.sender if event.emitter.inner else None
            marked = event.bus.on(
                state_offered, sender=sender, priority=Priority.PERSIST, name="Checkpoint"
            )
            marked(self.hear)

    def hear(self, path: str, step: int, saved_at: str, told: bool) -> Restored | None:
        """Give way to a newer one.

        Raises
        ------
        CheckpointError
            The user named both.
        """
        if self._found is None:
            return None
        own, _ = self._found
        if told and self._told and path != str(own.path):
            raise CheckpointError(
                f"a run goes on from one checkpoint, and is told to go on from {own.path} and from "
                f"{path}: give resume= to one Checkpoint, and resume='never' to the others",
                path=own.path,
            )
        if (told, saved_at, step) <= self._rank(own):
            return Restored(str(own.path))
        self._found = None  # the memory too: a newer one is in it already
        return None

    def take(self) -> Found | None:
        """Return it, if it still is the newest; it is offered no more."""
        found, self._found = self._found, None
        if self._bus is not None:
            self._bus.detach(self.hear)
            self._bus = None
        return found

    def _rank(self, saved: SavedCheckpoint) -> tuple[bool, str, int]:
        return self._told, saved.manifest.saved_at, saved.manifest.step or 0
