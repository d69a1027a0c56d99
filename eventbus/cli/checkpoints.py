"""`eventbus checkpoints`: what a directory of them holds, whether it is sound, what may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from eventbus.cli.errors import CommandError
from eventbus.handlers._checkpoint_files import Folder, SavedCheckpoint, load_newest
from eventbus.handlers._checkpoint_loading import CheckpointError, load_checkpoint, read_manifest
from eventbus.handlers._checkpoint_manifest import MANIFEST
from eventbus.handlers._checkpoint_shelf import ranked
from eventbus.handlers._files import Files

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CheckpointOptions", "checkpoints"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class CheckpointOptions:
    """What was asked for."""

    directory: Path
    verify: bool = False
    show: str | None = None
    prune: int | None = None


@dataclass(frozen=True)
class _Row:
    """One directory with the name of a checkpoint."""

    path: Path
    saved: SavedCheckpoint | None  # None where its manifest cannot be read
    state: str


def checkpoints(options: CheckpointOptions, console: Console) -> None:
    """List, verify, show or prune; raise `CommandError` for what cannot be."""
    if sum([options.verify, options.show is not None, options.prune is not None]) > 1:
        raise CommandError("one of --verify, --show and --prune at a time")
    if not options.directory.is_dir():
        raise CommandError(f"there is no directory {str(options.directory)!r}")
    if options.show is not None:
        _show(options.directory, options.show, console)
    elif options.prune is not None:
        _prune(Folder(options.directory, Files()), options.prune, console)
    else:
        _list(options, console)


# -- listing


def _list(options: CheckpointOptions, console: Console) -> None:
    folder = Folder(options.directory, Files())
    rows = list(_rows(folder, options.verify))
    if not rows:
        raise CommandError(f"{options.directory} holds no checkpoint")
    best = {saved.path for saved in _best([row.saved for row in rows if row.saved])}
    console.print(_table(rows, best))
    bad = sum(row.state not in ("", "sound") for row in rows)
    if options.verify and bad:
        raise CommandError(f"{bad} of {len(rows)} checkpoints cannot be used")


def _rows(folder: Folder, verify: bool) -> Iterator[_Row]:
    for number, path in folder.numbered():
        try:
            saved = SavedCheckpoint(path, number, read_manifest(path, folder.files))
        except CheckpointError as error:
            yield _Row(path, None, _why(error))
        else:
            yield _Row(path, saved, _verdict(saved, folder) if verify else "")
    for _, path in folder.numbered(damaged=True):
        yield _Row(path, None, "put aside as damaged")


def _verdict(saved: SavedCheckpoint, folder: Folder) -> str:
    try:
        load_checkpoint(saved.path, folder.files)
    except CheckpointError as error:
        return _why(error)
    return "sound"


def _why(error: CheckpointError) -> str:
    return str(error).partition("cannot be used: ")[2] or str(error)


def _table(rows: Iterable[_Row], best: set[Path]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("name", "run", "epoch", "step", "size", "saved at", "metrics", "state"):
        table.add_column(name, no_wrap=name == "name", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, _cells(row, best)))
    return table


def _cells(row: _Row, best: set[Path]) -> tuple[str, ...]:
    if row.saved is None:
        return (row.path.name, "", "", "", "", "", "", row.state)
    facts = row.saved.manifest
    words = [word for word in ("best" if row.path in best else "", row.state) if word]
    size = _size(sum(each.bytes for each in facts.files.values()))
    counts = tuple("–" if count is None else str(count) for count in (facts.epoch, facts.step))
    run = facts.run or facts.run_id or "–"
    metrics = _numbers(facts.metrics)
    return (row.path.name, run, *counts, size, facts.saved_at, metrics, ", ".join(words))


# -- showing


def _show(directory: Path, which: str, console: Console) -> None:
    saved, state = _loaded(directory, which)
    facts = saved.manifest
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    for name, told in {
        "path": str(saved.path),
        "run": f"{facts.run or '–'} ({facts.run_id or 'no id'})",
        "epoch, step": f"{facts.epoch}, {facts.step}",
        "saved at": facts.saved_at,
        "metrics": _numbers(facts.metrics),
        "versions": ", ".join(f"{name} {text}" for name, text in sorted(facts.versions.items())),
        "files": ", ".join(f"{name} {_size(each.bytes)}" for name, each in facts.files.items()),
        "state": "\n".join(_parts(state)),
    }.items():
        table.add_row(name, Text(told))
    console.print(table)


def _loaded(directory: Path, which: str) -> tuple[SavedCheckpoint, dict[str, Any]]:
    inside = directory / which
    path = directory if which == "latest" else inside if inside.is_dir() else Path(which)
    if which != "latest" and not (path / MANIFEST).is_file():
        raise CommandError(f"{which!r} is no checkpoint in {directory}, nor a path of one")
    return load_newest(path, Files())


def _parts(state: Mapping[str, Any]) -> Iterator[str]:
    for key, value in sorted(state.items()):
        inner = f"  {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
        yield f"{key}  {_size(_tensor_bytes(value))} of tensors{inner}"


def _tensor_bytes(value: Any) -> int:
    """Add up the tensors in plain containers; a part that holds itself is counted once."""
    import torch

    total, seen, waiting = 0, set[int](), [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            total += one.numel() * one.element_size()
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list | tuple | set):
            waiting.extend(one)
    return total


# -- pruning


def _prune(folder: Folder, keep: int, console: Console) -> None:
    """Delete all but the newest `keep` and the best; only what verifies counts as kept."""
    if keep < 1:
        raise CommandError(f"--prune keeps at least 1, got {keep}")
    there = folder.saved()
    newest = _sound(reversed(there), folder, keep)
    if not newest:
        raise CommandError(f"nothing is deleted: {folder.path} holds no checkpoint that verifies")
    kept = {saved.path for saved in (*newest, *_best(there, folder))}
    oldest_kept = newest[-1].sequence
    for saved in there:
        if saved.path not in kept and saved.sequence < oldest_kept:
            folder.remove(saved)
            console.print(f"{'kept' if saved.path.exists() else 'deleted'} {saved.path.name}")
    console.print(f"{len(folder.saved())} checkpoints are left in {folder.path}", soft_wrap=True)


def _sound(
    candidates: Iterable[SavedCheckpoint], folder: Folder, most: int
) -> list[SavedCheckpoint]:
    """Return the first that verify, so many at most."""
    found: list[SavedCheckpoint] = []
    for saved in candidates:
        if len(found) == most:
            break
        if _verdict(saved, folder) == "sound":
            found.append(saved)
    return found


def _best(there: list[SavedCheckpoint], folder: Folder | None = None) -> list[SavedCheckpoint]:
    """Return the best of each run by each rule it was saved with; with `folder`, that verifies."""
    groups: dict[tuple[str | None, str, str], list[SavedCheckpoint]] = {}
    for saved in there:
        rule = saved.manifest.best
        if rule is not None:
            key = (saved.manifest.run, str(rule.get("metric")), str(rule.get("mode")))
            groups.setdefault(key, []).append(saved)
    orders = [ranked(group, metric, mode) for (_, metric, mode), group in groups.items()]
    if folder is None:
        return [order[0] for order in orders if order]
    return [saved for order in orders for saved in _sound(order, folder, 1)]


def _numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.6g}" for key, value in metrics.items()) or "–"


def _size(size_bytes: float) -> str:
    unit = 0
    while size_bytes >= 1000 and unit < len(_UNITS) - 1:
        size_bytes, unit = size_bytes / 1000, unit + 1
    return f"{size_bytes:.0f} B" if unit == 0 else f"{size_bytes:.1f} {_UNITS[unit]}"
