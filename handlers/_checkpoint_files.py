"""A directory of checkpoints: each complete or not there at all.

Layout::

    runs/digits/
        step-00000120-0001/        the step, and the number of the save in this directory
            state.pt
            manifest.json          sizes and SHA-256; written last, read first
        step-00000240-0002/
        latest                     the name of the newest, for people and scripts; never trusted
        .unfinished-...            under way, or left by a process that died; swept by a later save

A save writes into a new directory of its own, brings it to the disk, and only then gives it its
name, so whenever the process dies, what has a name is whole. Names are ordered by the number of
the save: after a resume at an earlier step the newest is still the one that was saved last.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eventbus import EventBusError

from ._checkpoint_manifest import LARGEST_MANIFEST, Manifest, Sum, decode, encode
from ._checkpoint_payload import read_payload, summed, write_payload
from ._files import Files

__all__ = ["CheckpointError", "Folder", "SavedCheckpoint", "load_checkpoint", "read_manifest"]

logger = logging.getLogger("eventbus.handlers.checkpoint")

_STATE, _MANIFEST, _LATEST = "state.pt", "manifest.json", "latest"
_NAME = re.compile(r"step-(\d+)-(\d+)")
_UNFINISHED = re.compile(r"\.unfinished-.+-([0-9a-f]{8})-([1-9]\d{0,8})-([0-9a-f]{8})")
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_TOKEN = secrets.token_hex(4)  # tells this process from an earlier one that had the same id
_under_way: set[str] = set()  # names of this process's unfinished attempts, in any thread


class CheckpointError(EventBusError):
    """A checkpoint could not be written, or cannot be used.

    Attributes
    ----------
    path : str
        The checkpoint, or the directory that it was to be in.
    """

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message, handler="Checkpoint")
        self.path = str(path)


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

    def numbered(self) -> list[tuple[int, Path]]:
        """List what has the name of a checkpoint, in the order of saving, with the save's number."""
        found = []
        for entry in self.files.scandir(self.path):
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                found.append((int(match[2]), int(match[1]), self.path / entry.name))
        return [(sequence, path) for sequence, _, path in sorted(found)]

    def newest_number(self) -> int:
        """Return the number of the newest save; 0 where there is none."""
        return max((sequence for sequence, _ in self.numbered()), default=0)

    def saved(self) -> list[SavedCheckpoint]:
        """List the checkpoints that have a sound manifest, oldest first."""
        found = []
        for sequence, path in self.numbered():
            with contextlib.suppress(CheckpointError):
                found.append(SavedCheckpoint(path, sequence, read_manifest(path, self.files)))
        return found

    def newest_loadable(
        self, wanted: Callable[[SavedCheckpoint], bool]
    ) -> tuple[SavedCheckpoint, dict[str, Any]] | None:
        """Load the newest wanted checkpoint that verifies; each damaged one is told once."""
        for sequence, path in reversed(self.numbered()):
            try:
                saved = SavedCheckpoint(path, sequence, read_manifest(path, self.files))
                if wanted(saved):
                    return saved, load_checkpoint(path, self.files)
            except CheckpointError as error:
                logger.warning("passed over, an older one is tried: %s", error)
        return None

    # -- writing

    def commit(self, draft: Manifest, state: Mapping[str, Any]) -> SavedCheckpoint:
        """Write one checkpoint; when this returns it is on the disk, whole, under its name.

        Raises
        ------
        CheckpointError
            The disk refused; what was there before is as it was.
        """
        try:
            self.sweep()
            number = self.newest_number() + 1
            attempt = self.path / _unfinished(f"{draft.step or 0}-{number}")
            with self._attempt(attempt):
                manifest = self._write(attempt, draft, state)
                number, path = self._name(attempt, draft.step or 0, number)
            return SavedCheckpoint(path, number, manifest)
        except OSError as error:
            raise CheckpointError(
                f"no checkpoint was written in {self.path}: {_cause(error)}; "
                f"those that were there are as they were",
                path=self.path,
            ) from error

    @contextlib.contextmanager
    def _attempt(self, path: Path) -> Iterator[None]:
        _under_way.add(path.name)
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                self._discard(path)
            raise
        finally:
            _under_way.discard(path.name)

    def _write(self, attempt: Path, draft: Manifest, state: Mapping[str, Any]) -> Manifest:
        self.files.makedirs(self.path)
        self.files.mkdir(attempt)
        with self.files.create(attempt / _STATE) as file:
            sums = {_STATE: write_payload(self.files, file, state)}
            self.files.fsync(file)
        manifest = replace(draft, files=sums)
        self._write_file(attempt / _MANIFEST, encode(manifest))
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
        """Write the name of a checkpoint into the file `latest`, at one instant."""
        attempt = self.path / _unfinished(_LATEST)
        try:
            with self._attempt(attempt):
                self._write_file(attempt, f"{saved.path.name}\n".encode())
                self.files.replace(attempt, self.path / _LATEST)
                self.files.fsync_directory(self.path)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {saved.path} is written, but {self.path / _LATEST} does not name it: "
                f"{_cause(error)}",
                path=saved.path,
            ) from error

    # -- deleting: only what is provably ours

    def remove(self, saved: SavedCheckpoint) -> None:
        """Delete a superseded checkpoint; one that holds anything else is left, and told.

        It loses its name first, so a process that dies here leaves no half of a checkpoint.
        """
        try:
            strange = self._strangers(saved.path, {*saved.manifest.files, _MANIFEST})
            if strange:
                logger.warning("%s is kept, for it holds %s", saved.path, strange)
                return
            doomed = self.path / _unfinished(saved.path.name)
            self.files.rename(saved.path, doomed)
            self._discard(doomed)
        except OSError as error:
            logger.warning("%s is not deleted: %s", saved.path, _cause(error))

    def sweep(self) -> None:
        """Delete what processes that died, or failed attempts of this one, left unfinished."""
        for entry in self.files.scandir(self.path):
            if _is_abandoned(entry.name):
                try:
                    self._discard(self.path / entry.name)
                except OSError as error:
                    logger.warning("%s is not deleted: %s", entry.path, _cause(error))

    def _discard(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            if self._strangers(path, {_STATE, _MANIFEST}):
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


def read_manifest(path: Path, files: Files) -> Manifest:
    """Read what a checkpoint says of itself; its payload is not touched.

    Raises
    ------
    CheckpointError
        It has no manifest, or one that is damaged.
    """
    with _unusable(path), _regular(path / _MANIFEST, files) as file:
        data = file.read(LARGEST_MANIFEST + 1)
        if len(data) > LARGEST_MANIFEST:
            raise ValueError(f"the manifest is larger than {LARGEST_MANIFEST} bytes")
        return decode(data)


def load_checkpoint(path: Path, files: Files) -> dict[str, Any]:
    """Verify a checkpoint, then load its state: plain Python and CPU tensors.

    Raises
    ------
    CheckpointError
        A file is missing, is too many, or is not what the manifest says; or the state holds more
        than plain Python and tensors.
    """
    manifest = read_manifest(path, files)
    with _unusable(path):
        names = {entry.name for entry in files.scandir(path)}
        if names != {*manifest.files, _MANIFEST}:
            raise ValueError(_difference({*manifest.files, _MANIFEST}, names))
        if set(manifest.files) != {_STATE}:
            raise ValueError(f"its manifest lists {', '.join(manifest.files)}, not {_STATE}")
        with _regular(path / _STATE, files) as file:
            _compare(summed(file), manifest.files[_STATE])
            file.seek(0)  # the very file that was verified
            return read_payload(file)


def _difference(expected: set[str], found: set[str]) -> str:
    missing, extra = expected - found, found - expected
    return f"files missing: {sorted(missing) or 'none'}, not in the manifest: {sorted(extra) or 'none'}"


def _compare(found: Sum, expected: Sum) -> None:
    if found.bytes != expected.bytes:
        raise ValueError(f"{_STATE} has {found.bytes} bytes instead of {expected.bytes}")
    if found.sha256 != expected.sha256:
        raise ValueError(f"{_STATE} does not match its SHA-256")


def _regular(path: Path, files: Files) -> Any:
    """Open a file that is neither a link nor a pipe: the one might lead away, the other hang."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(f"{path.name} is not a regular file")
    return files.open(path)


@contextlib.contextmanager
def _unusable(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a hostile or torn pickle may raise anything
        why = _cause(error) if isinstance(error, OSError) else _first_line(error)
        raise CheckpointError(f"checkpoint {path} cannot be used: {why}", path=path) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cause(error: OSError) -> str:
    return f"{error.strerror or error} (errno {error.errno}, {error.filename or 'while writing'})"


def _unfinished(what: str) -> str:
    return f".unfinished-{what}-{_HOST}-{os.getpid()}-{_TOKEN}"


def _is_abandoned(name: str) -> bool:
    match = _UNFINISHED.fullmatch(name)
    if match is None or match[1] != _HOST or name in _under_way:
        return False
    pid = int(match[2])
    return pid == os.getpid() or not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # there is no harmless signal to ask with
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
