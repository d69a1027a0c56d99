"""The metrics of a run as a CSV file."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from eventbus import Event
from eventbus.handlers._arguments import When
from eventbus.handlers._paths import file_given
from eventbus.handlers._rows import facts, in_order
from eventbus.handlers._run_file import Format, split_lines
from eventbus.handlers._run_log import OnEach, Row, RunLog

__all__ = ["CSVLog"]

_NOT_FOR_CSV = frozenset({"complete", "batch_size", "batch_index", "duration_s", "data_wait_s"})


class CSVLog(RunLog):
    """Appends a row for each epoch: epoch, step, and a column for each metric.

    Rows are complete, whatever kills the process: each goes out in one write, and one that finds
    no room is taken back. (A kill in the very middle of a write, or a power cut, can tear the last
    row: `read` leaves it out and a resume repairs it.)

    A metric that is seen for the first time adds a column, and the file is rewritten with the wider
    header in one step; a row that has not a metric leaves its cell empty. NaN and infinities are
    `nan`, `inf` and `-inf`; numbers keep all their digits.

    A resumed run goes on where its checkpoint was saved: later rows are dropped. A new run begins a
    new file; one that is there already is kept as `name.1.csv`, `name.2.csv` and so on, the latest
    with the highest number. Where that befalls a run that is still going on, it follows its file
    there. A file that is deleted or moved meanwhile is begun anew, header first, and a warning says
    so; one that others write to is left, and the run goes on in the next free name.

    Timings and batch sizes are left out, so that a resumed run writes the same file as one that was
    never interrupted; `JSONLLog` has them.

    ==================  =====================================================================
    signals consumed    those of `on`; `run_opened`, `run_started`, `run_finished`, `run_closed`
    values produced     a file
    cost                one write for each row, and reading the metrics: one transfer from the
                        device; a new metric rewrites the file
    state               the position in the file
    band, errors        REPORT; isolated; rank 0 writes
    ==================  =====================================================================

    Parameters
    ----------
    path
        Where. `{run}` and `{run_id}` in it become the run's name and id; one that resumes under
        others takes the earlier file's rows along into its own, and leaves that file as it is.
    on
        The signals that give a row each; as a mapping, each with a filter of its own. With more
        than one the first column says which.
    when
        A filter on all of them.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import CSVLog
    >>> bus, path = EventBus(), Path(tempfile.mkdtemp()) / "metrics.csv"
    >>> with bus.attach(CSVLog(path)):
    ...     _ = bus.emit("epoch_finished", epoch=1, step=10, metrics={"loss": 0.5})
    ...     _ = bus.emit("epoch_finished", epoch=2, step=20, metrics={"loss": 0.4, "val_loss": 0.6})
    >>> print(path.read_text(), end="")
    epoch,step,loss,val_loss
    1,10,0.5,
    2,20,0.4,0.6
    >>> CSVLog.read(path)[0]
    {'epoch': 1, 'step': 10, 'loss': 0.5}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        on: OnEach = ("epoch_finished",),
        *,
        when: When | None = None,
    ) -> None:
        super().__init__(file_given("CSVLog", path, such_as="metrics.csv"), CSV, on, when)
        self._parsed: tuple[bytes | None, list[str]] = (None, [])
        self._names_signal = len(self._schedule) > 1 or "*" in "".join(self._schedule)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> list[Row]:
        """Read a file back: a dict for each row, without its empty cells, but for a torn last row.

        Cells that read as numbers are numbers, NaN and infinities too.
        """
        records = [_cells(record) for record in split_records(Path(path).read_bytes())]
        return [
            {name: _value(cell) for name, cell in zip(records[0], row, strict=True) if cell}
            for row in records[1:]
        ]

    def _row(self, event: Event) -> Row:
        told = dict(facts(in_order(event)))
        metrics = told.pop("metrics", {})
        rates = told.pop("learning_rates", {})
        row: Row = {"signal": event.name} if self._names_signal else {}
        row |= {name: told.pop(name) for name in ("epoch", "step") if name in told}
        row |= {name: value for name, value in told.items() if _fits(name, value)}
        row |= {f"learning_rate_{group}": rate for group, rate in rates.items()}
        for name, value in metrics.items():
            row[name if name == "loss" or name not in row else f"metrics_{name}"] = value
        return row

    def _add(self, row: Row) -> None:
        columns = self._columns()
        new = [name for name in row if name not in columns]
        if new:
            columns = [*columns, *new]
            self._file.set_header(_record(columns), lambda record: _widen(record, len(new)))
        self._file.append(_record([row.get(name) for name in columns]))

    def _columns(self) -> list[str]:
        header = self._file.header
        if header is not self._parsed[0]:
            self._parsed = header, _cells(header) if header else []
        return self._parsed[1]


def split_records(content: bytes) -> list[bytes]:
    """Split into complete records; a line end inside quotes belongs to its record."""
    records: list[bytes] = []
    record = b""
    for line in split_lines(content):
        record += line
        if record.count(b'"') % 2 == 0:
            records.append(record)
            record = b""
    return records


def _canonical(record: bytes) -> bytes:
    """Leave out the empty cells at the end, which a wider header adds."""
    return record[:-1].rstrip(b",")


CSV = Format(split_records, _canonical, header=True)


def _fits(name: str, value: Any) -> bool:
    return name not in _NOT_FOR_CSV and not isinstance(value, (list, dict))


def _record(cells: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # it quotes what is in its terminator
    return text.getvalue()[:-2].encode("utf-8", "backslashreplace") + b"\n"


def _widen(record: bytes, columns: int) -> bytes:
    return record[:-1] + b"," * columns + b"\n"


def _cells(record: bytes) -> list[str]:
    text = io.StringIO(record.decode("utf-8", "replace"), newline="")
    return next(csv.reader(text))


def _value(cell: str) -> int | float | str:
    if "_" in cell or cell != cell.strip():  # `int` would take these
        return cell
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
