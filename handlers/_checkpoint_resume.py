"""Which checkpoint a run goes on from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventbus import Event
from eventbus.filters import current_rank

from ._checkpoint_facts import directories_of_others, run_name
from ._checkpoint_files import Folder, SavedCheckpoint, load_newest, logger

__all__ = ["Resume"]

_DRAWN = re.compile(r"[0-9a-f]{12}")  # an id that the bus made up


@dataclass
class Resume:
    """What a handler was told about resuming: "auto", "never" or a path.

    Attributes
    ----------
    template
        The directory as it was given, before the run's id and name are put into it.
    ended
        By directory, the newest save when a run of this process came to its end there.
    """

    wish: str | Path
    template: str
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
        elif found is None and tidies:
            self._warn_of_others(event, folder)
        return found

    def _warn_of_others(self, event: Event, folder: Folder) -> None:
        """Say that a run whose id was drawn finds nothing where directories are told by the id."""
        if not _DRAWN.fullmatch(str(event.context.get("run_id"))):
            return  # given on purpose, and new
        others = directories_of_others(self.template, event)
        if any(Folder(path, folder.files).newest_number() for path in others):
            logger.warning(
                "nothing to go on from in %s, which is new as the run's id is, but in other "
                "directories of %s: give Run a run_id= to go on under, write {run} in the place of "
                "{run_id}, or give resume= a path",
                folder.path,
                self.template,
            )

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
