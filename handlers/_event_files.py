"""TensorBoard's event files of one run: begun anew, or continued where a checkpoint was saved.

Each record is appended at once, by `_appending`: a file is whole whatever kills the process, and
no background thread is there to lose an error or what it has not written yet.

A run that resumes begins another file in the same folder, with the mark by which TensorBoard drops
all that was filed from a step on (`purge_step`, it is called elsewhere). That step is the last one
filed before the checkpoint, and what was filed under it until then is filed once more: nothing is
lost, and nothing is there twice. So it is where a file is deleted or moved under the run.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eventbus.handlers import _appending
from eventbus.handlers._paths import RunNames, check_folder, folder_given, path_of_run
from eventbus.handlers._summaries import proto

_log = logging.getLogger("eventbus.handlers.tensorboard")
_STAMP = re.compile(r"events\.out\.tfevents\.(\d+)\.")
_VERSION = "brain.Event:2"  # from this one on TensorBoard heeds the mark of a resumed run


class EventFiles:
    """The event files of the run under way.

    Parameters
    ----------
    template
        The folder; `{run}` and `{run_id}` in it are replaced by the run's.
    clock
        The wall clock, in seconds since 1970.

    Attributes
    ----------
    folder : Path or None
        Where they are; None before the first record.
    """

    def __init__(self, template: str | os.PathLike[str], clock: Callable[[], float]) -> None:
        self._template = folder_given("TensorBoard", template)
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """Forget all: the next record begins a new folder."""
        self.folder: Path | None = None
        self._path: Path | None = None
        self._names = RunNames(None, None)
        self._first_file: str | None = None
        self._step: int | None = None
        self._of_step: dict[Any, bytes] = {}
        self._resumes = False

    def write(self, names: RunNames, values: Sequence[Any], step: int) -> None:
        """File summary values under a step."""
        if self._path is None:
            self._open(names)
        summary = proto("compat.proto.summary_pb2").Summary(value=values)
        record = self._record(step=step, summary=summary)
        try:
            self._append(record)
        except FileNotFoundError:
            self._open_again(names)
            self._append(record)
        self._remember(step, tuple(value.tag for value in values), record)

    def state(self) -> dict[str, Any]:
        """Return the position as plain Python, once all that it counts is on the disk."""
        if self._path is not None and self._path.exists():
            _appending.sync(self._path)
        return {
            **self._names._asdict(),
            "first_file": self._first_file,
            "step": self._step,
            "of_step": list(self._of_step.values()),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a position: the next record drops what was filed after it."""
        self.renew()
        self._names = RunNames(state["run_id"], state.get("run"))  # older ones have no name
        self._first_file = state["first_file"]
        self._step = state["step"]
        self._of_step = dict(enumerate(state["of_step"]))
        self._resumes = self._first_file is not None

    def _remember(self, step: int, tags: tuple[str, ...], record: bytes) -> None:
        if self._step is None or step > self._step:
            self._step, self._of_step = step, {}
        if step == self._step:
            self._of_step[tags] = record  # one for each, however often it is filed

    def _append(self, record: bytes) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._path is not None, "open a file first"
        RecordWriter(_Appending(self._path)).write(record)

    # -- which folder, which file

    def _open(self, names: RunNames) -> None:
        if not self._resumes:
            self._names = names
        self.folder = self._folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / self._new_name(self.folder)
        try:
            self._begin_file()
        except BaseException:
            self._path = None  # another is begun with the next record
            raise
        self._first_file = self._first_file or self._path.name
        self._resumes = False

    def _open_again(self, names: RunNames) -> None:
        """Begin another file in the place of one that was deleted or moved, as if it resumed."""
        _log.warning("%s is gone: a new one is begun", self._path)
        self._path, self._resumes = None, True
        self._open(names)

    def _begin_file(self) -> None:
        assert self._path is not None, "open a file first"
        _appending.create(self._path, b"")
        self._append(self._record(file_version=_VERSION))
        # TensorBoard takes the first mark in a folder for the start of the run, so a run that does
        # not resume needs one too, or the first that does would drop nothing.
        session = proto("compat.proto.event_pb2").SessionLog
        step = self._step if self._resumes else 0
        self._append(self._record(step=step, session_log=session(status=session.START)))
        for record in self._of_step.values():
            self._append(record)

    def _record(self, **parts: Any) -> bytes:
        event = proto("compat.proto.event_pb2").Event(wall_time=self._clock(), **parts)
        return bytes(event.SerializeToString())

    def _folder(self) -> Path:
        path = path_of_run("TensorBoard", self._template, self._names)
        check_folder("TensorBoard", path)
        folders = _numbered(path)
        folder = next(folders)
        while _stamps(folder):
            if self._resumes and (folder / str(self._first_file)).exists():
                return folder
            folder = next(folders)
        if self._resumes:
            self._first_file = None
            if folder != self.folder:
                _log.warning("no folder at %s is that of the run: %s is begun", path, folder)
        return folder

    def _new_name(self, folder: Path) -> str:
        # TensorBoard reads the files of a folder in the order of their names, so the name must not
        # fall behind with the clock, nor two of one second be ordered by their process.
        stamp = max([int(self._clock()), *(each + 1 for each in _stamps(folder))])
        return f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"


class _Appending:
    """What `RecordWriter` writes to: each record in one go."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, record: bytes) -> None:
        _appending.append(self._path, record)


def _numbered(path: Path) -> Iterator[Path]:
    """Yield the folder, then `name.1`, `name.2` and so on."""
    yield path
    path = path.absolute()  # a name for `.` too
    number = 0
    while True:
        number += 1
        yield path.with_name(f"{path.name}.{number}")


def _stamps(folder: Path) -> list[int]:
    names = (_STAMP.match(path.name) for path in folder.glob("events.out.tfevents.*"))
    return [int(found[1]) for found in names if found]
