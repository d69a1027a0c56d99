"""A directory of checkpoints: each complete or not there at all.

Layout::

    runs/digits/
        step-00000120-0001/        the step, and the number of the save in this directory
            state.pt
            manifest.json          sizes and SHA-256; written last, read first
        step-00000240-0002/
        step-00000180-0003.damaged put aside by a run that could not go on from it
        latest                     the name of the newest, for people and scripts; never trusted
        .unfinished-...            under way, or left by a process that died; swept by a later save

A save writes into a new directory of its own, brings it to the disk, and only then gives it its
name, so whenever the process dies, what has a name is whole. Names are ordered by the number of
the save: after a resume at an earlier step the newest is still the one that was saved last. Several
handlers, in several threads, may save in one directory; each deletes its own.

In the place of one there may be a symbolic link of its name, where somebody has moved it to larger
storage. It is read as any other, and left where the others are deleted: a link is never ours.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ._checkpoint_attempts import attempt_name, is_abandoned, under_way
from ._checkpoint_loading import (
    CheckpointError,
    cause,
    load_checkpoint,
    read_manifest,
    unreadable,
)
from ._checkpoint_manifest import MANIFEST, STATE, Manifest, encode
from ._checkpoint_numbers import Numbers, numbers_of
from ._checkpoint_payload import write_payload
from ._files import Files

__all__ = ["Folder", "SavedCheckpoint", "load_newest", "logger"]

logger = logging.getLogger("eventbus.handlers.checkpoint")

_LATEST = "latest"
_DAMAGED = ".damaged"
_NAME = re.compile(rf"step-(\d+)-(\d+)({re.escape(_DAMAGED)})?")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint on the disk whose manifest is sound; its payload is verified when it is loaded.

    Attributes
    ----------
    path : pathlib.Path
        Its directory.
    sequence : int
        The number of the save in the directory, from 1.
    manifest : Manifest
        epoch, step, metrics, run_id, run, saved_at, versions, files.
    """

    path: Path
    sequence: int
    manifest: Manifest


class Folder:
    """One directory of checkpoints, seen through a file system."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path, self.files = path, files

    @functools.cached_property
    def _numbers(self) -> Numbers:
        return numbers_of(self.path)

    def numbered(self, damaged: bool = False) -> list[tuple[int, Path]]:
        """List what has the name of a checkpoint, with the number of the save, in that order.

        With `damaged`, list what was put aside instead.
        """
        return [
            (sequence, path)
            for sequence, _, path, aside in sorted(self._named())
            if aside is damaged
        ]

    def newest_number(self) -> int:
        """Return the number of the newest save, in this process also of one under way; else 0.

        No number comes twice, but of two processes that save in one folder at the same moment.
        """
        return self._numbers.newest(self._newest_named)

    def _newest_named(self) -> int:
        return max((int(match[2]) for _, match in self._matching()), default=0)

    def _named(self) -> Iterator[tuple[int, int, Path, bool]]:
        for entry, match in self._matching():
            # Where a link leads shows when it is read: it may be where nothing answers.
            if entry.is_dir(follow_symlinks=False) or entry.is_symlink():
                path = self.path / entry.name
                yield int(match[2]), int(match[1]), path, match[3] is not None

    def _matching(self) -> Iterator[tuple[os.DirEntry[str], re.Match[str]]]:
        for entry in self.files.scandir(self.path):
            match = _NAME.fullmatch(entry.name)
            if match:
                yield entry, match

    def saved(self) -> list[SavedCheckpoint]:
        """List the checkpoints that have a sound manifest, oldest first."""
        found = []
        for sequence, path in self.numbered():
            with contextlib.suppress(CheckpointError):
                found.append(SavedCheckpoint(path, sequence, read_manifest(path, self.files)))
        return found

    def newest_loadable(
        self, wanted: Callable[[SavedCheckpoint], bool], *, quarantine: bool = False
    ) -> tuple[SavedCheckpoint, dict[str, Any]] | None:
        """Load the newest wanted checkpoint that verifies; each other one is told once.

        With `quarantine` those that are damaged are put aside, so that no later start sums them.

        Raises
        ------
        CheckpointError
            One is there, and the system does not let it be read.
        """
        for sequence, path in reversed(self._readable()):
            try:
                saved = SavedCheckpoint(path, sequence, read_manifest(path, self.files))
                if wanted(saved):
                    return saved, load_checkpoint(path, self.files)
            except CheckpointError as error:
                if error.unreadable:
                    raise
                logger.warning("passed over, an older one is tried: %s", error)
                if quarantine and error.damaged:
                    self.put_aside(path)
        return None

    def _readable(self) -> list[tuple[int, Path]]:
        try:
            return self.numbered()
        except OSError as error:
            raise unreadable(self.path, error) from error

    def put_aside(self, path: Path) -> None:
        """Rename what is damaged to ``<name>.damaged``; nothing is deleted."""
        try:
            self.files.rename(path, path.with_name(path.name + _DAMAGED))
        except OSError as error:
            logger.warning("%s keeps its name: %s", path, cause(error))

    # -- writing

    def draw_number(self) -> int:
        """Draw the number of a save that begins, for `commit`.

        Raises
        ------
        CheckpointError
            The disk refused.
        """
        with self._refusals():
            return self._numbers.draw(self._newest_named)

    def commit(
        self, draft: Manifest, state: Mapping[str, Any], number: int | None = None
    ) -> SavedCheckpoint:
        """Write one checkpoint; when this returns it is on the disk, whole, under its name.

        Parameters
        ----------
        number
            One that was drawn for it; None to draw one.

        Raises
        ------
        CheckpointError
            The disk refused; what was there before is as it was.
        """
        drawn = self.draw_number() if number is None else number
        try:
            with self._refusals():
                self.sweep()
                attempt = self.path / attempt_name(f"{draft.step or 0}-{drawn}")
                with self._attempt(attempt):
                    manifest = self._write(attempt, draft, state)
                    sequence, path = self._name(attempt, draft.step or 0, drawn)
            return SavedCheckpoint(path, sequence, manifest)
        finally:
            self._numbers.give_back(drawn)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"no checkpoint was written in {self.path}: {cause(error)}; "
                f"those that were there are as they were",
                path=self.path,
            ) from error

    @contextlib.contextmanager
    def _attempt(self, path: Path) -> Iterator[None]:
        with under_way(path.name):
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError):
                    self._discard(path)
                raise

    def _write(self, attempt: Path, draft: Manifest, state: Mapping[str, Any]) -> Manifest:
        self.files.makedirs(self.path)
        self.files.mkdir(attempt)
        with self.files.create(attempt / STATE) as file:
            sums = {STATE: write_payload(self.files, file, state)}
            self.files.fsync(file)
        manifest = replace(draft, files=sums)
        self._write_file(attempt / MANIFEST, encode(manifest))
        self.files.fsync_directory(attempt)
        return manifest

    def _write_file(self, path: Path, data: bytes) -> None:
        with self.files.create(path) as file:
            self.files.write(file, data)
            self.files.fsync(file)

    def _name(self, attempt: Path, step: int, number: int) -> tuple[int, Path]:
        """Give the finished attempt its name; another process may just have taken the number."""
        while True:
            path = self.path / f"step-{step:08d}-{number:04d}"
            try:
                self.files.rename(attempt, path)
                break
            except OSError:
                if not path.exists():
                    raise
                number += 1
        self.files.fsync_directory(self.path)
        return number, path

    def point_latest(self, saved: SavedCheckpoint) -> None:
        """Write the name of the newest checkpoint into the file `latest`, at one instant.

        That is the one just saved, unless one that was asked for after it was faster.
        """
        pointed = None
        try:
            with self._numbers.pointing:
                while (newest := self._newest_name() or saved.path.name) != pointed:
                    self._write_latest(newest)
                    pointed = newest  # unless another process has saved one meanwhile
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {saved.path} is written, but {self.path / _LATEST} does not name it: "
                f"{cause(error)}",
                path=saved.path,
            ) from error

    def _newest_name(self) -> str | None:
        return next((path.name for _, path in reversed(self.numbered())), None)

    def _write_latest(self, name: str) -> None:
        attempt = self.path / attempt_name(_LATEST)
        with self._attempt(attempt):
            self._write_file(attempt, f"{name}\n".encode())
            self.files.replace(attempt, self.path / _LATEST)
            self.files.fsync_directory(self.path)

    # -- deleting: only what is provably ours

    def remove(self, saved: SavedCheckpoint) -> bool:
        """Delete a superseded checkpoint; one that may not be is left, and told.

        It loses its name first, so a process that dies here leaves no half of a checkpoint.

        Returns
        -------
        bool
            Whether it may be deleted; so another try is worth it where the disk refused.
        """
        try:
            obstacle = self.obstacle(saved)
            if obstacle:
                logger.warning("%s is kept, for %s", saved.path, obstacle)
                return False
            doomed = self.path / attempt_name(saved.path.name)
            with under_way(doomed.name):  # another thread may sweep meanwhile
                self.files.rename(saved.path, doomed)
                self._discard(doomed)
        except OSError as error:
            logger.warning("%s is not deleted: %s", saved.path, cause(error))
        return True

    def obstacle(self, saved: SavedCheckpoint) -> str:
        """Say why a checkpoint is not provably ours alone; such a one is never deleted."""
        if saved.path.is_symlink():
            return "it is a link"
        strange = self._strangers(saved.path, {*saved.manifest.files, MANIFEST})
        return f"it holds {strange}" if strange else ""

    def sweep(self) -> None:
        """Delete what processes that died, or failed attempts of this one, left unfinished."""
        written_at_s = {entry: _written_at_s(entry) for entry in self.files.scandir(self.path)}
        newest_s = max(written_at_s.values(), default=0.0)  # by the clock of the disk
        for entry, at_s in written_at_s.items():
            if is_abandoned(entry.name, idle_s=newest_s - at_s if at_s else 0.0):
                try:
                    self._discard(self.path / entry.name)
                except FileNotFoundError:
                    continue  # another thread, or process, sweeps as well
                except OSError as error:
                    logger.warning("%s is not deleted: %s", entry.path, cause(error))

    def _discard(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            if self._strangers(path, {STATE, MANIFEST}):
                return
            for entry in self.files.scandir(path):
                self.files.unlink(path / entry.name)
            self.files.rmdir(path)
        elif path.exists():
            self.files.unlink(path)

    def _strangers(self, path: Path, ours: set[str]) -> str:
        names = (
            entry.name
            for entry in self.files.scandir(path)
            if entry.name not in ours or not entry.is_file(follow_symlinks=False)
        )
        return ", ".join(names)


def load_newest(path: Path, files: Files) -> tuple[SavedCheckpoint, dict[str, Any]]:
    """Load a checkpoint, or the newest in a directory of them that verifies; with its facts.

    Raises
    ------
    CheckpointError
        There is none, or it is damaged, or the newest cannot be read.
    """
    if path.is_file():
        near = path.parent / MANIFEST
        wanted = f"write {path.parent}" if near.exists() else "give the directory of a checkpoint"
        raise CheckpointError(f"{path} is a file: {wanted}, or a directory of them", path=path)
    if not path.exists():
        raise CheckpointError(f"there is no directory {path}", path=path)
    if (path / MANIFEST).exists():
        match = _NAME.fullmatch(path.name)  # one that somebody renamed has no number
        saved = SavedCheckpoint(path, int(match[2]) if match else 0, read_manifest(path, files))
        return saved, load_checkpoint(path, files)
    found = Folder(path, files).newest_loadable(lambda saved: True)
    if found is None:
        raise CheckpointError(f"there is no checkpoint that can be used at {path}", path=path)
    return found


def _written_at_s(entry: os.DirEntry[str]) -> float:
    """Return when something was last written in a directory; 0 where it cannot be told."""
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
