"""Which checkpoint a run goes on from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventbus import Event
from eventbus.filters import current_rank

from ._checkpoint_facts import run_name
from ._checkpoint_files import Folder, SavedCheckpoint, load_newest, logger
from ._checkpoint_loading import CheckpointError
from ._paths import RunNames, paths_of_other_runs

__all__ = ["Resume"]

_DRAWN = re.compile(r"[0-9a-f]{12}")  # an id that the bus made up

_AFRESH = "no checkpoint in %s can be gone on from: the run %r starts afresh"
_AFRESH_ON_THE_BUS = (
    "the checkpoints in %s are of the run %r, which has come to its end on this bus: this one "
    "starts afresh (to train that further keep one Run open, `run.epochs(3)` and then "
    "`run.epochs(6)`, or open both under one run_id=; to keep this one apart give it a name= and "
    "write {run} in the path)"
)


_AFRESH_BESIDE = (
    "the checkpoints in %s of the run %r are older than the end of another run on this bus: this "
    "one starts afresh (to have each find its own write {run} in the path)"
)


@dataclass
class Resume:
    """What a handler was told about resuming: "auto", "never" or a path.

    Attributes
    ----------
    template
        The directory as it was given, before the run's id and name are put into it.
    ended
        By directory, the newest save when a run of this process came to its end there, and the
        names of those runs.
    opened
        The ids of runs that are open, whose opening was heard.
    """

    wish: str | Path
    template: str
    ended: dict[Path, tuple[int, frozenset[str | None]]] = field(default_factory=dict)
    opened: set[str | None] = field(default_factory=set)
    has_warned: bool = False

    def find(self, event: Event, folder: Folder) -> tuple[SavedCheckpoint, dict[str, Any]] | None:
        """Load what the run that is being opened goes on from; None to start afresh."""
        self.opened.add(event.from_context("run_id", None))
        if self.wish == "never":
            return None
        if isinstance(self.wish, Path):
            return load_newest(self.wish, folder.files)
        ended, names = self.ended.get(folder.path, (0, frozenset()))
        wanted = _Wanted(event.context.get("run_id"), run_name(event), ended)
        # One rank alone tidies up; the others, a moment later, find gone what is damaged.
        tidies = current_rank() == 0
        found = folder.newest_loadable(wanted, quarantine=tidies)
        if tidies:
            folder.sweep()  # what the process that this one goes on for has left unfinished
        if found is None and folder.newest_number():
            is_of_another = wanted.is_over and wanted.run not in names
            text = _AFRESH_BESIDE if is_of_another else _AFRESH_ON_THE_BUS
            logger.warning(text if wanted.is_over else _AFRESH, folder.path, wanted.run)
        elif found is None and tidies:
            self._warn_of_others(event, folder)
        return found

    def check_opened(self, event: Event, folder: Folder) -> None:
        """Refuse to save in a run that was to go on from a checkpoint, and was not asked to.

        What it saves would be taken for the newest of the run that was to go on.

        Raises
        ------
        CheckpointError
            The run was open before the handler was attached.
        """
        run_id = event.from_context("run_id", None)
        if self.wish == "never" or run_id in self.opened:
            return
        if any(run.run_id == run_id for run in event.bus.open_runs):
            raise CheckpointError(
                f"Checkpoint(resume={str(self.wish)!r}) was attached to a run that was open "
                "already, and that starts afresh: attach it before the Run is opened",
                path=folder.path,
            )
        if not self.opened and not self.has_warned:
            self.has_warned = True
            logger.warning(
                "Checkpoint(resume=%r) resumes nothing: the loop emits no run_opened",
                str(self.wish),
            )

    def note_close(self, event: Event) -> None:
        """Take note that a run is over."""
        self.opened.discard(event.from_context("run_id", None))

    def _warn_of_others(self, event: Event, folder: Folder) -> None:
        """Say that a run whose id was drawn finds nothing where directories are told by the id."""
        if not _DRAWN.fullmatch(str(event.context.get("run_id"))):
            return  # given on purpose, and new
        others = paths_of_other_runs("Checkpoint", self.template, RunNames.of(event))
        if any(Folder(path, folder.files).newest_number() for path in others):
            logger.warning(
                "nothing to go on from in %s, which is new as the run's id is, but in other "
                "directories of %s: give Run a run_id= to go on under, write {run} in the place of "
                "{run_id}, or give resume= a path",
                folder.path,
                self.template,
            )

    def note_end(self, folder: Folder, run: str | None) -> None:
        """Take note that what is saved so far belongs to runs that came to their end."""
        if self.wish == "auto":
            _, names = self.ended.get(folder.path, (0, frozenset()))
            self.ended[folder.path] = folder.newest_number(), names | {run}


@dataclass
class _Wanted:
    """Which checkpoints ``resume="auto"`` takes.

    Attributes
    ----------
    is_over
        One was of a run of that name, and was refused, for the run is over.
    """

    run_id: str | None
    run: str | None
    ended: int
    is_over: bool = False

    def __call__(self, saved: SavedCheckpoint) -> bool:
        if self.run_id is not None and saved.manifest.run_id == self.run_id:
            return True
        same_name = saved.manifest.run == self.run
        self.is_over |= same_name and saved.sequence <= self.ended
        return same_name and saved.sequence > self.ended
