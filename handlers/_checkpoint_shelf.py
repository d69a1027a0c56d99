"""What one handler has saved: which to keep, which is best, which are its own to delete."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._checkpoint_files import Folder, SavedCheckpoint
from ._checkpoint_manifest import Manifest
from ._monitor import Monitor

__all__ = ["Shelf", "ranked"]


@dataclass
class Shelf:
    """The checkpoints of one run, as one handler keeps them.

    Attributes
    ----------
    keep
        How many of the last; None for all.
    keep_best
        How many of the best by the monitored metric.
    monitor
        None where none is best.
    own
        The ids of those that this handler may delete, oldest first.
    series
        What marks those that it saves in this run; drawn by `begin`.
    before
        The series of the run that this one goes on from, whose saves are its own too. `own` knows
        only of those that were made before the checkpoint that the state comes from.
    left
        Those that were to be deleted and are not this handler's alone. Told once, then let go.
    last_path, best_path
        The newest and the best of them.
    """

    keep: int | None
    keep_best: int
    monitor: Monitor | None
    own: list[str] = field(default_factory=list)
    series: str | None = None
    before: tuple[str, ...] = ()
    left: set[Path] = field(default_factory=set)
    last_path: Path | None = None
    best_path: Path | None = None

    def forget(self) -> None:
        """Let go of all: they are another run's."""
        self.own = []
        self.series, self.before = None, ()
        self.last_path = self.best_path = None
        if self.monitor is not None:
            self.monitor.reset()

    def begin(self) -> None:
        """Draw the series of this run, unless it has one."""
        self.series = self.series or secrets.token_hex(16)

    def end(self) -> None:
        """Save no more in this run."""
        self.series = None

    def state(self) -> dict[str, Any]:
        """Return what a run that goes on from this one needs to take over."""
        series = (*self.before, self.series) if self.series else self.before
        return {"own": list(self.own), "series": list(series)}

    def take_over(self, state: Mapping[str, Any]) -> None:
        """Go on in the place of a handler of another run, in the series of this one."""
        self.own, self.before = list(state["own"]), tuple(state.get("series", ()))

    def may_be_best(self, draft: Manifest) -> bool:
        """Tell whether a save has the monitored metric, a finite one."""
        metric = None if self.monitor is None else self.monitor.metric
        is_candidate = metric is not None and draft.is_candidate
        return is_candidate and math.isfinite(draft.metrics.get(metric or "", math.nan))

    def put(
        self, folder: Folder, draft: Manifest, number: int, state: Mapping[str, Any]
    ) -> SavedCheckpoint:
        """Save one; only when it is on the disk, and `latest` is right, are older ones deleted."""
        saved = folder.commit(draft, state, number)
        folder.point_latest(saved)
        self._rotate(folder)
        return saved

    def survey(self, folder: Folder) -> list[SavedCheckpoint]:
        """Look which of our checkpoints there are; the disk knows better than any record."""
        own = [saved for saved in folder.saved() if self._is_own(saved)]
        self.own = [saved.manifest.id for saved in own]
        self.before = ()  # no more will come of it, and what there is is known
        self.best_path = next((saved.path for saved in self._best(own)), None)
        self.last_path = own[-1].path if own else None
        return own

    def _is_own(self, saved: SavedCheckpoint) -> bool:
        series, manifest = {self.series, *self.before} - {None}, saved.manifest
        is_known = manifest.id in self.own or manifest.series in series
        return is_known and saved.path not in self.left

    def _rotate(self, folder: Folder) -> None:
        """Delete what is ours and superseded; never the newest, never the best."""
        own = self.survey(folder)
        superseded = own[: -self.keep] if self.keep is not None else []
        best = self._best(own)
        for saved in superseded:
            if saved not in best:
                self.own.remove(saved.manifest.id)
                if not folder.remove(saved):
                    self.left.add(saved.path)

    def _best(self, own: list[SavedCheckpoint]) -> list[SavedCheckpoint]:
        """Return the best, the very best first."""
        if self.monitor is None:
            return []
        return ranked(own, self.monitor.metric, self.monitor.mode)[: self.keep_best]


def ranked(saved: list[SavedCheckpoint], metric: str, mode: str) -> list[SavedCheckpoint]:
    """Order those whose metric is finite, the best first; of equal ones the older is better."""
    sign = 1 if mode == "min" else -1
    candidates = [one for one in saved if one.manifest.is_candidate]
    values = [(sign * one.manifest.metrics.get(metric, math.nan), one) for one in candidates]
    finite = [pair for pair in values if math.isfinite(pair[0])]
    return [one for _, one in sorted(finite, key=lambda pair: pair[0])]  # stable
