"""What happened in a run as a file of JSON lines."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eventbus import Event
from eventbus.handlers._arguments import When
from eventbus.handlers._configs import settings_of
from eventbus.handlers._paths import file_given
from eventbus.handlers._rows import facts, in_order
from eventbus.handlers._run_file import Format, split_lines
from eventbus.handlers._run_log import OnEach, Row, RunLog

__all__ = ["JSONLLog"]

_ON = (
    "run_started",
    "epoch_finished",
    "epoch_interrupted",
    "batch_skipped",
    "validation_done",
    "validation_interrupted",
    "metrics_measured",
    "checkpoint_saved",
    "stop_requested",
    "handler_failed",
    "run_finished",
    "run_failed",
)
_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JSONLLog(RunLog):
    """Appends a JSON object for each emission, on a line of its own.

    An object holds `time` (UTC, ISO 8601), `run_id`, `signal`, `sender`, then the emission's fields
    that are numbers, text, or lists and mappings of them: `epoch`, `step`, `metrics`, `reason` and
    so on; `run_started` also the run's `config`, where it has one. Data (batches, outputs, figures)
    is left out. JSON has no NaN and no infinity: they are
    written as the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, and `read` makes them numbers
    again.

    Lines are complete, whatever kills the process: each goes out in one write, and one that finds
    no room is taken back. (A kill in the very middle of a write, or a power cut, can tear the last
    line: `read` leaves it out and a resume repairs it.)

    A resumed run goes on where its checkpoint was saved: later lines are dropped. A new run begins
    a new file; one that is there already is kept as `name.1.jsonl`, `name.2.jsonl` and so on, the
    latest with the highest number. Where that befalls a run that is still going on, it follows its
    file there. A file that is deleted or moved meanwhile is begun anew, and a warning says so; one
    that others write to is left, and the run goes on in the next free name.

    Lines from before `run_started` are held until then, as only that tells whether the run resumes.

    ==================  =====================================================================
    signals consumed    those of `on`; `run_opened`, `run_started`, `run_finished`, `run_closed`
    values produced     a file
    cost                one write for each line, and reading the metrics: one transfer from
                        the device. `metrics_measured` gives a line each time, which with
                        `GradientClipping` is each step: a filter for it makes them fewer
    state               the position in the file
    band, errors        REPORT; isolated; rank 0 writes
    ==================  =====================================================================

    Parameters
    ----------
    path
        Where. `{run}` and `{run_id}` in it become the run's name and id; one that resumes under
        others takes the earlier file's lines along into its own, and leaves that file as it is.
    on
        The signals that give a line each; as a mapping, each with a filter of its own:
        `{"epoch_finished": None, "batch_finished": every(100)}`. Unless given, what happens at most
        once in an epoch, batches that are skipped, and all that handlers measure.
    when
        A filter on all of them.
    clock
        The wall clock, in seconds since 1970.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import JSONLLog
    >>> bus, path = EventBus(), Path(tempfile.mkdtemp()) / "run.jsonl"
    >>> loop = bus.bind(run_id="digits")
    >>> with bus.attach(JSONLLog(path, clock=lambda: 0.0)):
    ...     _ = loop.emit("epoch_finished", epoch=1, step=10, metrics={"loss": float("nan")})
    >>> print(path.read_text(), end="")  # doctest: +NORMALIZE_WHITESPACE
    {"time": "1970-01-01T00:00:00.000Z", "run_id": "digits", "signal": "epoch_finished",
     "epoch": 1, "step": 10, "metrics": {"loss": "NaN"}}
    >>> JSONLLog.read(path)[0]["metrics"]
    {'loss': nan}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        on: OnEach = _ON,
        *,
        when: When | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        file = file_given("JSONLLog", path, such_as="run.jsonl")
        super().__init__(file, Format(split_lines), on, when)
        self._clock = clock

    @staticmethod
    def read(path: str | os.PathLike[str]) -> list[Row]:
        """Read a file back: a dict for each line; a torn last line is left out.

        Raises
        ------
        ValueError
            A line before the last is not a JSON object.
        """
        lines = split_lines(Path(path).read_bytes())
        return [
            _parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)
        ]

    def _row(self, event: Event) -> Row:
        known = {
            "run_id": event.from_context("run_id", None),
            "signal": event.name,
            "sender": event.sender,
        }
        row: Row = {"time": _spell(self._clock())}
        row |= {name: value for name, value in known.items() if value is not None}
        row |= {name: value for name, value in facts(in_order(event)) if name not in row}
        config = event.from_context("config", None)
        if event.name == "run_started" and config is not None:
            row["config"] = settings_of(config)
        return row

    def _add(self, row: Row) -> None:
        text = json.dumps(_valid(row), ensure_ascii=False, allow_nan=False)
        # A lone surrogate becomes \udc80, which is how JSON would escape it.
        self._file.append(text.encode("utf-8", "backslashreplace") + b"\n")


def _spell(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def _valid(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _valid(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_valid(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _NAMES.get(value, "NaN")
    return value


def _revive(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _revive(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_revive(item) for item in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not a JSON line: {where}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object: {where}; got {row!r:.50}")
    return {name: _revive(value) for name, value in row.items()}
