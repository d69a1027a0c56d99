"""What the demo says at its end: how good, why it stopped, what it wrote, what it cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from eventbus.cli.demo_handlers import Handlers
    from eventbus.loops import Run
    from eventbus.timing import Profile


def show_summary(
    run: Run,
    handlers: Handlers,
    profile: Profile,
    folder: Path,
    console: Console,
    *,
    epochs: int,
) -> None:
    """Print it; `epochs` is how many were asked for."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_row("best epoch", Text(_best(handlers)))
    table.add_row("stopped", Text(_why_stopped(run, epochs)))
    table.add_row("files", Text("\n".join(_files(folder))))
    table.add_row("handlers", Text("\n".join(_times(profile))))
    console.print()
    console.print(table)


def _why_stopped(run: Run, epochs: int) -> str:
    if run.stop is not None:
        return run.stop.reason
    if run.epoch > epochs:  # those of the run that it resumes
        return f"at once: epoch {run.epoch} is done, and --epochs is {epochs}"
    return f"after epoch {run.epoch}, as told"


def _best(handlers: Handlers) -> str:
    stopping, history = handlers.stopping, handlers.history
    if stopping.best_epoch not in history.epochs:
        return "none: val_loss was never finite"
    row = history.epochs.index(stopping.best_epoch)
    loss, accuracy = history["val_loss"][row], history["val_accuracy"][row]
    return f"{stopping.best_epoch}: val_loss {loss:.4f}, {accuracy:.1%} of the digits read right"


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        yield f"{path}  {_size(path.stat().st_size)}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes} B" if size_bytes < 1000 else f"{size_bytes / 1000:.1f} kB"


def _times(profile: Profile) -> Iterator[str]:
    """Yield the host time of each handler over all its signals, the costliest first."""
    calls: dict[str, int] = defaultdict(int)
    duration_s: dict[str, float] = defaultdict(float)
    for row in profile.rows:
        name = row.handler.partition(".")[0]
        if name == "eventbus":  # the bus's own housekeeping
            continue
        calls[name] += row.calls
        duration_s[name] += row.duration_s
    for name in sorted(calls, key=lambda name: -duration_s[name]):
        yield f"{name}  {duration_s[name]:.2f} s in {calls[name]} calls"
