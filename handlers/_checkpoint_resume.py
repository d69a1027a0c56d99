"""Which checkpoint a run goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventbus import Event
from eventbus.filters import current_rank

from ._checkpoint_facts import run_name
from ._checkpoint_files import Folder, SavedCheckpoint, load_newest, logger

__all__ = ["Resume"]


@dataclass
class Resume:
    """What a handler was told about resuming: "auto", "never" or a path.

    Attributes
    ----------
    ended
        By directory, the newest save when a run of this process came to its end there.
    """

    wish: str | Path
    ended: dict[Path, int] = field(default_factory=dict)

    def find(self, event: Event, folder: Folder) -> tuple[SavedCheckpoint, dict[str, Any]] | None:
        """Load what the run that is being opened goes on from; None to start afresh."""
        if self.wish == "never":
            return None
        if isinstance(self.wish, Path):
            return load_newest(self.wish, folder.files)
        wanted = _Wanted(
            event.context.get("run_id"), run_name(event), self.ended.get(folder.path, 0)
        )
        # One rank alone tidies up; the others, a moment later, find gone what is damaged.
        tidies = current_rank() == 0
        found = folder.newest_loadable(wanted, quarantine=tidies)
        if tidies:
            folder.sweep()  # what the process that this one goes on for has left unfinished
        if found is None and folder.newest_number():
            text = "no checkpoint in %s can be gone on from: the run %r starts afresh"
            logger.warning(text, folder.path, wanted.run)
        return found

    def note_end(self, folder: Folder) -> None:
        """Take note that what is saved so far belongs to runs that came to their end."""
        if self.wish == "auto":
            self.ended[folder.path] = folder.newest_number()


@dataclass(frozen=True)
class _Wanted:
    """Which checkpoints ``resume="auto"`` takes."""

    run_id: str | None
    run: str | None
    ended: int

    def __call__(self, saved: SavedCheckpoint) -> bool:
        same_run = self.run_id is not None and saved.manifest.run_id == self.run_id
        return same_run or (saved.manifest.run == self.run and saved.sequence > self.ended)
