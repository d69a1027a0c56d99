"""Files that hold complete records, whatever kills the process.

A record goes out in one `write` on a descriptor opened with `O_APPEND`, and is taken back where the
disk had room for only a part of it. The file is opened for each record: some microseconds, and no
descriptor is left open, inherited by a fork, or lost with a handler that nobody closes. So the file
may be moved, deleted or exchanged meanwhile: its mark tells.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger("eventbus.handlers.files")
_MODE = 0o666  # less the umask, as `open` does
_FLAGS = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows alone has that


class Mark(NamedTuple):
    """What tells a file from another under its name, and from itself with what others wrote.

    Attributes
    ----------
    device, number
        Which file it is; the number is 0 where the file system gives none that can be relied on.
    size_bytes
        How long it is.
    """

    device: int
    number: int
    size_bytes: int

    @classmethod
    def of(cls, status: os.stat_result) -> Mark:
        """Return the mark of a file with this status."""
        return cls(status.st_dev, status.st_ino, status.st_size)

    def fits(self, other: Mark) -> bool:
        """Whether it is the same file, and nobody changed it."""
        numbered = self.number and other.number
        return self == other if numbered else self.size_bytes == other.size_bytes


def mark_of(path: Path) -> Mark | None:
    """Return the mark of the file there; None where there is none."""
    try:
        return Mark.of(path.stat())
    except FileNotFoundError:
        return None


def create(path: Path, content: bytes) -> Mark:
    """Begin a file, and the folder that it is to be in; return its mark.

    Raises
    ------
    FileExistsError
        There is one, maybe since a moment ago.
    OSError
        It could not be written; there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()  # of a link, too, that leads to a file which is to be made
    file = os.open(target, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        return _fill(file, content, path)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def create_beside(path: Path, content: bytes) -> tuple[Path, Mark]:
    """Begin a file under the first free of `name.1.ext`, `name.2.ext` and so on."""
    for beside in _beside(path):
        with suppress(FileExistsError):
            return beside, create(beside, content)
    raise AssertionError("numbers do not end")


def append(path: Path, record: bytes, mark: Mark | None = None) -> Mark:
    """Add one complete record at the end of the file, or nothing; return its mark.

    Raises
    ------
    FileNotFoundError
        It is not there; or what is there has another mark than the one that is given.
    OSError
        It could not be written; the file is as it was.
    """
    file = os.open(path, _FLAGS)
    try:
        found = Mark.of(os.fstat(file))
        if mark is not None and not mark.fits(found):
            raise FileNotFoundError(errno.ENOENT, "not the file that it was", str(path))
        _write(file, record, path)
    finally:
        os.close(file)
    # Reckoned, not read: what another process adds at the same moment is to be noticed.
    return (mark or found)._replace(size_bytes=found.size_bytes + len(record))


def _fill(file: int, content: bytes, path: Path) -> Mark:
    try:
        _write(file, content, path)
        return Mark.of(os.fstat(file))
    finally:
        os.close(file)


def _write(file: int, record: bytes, path: Path) -> None:
    written = os.write(file, record)
    if written < len(record):  # the disk is full, or a limit on file size is reached
        os.ftruncate(file, os.fstat(file).st_size - written)
        raise OSError(errno.ENOSPC, "no room for the whole record", str(path))


def replace(path: Path, content: bytes) -> Mark:
    """Put the whole content in place at once: a reader sees the old or the new, never a part."""
    check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()  # a link stays one
    draft = path.with_name(f".{path.name}.tmp")  # one name: a killed process leaves at most one
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            mark = Mark.of(os.fstat(file.fileno()))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return mark


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
    kept, _ = create_beside(path, b"")  # the name is taken at once: renaming overwrites
    try:
        path.replace(kept)
    except FileNotFoundError:  # another run that begins has kept it
        kept.unlink()
        return None
    _log.info("%s is of another run: kept as %s", path, kept.name)
    return kept


def kept_aside(path: Path) -> list[Path]:
    """Return what `keep_aside` put away, latest first."""
    return list(takewhile(Path.exists, _beside(path)))[::-1]


def check_file(path: Path) -> None:
    """Refuse what is there and is not a file: a folder, with all that somebody has in it.

    A link to what a process has open, such as `/dev/stdout`, is no file either, wherever it leads.

    Raises
    ------
    FileExistsError
        It is that.
    """
    if _is_of_the_system(path):
        raise FileExistsError(f"{path} is no file of its own: ConsoleLog prints; name a file here")
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no file"
        raise FileExistsError(f"{path} is {kind}: it is left as it is, and nothing is written")


def _is_of_the_system(path: Path) -> bool:
    places = [path.absolute(), *([path.readlink()] if path.is_symlink() else ())]
    return any(
        place.is_relative_to(one) and not place.is_relative_to("/dev/shm")  # a disk in memory
        for place in places
        for one in ("/dev", "/proc")
    )


def sync(path: Path) -> None:
    """Have the operating system put the file on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _beside(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
