"""Save the state of a run, keep the last few and the best, and go on from where a run was cut."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventbus import Event, Filter, Priority, Restored, RestoredState, every, handles
from eventbus.filters import current_rank

from ._checkpoint_facts import directory_of, draft_of, run_name
from ._checkpoint_files import Folder, SavedCheckpoint, load_newest, logger
from ._checkpoint_loading import CheckpointError
from ._checkpoint_manifest import Manifest
from ._checkpoint_payload import offender
from ._files import Files
from ._monitor import Mode, Monitor

__all__ = ["Checkpoint", "CheckpointError", "SavedCheckpoint"]

_EVERY_TIME = every(1)


class Checkpoint:
    """Save all state that hangs on the bus; keep the last `keep` and the best; resume.

    ==================  =====================================================================
    signals consumed    those of `on`; `run_opened`, `run_finished`, `run_closed`
    values produced     a directory for each save; `state_requested`, `checkpoint_saved`,
                        `state_restored`, the answer `Restored`
    cost                each step: nothing. Each save: the whole state is gathered, written, summed
                        and brought to the disk on the loop's thread
    state               the ids of the checkpoints that are its own to delete
    band, errors        PERSIST; raised; rank 0 writes, every rank is asked for its state
    ==================  =====================================================================

    Every save is a directory of its own, ``step-<step>-<number of the save>``, with the state as
    `state.pt` and sizes and SHA-256 sums in `manifest.json`. It appears under its name only when
    all of it is on the disk; only then are older ones deleted. A save that fails raises
    `CheckpointError` and leaves the others as they were. State that could not be loaded again,
    which is anything but tensors and plain Python, is refused before anything is written.

    Parameters
    ----------
    directory
        Where; made at the first save. ``{run_id}`` and ``{run}`` become the id and the name of the
        run, so that runs that follow each other on a bus keep apart.
    on
        The signal, or signals, on which to save.
    when
        A filter on those.
    keep
        How many of the last to keep, at least 1; None for all. Only checkpoints that this run,
        or the one that it goes on from, has saved through this handler are ever deleted.
    best
        The metric whose best checkpoint is kept besides; None for none. Where the signal does not
        carry it, that checkpoint is no candidate; NaN and the infinities never are.
    mode
        "min" where lower is better, "max" where higher is.
    resume
        "never", the default, so that a run never goes on from another one's checkpoint unless
        told. "auto" goes on from the newest checkpoint in `directory` that verifies, saved by a
        run of the same name; each damaged one is passed over with a warning; with none, the run
        starts afresh. A run that has come to its end on this bus is not gone on from. A path, of
        a checkpoint or of a directory of them, goes on from that, and it is an error if it
        cannot.

    Attributes
    ----------
    last_path, best_path : pathlib.Path or None
        The newest and the best checkpoint of this run, after each save.
    files : Files
        The file system; a test may put another in its place.

    Notes
    -----
    For a script that trains several runs and is to be resumed as a whole (k-fold), give the runs
    names and put ``{run}`` into `directory`: else the first run would find the last one's.

    Examples
    --------
    >>> import tempfile, torch
    >>> from eventbus import EventBus, State
    >>> from eventbus.handlers import Checkpoint
    >>> bus, model = EventBus(), torch.nn.Linear(2, 1)
    >>> checkpoint = Checkpoint(tempfile.mkdtemp(), keep=1)
    >>> _ = bus.attach(checkpoint)
    >>> @bus.on("state_requested")
    ... def weights(model): return State("model", model.state_dict())
    >>> loop = bus.bind(sender="train", model=model)
    >>> for epoch, loss in enumerate([0.5, 0.7, 0.6], start=1):
    ...     _ = loop.emit("epoch_finished", epoch=epoch, step=10 * epoch,
    ...                   metrics={"val_loss": loss})
    >>> checkpoint.best_path.name, checkpoint.last_path.name
    ('step-00000010-0001', 'step-00000030-0003')
    >>> sorted(Checkpoint.load(checkpoint.last_path)["model"])
    ['bias', 'weight']
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        on: str | Sequence[str] = "epoch_finished",
        when: Filter | None = _EVERY_TIME,
        keep: int | None = 3,
        best: str | None = "val_loss",
        mode: Mode = "min",
        resume: str | os.PathLike[str] = "never",
    ) -> None:
        _check(keep, resume)
        self.directory = os.fspath(directory)
        self.keep = keep
        self.resume = resume if resume in ("auto", "never") else Path(resume)
        self.monitor = None if best is None else Monitor("Checkpoint", best, mode)
        self.files = Files()
        self.last_path: Path | None = None
        self.best_path: Path | None = None
        self._run_id: str | None = None
        self._own: list[str] = []  # ids of checkpoints, oldest first
        self._ended: dict[Path, int] = {}  # newest save when a run of this process came to its end
        signals = (on,) if isinstance(on, str) else tuple(on)
        marked = handles(*signals, when=when, priority=Priority.PERSIST)(self.save)
        self.save = marked  # type: ignore[method-assign]  # stands in for it, for `attach` to find

    # -- saving

    def save(self, event: Event) -> None:
        """Save now; called on the signals of `on`."""
        self._adopt(event.context.get("run_id"))
        if self.monitor is not None:
            self.monitor.read(event.fields.get("metrics"))
        draft = draft_of(event)
        writes = current_rank() == 0
        if writes:
            self._own.append(draft.id)  # before the state is asked for, which holds it
        state = event.bus.emit("state_requested").state  # on every rank: it may be collective
        if not writes:
            return
        folder = self._folder(event)
        saved = self._commit(folder, draft, state)
        self._rotate(folder)
        self._tell(event, saved)

    def _adopt(self, run_id: str | None) -> None:
        """Let go of an earlier run's checkpoints, unless this run was restored from one of them."""
        if self._run_id is not None and run_id != self._run_id:
            self._own = []
            self.last_path = self.best_path = None
            if self.monitor is not None:
                self.monitor.reset()
        self._run_id = run_id

    def _folder(self, event: Event) -> Folder:
        return Folder(directory_of(self.directory, event), self.files)

    def _commit(self, folder: Folder, draft: Manifest, state: Mapping[str, Any]) -> SavedCheckpoint:
        found = offender(state)
        if found is not None:
            raise CheckpointError(
                f"no checkpoint was written in {folder.path}: {found}, which "
                "torch.load(weights_only=True) would refuse; state is tensors and plain Python",
                path=folder.path,
            )
        saved = folder.commit(draft, state)
        folder.point_latest(saved)
        return saved

    def _rotate(self, folder: Folder) -> None:
        """Delete what is ours and superseded; never the newest, never the best."""
        own = self._survey(folder)
        superseded = own[: -self.keep] if self.keep is not None else []
        for saved in superseded:
            if saved.path != self.best_path:
                folder.remove(saved)
                self._own.remove(saved.manifest.id)

    def _survey(self, folder: Folder) -> list[SavedCheckpoint]:
        """Look which of our checkpoints there are; the disk knows better than any record."""
        own = [saved for saved in folder.saved() if saved.manifest.id in self._own]
        self._own = [saved.manifest.id for saved in own]
        best = self._best_of(own)
        self.best_path = None if best is None else best.path
        self.last_path = own[-1].path if own else None
        return own

    def _best_of(self, own: list[SavedCheckpoint]) -> SavedCheckpoint | None:
        if self.monitor is None:
            return None
        best, best_value = None, None
        for saved in own:
            value = saved.manifest.metrics.get(self.monitor.metric)
            if value is not None and self.monitor.improves(value, best_value):
                best, best_value = saved, value
        return best

    def _tell(self, event: Event, saved: SavedCheckpoint) -> None:
        manifest = saved.manifest
        places = {"epoch": manifest.epoch, "step": manifest.step}
        known = {name: count for name, count in places.items() if count is not None}
        event.bus.emit(
            "checkpoint_saved", path=str(saved.path), metrics=dict(manifest.metrics), **known
        )

    # -- resuming

    @handles("run_opened", priority=Priority.PERSIST)
    def restore(self, event: Event) -> Restored | None:
        """Put the state of a checkpoint back, where this was asked for and there is one."""
        found = self._find(event)
        if found is None:
            return None
        saved_path, state = found
        logger.info("the run goes on from %s", saved_path)
        event.bus.emit("state_restored", state=RestoredState(state), path=str(saved_path))
        self._survey(self._folder(event))
        return Restored(str(saved_path))

    def _find(self, event: Event) -> tuple[Path, dict[str, Any]] | None:
        folder = self._folder(event)  # a name that cannot be used shows now, not at the first save
        if self.resume == "never":
            return None
        if isinstance(self.resume, Path):
            return load_newest(self.resume, self.files)
        ended = self._ended.get(folder.path, 0)
        wanted = _Wanted(event.context.get("run_id"), run_name(event), ended)
        found = folder.newest_loadable(wanted)
        if found is None and folder.newest_number():
            text = "no checkpoint in %s can be gone on from: the run %r starts afresh"
            logger.warning(text, folder.path, wanted.run)
        return None if found is None else (found[0].path, found[1])

    @handles("run_finished", priority=Priority.PERSIST)
    def finish(self, event: Event) -> None:
        """Warn where checkpoints were saved, but none of them with the metric."""
        saved_here = self.last_path is not None and event.context.get("run_id") == self._run_id
        if self.monitor is not None and saved_here and not self.monitor.seen:
            self.monitor.warn_never_seen("no best checkpoint is kept (best=None says so at once)")

    @handles("run_closed", priority=Priority.PERSIST)
    def close(self, event: Event, outcome: str) -> None:
        """Take note that what is saved so far belongs to runs that came to their end."""
        if self.resume == "auto" and outcome != "failed":
            folder = self._folder(event)
            self._ended[folder.path] = folder.newest_number()

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoints are this handler's own."""
        return {"own": list(self._own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the checkpoints of the run that this one goes on from."""
        self._own = list(state["own"])
        self._run_id = None

    # -- without a bus

    @staticmethod
    def load(path: str | os.PathLike[str]) -> dict[str, Any]:
        """Verify a checkpoint and return its state: plain dicts and CPU tensors, by part.

        Parameters
        ----------
        path
            A checkpoint, or a directory of them, of which the newest that verifies is loaded.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged.
        """
        return load_newest(Path(path), Files())[1]

    @staticmethod
    def saved(directory: str | os.PathLike[str]) -> list[SavedCheckpoint]:
        """List the checkpoints in a directory, oldest first; payloads are not read."""
        return Folder(Path(directory), Files()).saved()


@dataclass(frozen=True)
class _Wanted:
    """Which checkpoints ``resume="auto"`` takes."""

    run_id: str | None
    run: str | None
    ended: int

    def __call__(self, saved: SavedCheckpoint) -> bool:
        same_run = self.run_id is not None and saved.manifest.run_id == self.run_id
        return same_run or (saved.manifest.run == self.run and saved.sequence > self.ended)


def _check(keep: int | None, resume: str | os.PathLike[str]) -> None:
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise ValueError(f"Checkpoint: keep is at least 1, or None for all; got {keep!r}")
    if not isinstance(resume, str | os.PathLike) or not os.fspath(resume):
        raise TypeError(f"Checkpoint: resume is 'auto', 'never' or a path; got {resume!r}")
