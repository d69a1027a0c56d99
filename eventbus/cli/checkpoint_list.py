"""The list of the checkpoints in a directory: a table where it fits, else a few lines for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from eventbus.handlers._checkpoint_files import Folder, SavedCheckpoint
from eventbus.handlers._checkpoint_loading import CheckpointError, load_checkpoint, read_manifest
from eventbus.handlers._checkpoint_manifest import MANIFEST

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "SOUND",
    "Row",
    "moment",
    "numbers",
    "print_rows",
    "print_whole",
    "rows",
    "size",
    "verdict",
]

SOUND = "sound"

_UNITS = ("B", "kB", "MB", "GB", "TB")
_WIDEST = 10_000  # columns


@dataclass(frozen=True)
class Row:
    """One directory with the name of a checkpoint.

    Attributes
    ----------
    path
        The directory.
    saved
        None where its manifest cannot be read.
    state
        What is wrong with it; or `SOUND`, or nothing where it was not verified.
    """

    path: Path
    saved: SavedCheckpoint | None
    state: str


def rows(folder: Folder, verify: bool) -> Iterator[Row]:
    """Return what is listed, oldest first; with `verify` each is loaded."""
    for number, path in folder.numbered():
        try:
            saved = SavedCheckpoint(path, number, read_manifest(path, folder.files))
        except CheckpointError as error:
            yield Row(path, None, _why(error))
        else:
            yield Row(path, saved, verdict(saved, folder) if verify else "")
    for _, path in folder.numbered(damaged=True):
        yield Row(path, None, "put aside as damaged")


def verdict(saved: SavedCheckpoint, folder: Folder) -> str:
    """Load a checkpoint; return `SOUND`, or what is wrong with it."""
    try:
        load_checkpoint(saved.path, folder.files)
    except CheckpointError as error:
        return _why(error)
    return SOUND


def _why(error: CheckpointError) -> str:
    path = Path(error.path)
    is_missing = isinstance(error.__cause__, FileNotFoundError)
    if is_missing and path.is_dir() and not (path / MANIFEST).exists():
        return f"no {MANIFEST}: nothing that Checkpoint has finished"
    return str(error).partition("cannot be used: ")[2] or str(error)


# -- printing


def print_rows(listed: list[Row], best: set[Path], console: Console) -> None:
    """Print a table; a terminal that is too narrow for it gets a few lines for each instead."""
    table = _table(listed, best)
    if console.is_terminal and _width(table, console) > console.width:
        for row in listed:
            _print_block(row, best, console)
    else:
        print_whole(table, console)


def print_whole(printed: RenderableType, console: Console) -> None:
    """Print; where nobody looks on, as wide as it is: what reads a pipe reads whole lines."""
    if not console.is_terminal:
        console.width = max(console.width, _width(printed, console))
    console.print(printed)


def _width(printed: RenderableType, console: Console) -> int:
    options = console.options.update(width=_WIDEST)
    return Measurement.get(console, options, printed).maximum


def _table(listed: list[Row], best: set[Path]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("name", "run", "epoch", "step", "size", "saved at (UTC)", "metrics", "state"):
        table.add_column(name)
    for row in listed:
        table.add_row(*map(Text, _cells(row, best)))
    return table


def _cells(row: Row, best: set[Path]) -> tuple[str, ...]:
    state = _state(row, best)
    if row.saved is None:
        return (row.path.name, "", "", "", "", "", "", state)
    facts = row.saved.manifest
    counts = tuple("–" if count is None else str(count) for count in (facts.epoch, facts.step))
    run, told = facts.run or facts.run_id or "–", numbers(facts.metrics)
    return (row.path.name, run, *counts, _files(row.saved), moment(facts.saved_at), told, state)


def _print_block(row: Row, best: set[Path], console: Console) -> None:
    state = _state(row, best)
    name, run, epoch, step, bytes_, saved_at, told, _ = _cells(row, best)
    console.print(Text(name if row.saved is None or not state else f"{name}  {state}"))
    lines = [state]
    if row.saved is not None:
        lines = [f"run {run}, epoch {epoch}, step {step}, {bytes_}, {saved_at} UTC", told]
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 4)))


def _state(row: Row, best: set[Path]) -> str:
    return ", ".join(word for word in ("best" if row.path in best else "", row.state) if word)


def _files(saved: SavedCheckpoint) -> str:
    return size(sum(each.bytes for each in saved.manifest.files.values()))


def moment(saved_at: str) -> str:
    """Return a time of a manifest, which is in UTC, for people."""
    return saved_at.removesuffix("+00:00").replace("T", " ")


def numbers(metrics: Mapping[str, float]) -> str:
    """Return metrics as text."""
    return ", ".join(f"{key} {value:.6g}" for key, value in metrics.items()) or "–"


def size(size_bytes: float) -> str:
    """Return so many bytes as text, in units of 1000."""
    unit = 0
    while size_bytes >= 1000 and unit < len(_UNITS) - 1:
        size_bytes, unit = size_bytes / 1000, unit + 1
    return f"{size_bytes:.0f} B" if unit == 0 else f"{size_bytes:.1f} {_UNITS[unit]}"
