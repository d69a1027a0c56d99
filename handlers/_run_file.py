"""The file that a run's records go to: started anew, or continued where a checkpoint was saved.

A position in it is a number of records and their checksum, so it survives a rewrite and tells one
run's file from another's. On resume the records after the position are dropped, as often as one
resumes. A file that is not this run's is never cut, overwritten or added to: it is renamed, to
`name.1.ext` and so on.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from eventbus.handlers import _appending
from eventbus.handlers._paths import RunNames, check_folder, path_of_run

_log = logging.getLogger("eventbus.handlers.files")


class Format(NamedTuple):
    """What a file of records looks like.

    Attributes
    ----------
    split
        Takes a file's bytes; returns its complete records, without a torn last one.
    canonical
        Takes a record; returns what stays the same of it when the file is rewritten.
    header
        Whether the first record is a header, which no position counts.
    """

    split: Callable[[bytes], list[bytes]]
    canonical: Callable[[bytes], bytes] = bytes
    header: bool = False


def split_lines(content: bytes) -> list[bytes]:
    """Split into complete lines, line ends kept; a torn last one is left out."""
    lines = content.split(b"\n")
    return [line + b"\n" for line in lines[:-1]]


class Position(NamedTuple):
    """How far a file has got: records, and the checksum of their canonical bytes."""

    records: int = 0
    checksum: int = 0

    def after(self, canonical: bytes) -> Position:
        """Return the position behind one more record."""
        return Position(self.records + 1, zlib.crc32(canonical, self.checksum))


class RunFile:
    """The file of the run under way.

    Parameters
    ----------
    owner
        The handler's name, for messages.
    path
        Where; `{run}` and `{run_id}` in it are replaced by the run's.
    form
        How the file is split into records.
    """

    def __init__(self, owner: str, path: str, form: Format) -> None:
        self._owner = owner
        self._template = path
        self._form = form
        self.renew()

    def renew(self) -> None:
        """Forget all: the next record begins a new file."""
        self._own: dict[Path, tuple[Position, bytes | None]] = {}
        self.path: Path | None = None
        self.header: bytes | None = None
        self._names: RunNames | None = None
        self._resume = False
        self._position = Position()

    def state(self) -> dict[str, Any]:
        """Return the position as plain Python, once all that it counts is on the disk."""
        if self.path is not None and self.path.exists():
            _appending.sync(self.path)
        names = self._names or RunNames(None, None)
        return {**names._asdict(), **self._position._asdict()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a position: the next record, or `settle`, drops what comes after it."""
        self.renew()
        self._names = RunNames(state["run_id"], state.get("run"))  # older ones have no name
        self._position = Position(int(state["records"]), int(state["checksum"]))
        self._resume = self._position.records > 0

    @property
    def resumes(self) -> bool:
        """Whether it goes on from a checkpoint that it has not looked for yet."""
        return self._resume

    def settle(self, names: RunNames) -> None:
        """Find out which file it is, and make it ready to be added to."""
        if self.path is not None and names == self._names:
            return
        path = self._path_of(names)
        if self.path == path:
            return
        if self.path is not None:  # several emitters, each with names of its own
            self._own[self.path] = self._position, self.header
        if path in self._own:
            self._position, self.header = self._own[path]
        elif self._resume:
            self._continue(path)
        else:
            self._begin(path)
        self.path, self._names, self._resume = path, names, False

    def append(self, record: bytes) -> None:
        """Add a record to the settled file."""
        assert self.path is not None, "settle the file first"
        _appending.append(self.path, record)
        self._position = self._position.after(self._form.canonical(record))

    def set_header(self, header: bytes, widen: Callable[[bytes], bytes]) -> None:
        """Give the settled file a header; what is there is rewritten, each record by `widen`."""
        assert self.path is not None, "settle the file first"
        records = self._records(self.path)[1:]
        _appending.replace(self.path, b"".join([header, *map(widen, records)]))
        self.header = header

    def _path_of(self, names: RunNames) -> Path:
        return path_of_run(self._owner, self._template, names)

    def _begin(self, path: Path) -> None:
        self._position, self.header = Position(), None
        check_folder(self._owner, path.parent).mkdir(parents=True, exist_ok=True)
        _appending.keep_aside(path)

    def _continue(self, path: Path) -> None:
        for candidate in self._candidates(path):
            records = self._up_to_position(candidate)
            if records is not None:
                return self._take_over(path, candidate, records)
        _log.warning(
            "no file at %s holds the %d records of the checkpoint: a new one is begun",
            path,
            self._position.records,
        )
        return self._begin(path)

    def _candidates(self, path: Path) -> list[Path]:
        candidates = [path, *_appending.kept_aside(path)]
        with suppress(ValueError):  # a name out of a checkpoint is a file's, or nothing
            candidates.append(self._path_of(self._names or RunNames(None, None)))
        return [candidate for candidate in candidates if candidate.is_file()]

    def _up_to_position(self, path: Path) -> list[bytes] | None:
        first = 1 if self._form.header else 0
        records = self._records(path)[: first + self._position.records]
        found = Position()
        for record in records[first:]:
            found = found.after(self._form.canonical(record))
        return records if found == self._position else None

    def _take_over(self, path: Path, source: Path, records: list[bytes]) -> None:
        content = b"".join(records)
        self.header = records[0] if self._form.header else None
        if source == path:
            os.truncate(path, len(content))
        else:
            _appending.keep_aside(path)
            _appending.replace(path, content)

    def _records(self, path: Path) -> list[bytes]:
        return self._form.split(path.read_bytes()) if path.exists() else []
