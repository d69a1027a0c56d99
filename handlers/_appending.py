"""Files that hold complete records, whatever kills the process.

A record goes out in one `write` on a descriptor opened with `O_APPEND`, and is taken back where the
disk had room for only a part of it. The file is opened for each record: some microseconds, and no
descriptor is left open, inherited by a fork, or lost with a handler that nobody closes.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

_log = logging.getLogger("eventbus.handlers.files")
_MODE = 0o666  # less the umask, as `open` does


def append(path: Path, record: bytes) -> None:
    """Add one complete record at the end of the file, or nothing.

    Raises
    ------
    OSError
        It could not be written; the file is as it was.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
    try:
        written = os.write(file, record)
        if written < len(record):  # the disk is full, or a limit on file size is reached
            os.ftruncate(file, os.fstat(file).st_size - written)
            raise OSError(errno.ENOSPC, "no room for the whole record", str(path))
    finally:
        os.close(file)


def replace(path: Path, content: bytes) -> None:
    """Put the whole content in place at once: a reader sees the old or the new, never a part."""
    check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")  # one name: a killed process leaves at most one
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def keep_aside(path: Path) -> Path | None:
    """Rename an existing file to the first free of `name.1.ext`, `name.2.ext` …; return that.

    Raises
    ------
    FileExistsError
        What is there is no file.
    """
    if not path.exists():
        return None
    check_file(path)
    number = 1
    while (kept := _aside(path, number)).exists():
        number += 1
    path.rename(kept)
    _log.info("%s is of another run: kept as %s", path, kept.name)
    return kept


def kept_aside(path: Path) -> list[Path]:
    """Return what `keep_aside` put away, latest first."""
    found: list[Path] = []
    while (kept := _aside(path, len(found) + 1)).exists():
        found.append(kept)
    return found[::-1]


def check_file(path: Path) -> None:
    """Refuse what is there and is not a file: a folder, with all that somebody has in it.

    Raises
    ------
    FileExistsError
        It is that.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no file"
        raise FileExistsError(f"{path} is {kind}: it is left as it is, and nothing is written")


def sync(path: Path) -> None:
    """Have the operating system put the file on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")
