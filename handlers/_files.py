"""The one door through which a checkpoint touches the disk.

Every operation that changes or reads the file system is a method here, so that a test can stop the
world before the n-th of them, or make it fail, without patching anything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["Files"]


class Files:
    """The real file system. Errors are the `OSError`s of the operating system, untouched.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> files = Files()
    >>> with files.create(folder / "a") as file:
    ...     files.write(file, b"text")
    ...     files.fsync(file)
    >>> [entry.name for entry in files.scandir(folder)]
    ['a']
    """

    def makedirs(self, path: Path) -> None:
        """Make a directory and those above it; one that is there is kept."""
        path.mkdir(parents=True, exist_ok=True)

    def mkdir(self, path: Path) -> None:
        """Make one new directory; `FileExistsError` where there is one."""
        path.mkdir()

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing; an existing one is never overwritten."""
        return path.open("xb")

    def open(self, path: Path) -> BinaryIO:
        """Open a file for reading."""
        return path.open("rb")

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        file.write(data)

    def fsync(self, file: BinaryIO) -> None:
        """Bring what was written to the disk."""
        file.flush()
        os.fsync(file.fileno())

    def fsync_directory(self, path: Path) -> None:
        """Bring the names in a directory to the disk, where the system can (Windows cannot)."""
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a directory its final name; fails where that is taken."""
        source.rename(target)

    def replace(self, source: Path, target: Path) -> None:
        """Put a file in the place of another, at one instant."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Delete one file."""
        path.unlink()

    def rmdir(self, path: Path) -> None:
        """Delete one empty directory."""
        path.rmdir()

    def scandir(self, path: Path) -> list[os.DirEntry[str]]:
        """List a directory, by name; one that does not exist holds nothing."""
        try:
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
