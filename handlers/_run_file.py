"""The file that a run's records go to: started anew, or continued where a checkpoint was saved.

A position in it is a number of records and their checksum, so it survives a rewrite and tells one
run's file from another's. On resume the records after the position are dropped, as often as one
resumes. A file that is not this run's is never cut, overwritten or added to: it is renamed, to
`name.1.ext` and so on. Where that happens to this run's, since another begins in the same place,
the run follows it there. One that is deleted, or that others have written to, is begun anew, beside
what is there.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass
class _Own:
    """A file of the run's, and how the run left it."""

    place: Path  # where the run's names lead
    path: Path  # where it is
    position: Position
    header: bytes | None = None
    mark: _appending.Mark | None = None  # None: it is not begun


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

    Attributes
    ----------
    template : str
        The path as it was given.
    """

    def __init__(self, owner: str, path: str, form: Format) -> None:
        self._owner = owner
        self.template = path
        self._form = form
        self.renew()

    def renew(self) -> None:
        """Forget all: the next record begins a new file."""
        self._files: dict[Path, _Own] = {}  # by the paths that the run's names make
        self._path: Path | None = None
        self._names: RunNames | None = None
        self._resume = False
        self._position = Position()

    def state(self) -> dict[str, Any]:
        """Return the position as plain Python, once all that it counts is on the disk."""
        position = self._position
        if self._path is not None:
            position = self._file.position
            if self._file.path.exists():
                _appending.sync(self._file.path)
        names = self._names or RunNames(None, None)
        return {**names._asdict(), **position._asdict()}

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

    @property
    def header(self) -> bytes | None:
        """The header of the settled file; None before it has one."""
        return self._file.header

    def settle(self, names: RunNames) -> None:
        """Find out which file it is, and make it ready to be added to."""
        if self._path is not None and names == self._names:
            return
        path = self._path_of(names)
        if path == self._path:
            return
        if path not in self._files:  # several emitters have names of their own each
            self._files[path] = self._continue(path) if self._resume else self._begin(path)
        self._path, self._names, self._resume = path, names, False

    def append(self, record: bytes) -> None:
        """Add a record to the settled file, wherever that is."""
        file = self._file
        if file.mark is None:
            self._begin_first(file, b"")
        try:
            file.mark = _appending.append(file.path, record, file.mark)
        except FileNotFoundError:
            self._search(file)
            file.mark = _appending.append(file.path, record, file.mark)
        file.position = file.position.after(self._form.canonical(record))

    def set_header(self, header: bytes, widen: Callable[[bytes], bytes]) -> None:
        """Give the settled file a header; what is there is rewritten, each record by `widen`."""
        file = self._file
        if file.mark is None:
            self._begin_first(file, header)
        else:
            if not _is_as_left(file, file.path):
                self._search(file)
            content = b"".join([header, *map(widen, self._records(file.path)[1:])])
            file.mark = _appending.replace(file.path, content)
        file.header = header

    # -- which file it is

    @property
    def _file(self) -> _Own:
        assert self._path is not None, "settle the file first"
        return self._files[self._path]

    def _path_of(self, names: RunNames) -> Path:
        return path_of_run(self._owner, self.template, names)

    def _begin(self, path: Path) -> _Own:
        check_folder(self._owner, path.parent).mkdir(parents=True, exist_ok=True)
        _appending.keep_aside(path)
        return _Own(path, path, Position())

    def _continue(self, path: Path) -> _Own:
        for candidate in self._candidates(path):
            records = self._up_to(self._position, candidate)
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

    def _up_to(self, position: Position, path: Path) -> list[bytes] | None:
        first = 1 if self._form.header else 0
        records = self._records(path)[: first + position.records]
        found = Position()
        for record in records[first:]:
            found = found.after(self._form.canonical(record))
        return records if found == position else None

    def _take_over(self, path: Path, source: Path, records: list[bytes]) -> _Own:
        content = b"".join(records)
        if source == path:
            os.truncate(path, len(content))
            mark = _appending.mark_of(path)
        else:
            _appending.keep_aside(path)
            mark = _appending.replace(path, content)
        header = records[0] if self._form.header else None
        return _Own(path, path, self._position, header, mark)

    def _records(self, path: Path) -> list[bytes]:
        return self._form.split(path.read_bytes()) if path.is_file() else []

    # -- where it went, while the run goes on

    def _search(self, file: _Own) -> None:
        """Find the file that others have moved or rewritten; begin another where it is nowhere."""
        before, places = file.path, [file.place, *_appending.kept_aside(file.place)]
        for place in places:
            if _is_as_left(file, place):  # a run that begins in its place has kept it aside
                file.path = place
                return _tell(before, place)
        for place in places:
            if mark := self._mark_of_copy(file, place):
                file.path, file.mark = place, mark
                return None if place == before else _tell(before, place)
        return self._begin_again(file)

    def _mark_of_copy(self, file: _Own, path: Path) -> _appending.Mark | None:
        """Return the mark of what holds the records of the run, and nothing else."""
        mark, records = _appending.mark_of(path), self._written_in(path, file)
        if mark is None or records is None or sum(map(len, records)) != mark.size_bytes:
            return None
        # Some file systems number a file anew each time: its size alone tells from there on.
        return mark._replace(number=0)

    def _written_in(self, path: Path, file: _Own) -> list[bytes] | None:
        """Return the records of the run if they are all there, whatever follows them."""
        records = self._up_to(file.position, path)
        if records is None or (self._form.header and records[:1] != [file.header]):
            return None
        return records

    def _begin_again(self, file: _Own) -> None:
        """Begin another file, with the header, and with the records as far as they are there."""
        before, there = file.path, _appending.mark_of(file.place)
        records = self._written_in(file.place, file)
        if records is None:
            file.position, records = Position(), [file.header or b""]
        if there is not None and there.size_bytes == 0:  # rotating logs leaves it empty
            file.path = file.place
            file.mark = _appending.append(file.place, b"".join(records), there)
        else:
            self._create(file, b"".join(records))
        _tell(before, file.path)

    def _begin_first(self, file: _Own, content: bytes) -> None:
        self._create(file, content)
        if file.path != file.place:  # another run took the place
            _tell(file.place, file.path)

    def _create(self, file: _Own, content: bytes) -> None:
        check_folder(self._owner, file.place.parent)
        try:
            file.path, file.mark = file.place, _appending.create(file.place, content)
        except FileExistsError:
            file.path, file.mark = _appending.create_beside(file.place, content)


def _is_as_left(file: _Own, path: Path) -> bool:
    there = _appending.mark_of(path)
    return file.mark is not None and there is not None and file.mark.fits(there)


def _tell(before: Path, path: Path) -> None:
    if path == before:
        _log.warning("%s is gone: a new one is begun", path)
    else:
        _log.warning("%s is not what this run has written: it goes on in %s", before, path)
