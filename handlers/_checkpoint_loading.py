"""Reading a checkpoint: the manifest first, the sums before anything is unpickled."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from eventbus import EventBusError

from ._checkpoint_manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    STATE,
    DamageError,
    Manifest,
    Sum,
    decode,
)
from ._checkpoint_payload import offender, read_payload, summed
from ._files import Files

__all__ = [
    "CheckpointError",
    "cause",
    "check_loadable",
    "load_checkpoint",
    "read_manifest",
    "unreadable",
]


class CheckpointError(EventBusError):
    """A checkpoint could not be written, or cannot be used.

    Attributes
    ----------
    path : str
        The checkpoint, or the directory that it was to be in.
    damaged : bool
        Its files are not those that were written; else it may be good, but not for this program.
    unreadable : bool
        The system did not let it be read, though it is there; it may be sound.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path = "",  # which is not there yet where it is unpickled
        damaged: bool = False,
        unreadable: bool = False,
    ) -> None:
        super().__init__(message, handler="Checkpoint")
        self.path = str(path)
        self.damaged = damaged
        self.unreadable = unreadable


def check_loadable(state: Mapping[str, Any], directory: Path) -> None:
    """Refuse state that would not load again, before anything of it is written.

    Raises
    ------
    CheckpointError
        It names the first part of it that is neither a tensor nor plain Python.
    """
    found = offender(state)
    if found is not None:
        raise CheckpointError(
            f"no checkpoint was written in {directory}: {found}, which "
            "torch.load(weights_only=True) would refuse; state is tensors and plain Python",
            path=directory,
        )


def read_manifest(path: Path, files: Files) -> Manifest:
    """Read what a checkpoint says of itself; its payload is not touched.

    Raises
    ------
    CheckpointError
        It has no manifest, or one that is damaged.
    """
    with _unusable(path), _regular(path / MANIFEST, files) as file:
        size = os.fstat(file.fileno()).st_size  # to ask for the most would take memory for that
        if size > LARGEST_MANIFEST:
            raise DamageError(f"the manifest is larger than {LARGEST_MANIFEST} bytes")
        return decode(file.read(size))


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
        if names != {*manifest.files, MANIFEST}:
            raise _difference({*manifest.files, MANIFEST}, names)
        if set(manifest.files) != {STATE}:
            raise ValueError(f"its manifest lists {', '.join(manifest.files)}, not {STATE}")
        with _regular(path / STATE, files) as file:
            _compare(summed(file), manifest.files[STATE])
            file.seek(0)  # the very file that was verified
            return read_payload(file)


def _difference(expected: set[str], found: set[str]) -> ValueError:
    missing, extra = expected - found, found - expected
    told = [f"{name} is missing" for name in sorted(missing)]
    told += [f"{name} is not in its manifest" for name in sorted(extra)]
    text = ", ".join(told)
    return DamageError(text) if missing else ValueError(text)


def _compare(found: Sum, expected: Sum) -> None:
    if found.bytes != expected.bytes:
        raise DamageError(f"{STATE} has {found.bytes} bytes instead of {expected.bytes}")
    if found.sha256 != expected.sha256:
        raise DamageError(f"{STATE} does not match its SHA-256")


def _regular(path: Path, files: Files) -> BinaryIO:
    """Open a file that is neither a link nor a pipe: the one might lead away, the other hang."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DamageError(f"{path.name} is not a regular file")
    return files.open(path)


@contextlib.contextmanager
def _unusable(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        text = f"checkpoint {path} cannot be used: {_missing(path, error)}"
        raise CheckpointError(text, path=path) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # a hostile or torn pickle may raise anything
        text = f"checkpoint {path} cannot be used: {_first_line(error)}"
        damaged = isinstance(error, DamageError)
        raise CheckpointError(text, path=path, damaged=damaged) from error


def _missing(path: Path, error: OSError) -> str:
    if path.is_symlink() and not path.is_dir():
        return f"it is a link to {path.readlink()}, and no directory is there"
    return cause(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Word that something is there which may be sound, and cannot be read."""
    return CheckpointError(
        f"{path} cannot be read: {cause(error, 'while reading')}; it may be sound, so no "
        "older one takes its place: try again when it can be read, or rename it to do without it",
        path=path,
        unreadable=True,
    )


def cause(error: OSError, doing: str = "while writing") -> str:
    """Word what the operating system said, and about which file."""
    return f"{error.strerror or error} (errno {error.errno}, {error.filename or doing})"
