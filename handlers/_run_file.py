"""The file that a run's records go to: started anew, or continued where a checkpoint was saved.

A position in it is a number of records and their checksum, so it survives a rewrite and tells one
run's file from another's. On resume the records after the position are dropped, as often as one
resumes. A file that is not this run's is never cut, overwritten or added to: it is renamed, to
`name.1.ext` and so on.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from eventbus.handlers import _appending

_log = logging.getLogger("eventbus.handlers.files")
_LABEL = re.compile(r"[\w.+=@-]+")


def path_of_run(template: str, run_id: str | None) -> Path:
    """Put the run's id in the place of `{run_id}`.

    Raises
    ------
    ValueError
        The id cannot be a file name.
    """
    if "{run_id}" not in template:
        return Path(template)
    if run_id is None or not _LABEL.fullmatch(run_id) or run_id in (".", ".."):
        raise ValueError(
            f"the path {template!r} names the run: its run_id must be letters, digits and any of "
            f"_ . + = @ -; got {run_id!r}"
        )
    return Path(template.replace("{run_id}", run_id))


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
    path
        Where; `{run_id}` in it is replaced by the run's.
    form
        How the file is split into records.
    """

    def __init__(self, path: str, form: Format) -> None:
        self._template = path
        self._form = form
        self.renew()

    def renew(self) -> None:
        """Forget all: the next record begins a new file."""
        self._own: dict[Path, tuple[Position, bytes | None]] = {}
        self.path: Path | None = None
        self.header: bytes | None = None
        self._run_id: str | None = None
        self._resume = False
        self._position = Position()

    def state(self) -> dict[str, Any]:
        """Return the position as plain Python, once all that it counts is on the disk."""
        if self.path is not None and self.path.exists():
            _appending.sync(self.path)
        return {"run_id": self._run_id, **self._position._asdict()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a position: the next record, or `settle`, drops what comes after it."""
        self.renew()
        self._run_id = state["run_id"]
        self._position = Position(int(state["records"]), int(state["checksum"]))
        self._resume = self._position.records > 0

    @property
    def resumes(self) -> bool:
        """Whether it goes on from a checkpoint that it has not looked for yet."""
        return self._resume

    def settle(self, run_id: str | None) -> None:
        """Find out which file it is, and make it ready to be added to."""
        if self.path is not None and run_id == self._run_id:
            return
        path = path_of_run(self._template, run_id)
        if self.path == path:
            return
        if self.path is not None:  # several emitters, each with a run_id of its own
            self._own[self.path] = self._position, self.header
        if path in self._own:
            self._position, self.header = self._own[path]
        elif self._resume:
            self._continue(path)
        else:
            self._begin(path)
        self.path, self._run_id, self._resume = path, run_id, False

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

    def _begin(self, path: Path) -> None:
        self._position, self.header = Position(), None
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _appending.keep_aside(path)
        if kept is not None:
            _log.info("%s is of another run: kept as %s", path, kept.name)

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
        with suppress(ValueError):  # an id out of a checkpoint names a file name, or nothing
            candidates.append(path_of_run(self._template, self._run_id))
        return [candidate for candidate in candidates if candidate.exists()]

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
