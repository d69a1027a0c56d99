"""`eventbus checkpoints`: what a directory of them holds, whether it is sound, what may go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from eventbus.cli.checkpoint_list import (
    SOUND,
    moment,
    numbers,
    print_rows,
    print_whole,
    rows,
    size,
    verdict,
)
from eventbus.cli.errors import CommandError
from eventbus.handlers._checkpoint_files import Folder, SavedCheckpoint, load_newest
from eventbus.handlers._checkpoint_manifest import MANIFEST
from eventbus.handlers._checkpoint_shelf import ranked
from eventbus.handlers._files import Files

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CheckpointOptions", "checkpoints"]


@dataclass(frozen=True)
class CheckpointOptions:
    """What was asked for."""

    directory: Path
    verify: bool = False
    show: str | None = None
    prune: int | None = None
    dry_run: bool = False


def checkpoints(options: CheckpointOptions, console: Console) -> None:
    """List, verify, show or prune; raise `CommandError` for what cannot be."""
    _check(options)
    folder = Folder(options.directory, Files())
    if options.show is not None:
        _show(options.directory, options.show, console)
    elif options.prune is not None:
        _prune(folder, options.prune, console, dry_run=options.dry_run)
    else:
        _list(folder, console, verify=options.verify)


def _check(options: CheckpointOptions) -> None:
    if sum([options.verify, options.show is not None, options.prune is not None]) > 1:
        raise CommandError("one of --verify, --show and --prune at a time")
    if options.dry_run and options.prune is None:
        raise CommandError("--dry-run goes with --prune: it says what that would delete")
    directory = options.directory
    wanted = "name the directory that a Checkpoint handler saves to"
    if directory.is_file():
        raise CommandError(f"{str(directory)!r} is a file: {wanted}")
    if not directory.is_dir():
        raise CommandError(f"there is no directory {str(directory)!r}: {wanted}")
    if options.show is None and (directory / MANIFEST).is_file():
        one = directory.absolute() if directory.name in ("", "..") else directory
        raise CommandError(
            f"{directory} is one checkpoint: write eventbus checkpoints {one.parent} "
            f"--show {one.name}, or leave the last part away for all of them"
        )


# -- listing


def _list(folder: Folder, console: Console, *, verify: bool) -> None:
    listed = list(rows(folder, verify))
    unfinished = sum(entry.name.startswith(".unfinished-") for entry in os.scandir(folder.path))
    if not listed:
        raise CommandError(f"{folder.path} holds no checkpoint{_elsewhere(folder, unfinished)}")
    print_rows(
        listed, {one.path for one in _best([row.saved for row in listed if row.saved])}, console
    )
    if unfinished:
        console.print(f"{unfinished} unfinished: {_UNFINISHED}", soft_wrap=True)
    bad = sum(row.state not in ("", SOUND) for row in listed)
    if verify and bad:
        raise CommandError(f"{bad} of {_counted(len(listed))} cannot be used")


_UNFINISHED = "under way, or left by a process that died; the next save deletes what was left"


def _elsewhere(folder: Folder, unfinished: int) -> str:
    """Word where there are some instead: a directory for each run is usual."""
    inside = [
        Folder(Path(entry), folder.files) for entry in os.scandir(folder.path) if entry.is_dir()
    ]
    found = sorted(
        str(one.path) for one in inside if os.access(one.path, os.R_OK) and one.numbered()
    )
    if found:
        return f"; these in it do: {', '.join(found)}"
    return f", but {unfinished} unfinished: {_UNFINISHED}" if unfinished else ""


def _counted(number: int) -> str:
    return f"{number} checkpoint" if number == 1 else f"{number} checkpoints"


# -- showing


def _show(directory: Path, which: str, console: Console) -> None:
    saved, state = _loaded(directory, which)
    facts = saved.manifest
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    for name, told in {
        "path": str(saved.path),
        "run": f"{facts.run or '–'} ({facts.run_id or 'no id'})",
        "epoch, step": f"{_or_dash(facts.epoch)}, {_or_dash(facts.step)}",
        "saved at": f"{moment(facts.saved_at)} UTC",
        "metrics": numbers(facts.metrics),
        "best by": "{metric}, {mode}".format_map(facts.best) if facts.best else "–",
        "versions": ", ".join(f"{name} {text}" for name, text in sorted(facts.versions.items())),
        "files": ", ".join(f"{name} {size(each.bytes)}" for name, each in facts.files.items()),
        "state": "\n".join(_parts(state)),
    }.items():
        table.add_row(name, Text(told))
    print_whole(table, console)


def _or_dash(count: int | None) -> str:
    return "–" if count is None else str(count)


def _loaded(directory: Path, which: str) -> tuple[SavedCheckpoint, dict[str, Any]]:
    inside = directory / which
    path = directory if which == "latest" else inside if inside.is_dir() else Path(which)
    if which != "latest" and not (path / MANIFEST).is_file():
        raise CommandError(
            f"{which!r} is no checkpoint in {directory}, nor a path of one: "
            f"eventbus checkpoints {directory} lists them"
        )
    return load_newest(path, Files())


def _parts(state: Mapping[str, Any]) -> Iterator[str]:
    for key, value in sorted(state.items()):
        inner = f"  {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
        yield f"{key}  {size(_tensor_bytes(value))} of tensors{inner}"


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


def _prune(folder: Folder, keep: int, console: Console, *, dry_run: bool) -> None:
    """Delete all but the newest `keep` and the best; only what verifies counts as kept."""
    if keep < 1:
        raise CommandError(f"--prune keeps at least 1, got {keep}")
    if not dry_run and not os.access(folder.path, os.W_OK):
        raise CommandError(f"nothing is deleted: {folder.path} is not writable")
    there = folder.saved()
    doomed = _superseded(there, folder, keep)
    gone = [saved for saved in doomed if _goes(saved, folder, console, dry_run=dry_run)]
    would = "would be" if dry_run else "is" if len(there) - len(gone) == 1 else "are"
    left = _counted(len(there) - len(gone))
    console.print(f"{left} {would} left in {folder.path}", soft_wrap=True)


def _superseded(there: list[SavedCheckpoint], folder: Folder, keep: int) -> list[SavedCheckpoint]:
    newest = _sound(reversed(there), folder, keep)
    if not newest:
        raise CommandError(f"nothing is deleted: {folder.path} holds no checkpoint that verifies")
    kept = {saved.path for saved in (*newest, *_best(there, folder))}
    oldest_kept = newest[-1].sequence
    return [one for one in there if one.path not in kept and one.sequence < oldest_kept]


def _goes(saved: SavedCheckpoint, folder: Folder, console: Console, *, dry_run: bool) -> bool:
    """Delete one, or look whether it would be; say which, and whether it is gone."""
    obstacle = folder.obstacle(saved)
    if not obstacle and not dry_run:
        folder.remove(saved)
    goes = not obstacle if dry_run else not saved.path.exists()
    verb = ("would delete" if goes else "would keep") if dry_run else "deleted" if goes else "kept"
    why = f": {obstacle}" if obstacle else ""
    console.print(f"{verb} {saved.path.name}{why}", soft_wrap=True)
    return goes


def _sound(
    candidates: Iterable[SavedCheckpoint], folder: Folder, most: int
) -> list[SavedCheckpoint]:
    """Return the first that verify, so many at most."""
    found: list[SavedCheckpoint] = []
    for saved in candidates:
        if len(found) == most:
            break
        if verdict(saved, folder) == SOUND:
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
