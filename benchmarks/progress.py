"""What a progress bar costs, on a step of one millisecond."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.measure import Effort, interleaved
from benchmarks.results import Row
from eventbus import EventBus
from eventbus.loops import Run

__all__ = ["NOTE", "measure"]

STEP_S = 0.001
SECTION = "progress bar"
NOTE = (
    "Steps that keep the processor busy for 1 ms each, drawn into memory as if it were a"
    " terminal of 100 columns. `ProgressBar` over the same `Run` without it; `Run` and the bar"
    " together, and `tqdm`, over a plain `for`. The bar draws four times a second,"
    " `tqdm` ten times."
)


def measure(effort: Effort) -> list[Row]:
    """Measure our bar, and tqdm's where it is installed."""
    steps = max(20, int(2000 * effort.scale**0.3))
    loops = {"plain": _plain, "run": _run, "bar": _run_with_bar, **_tqdm()}
    calls = {name: _bound(loop, steps) for name, loop in loops.items()}
    times = interleaved(calls, max(1, effort.rounds // 2))
    rows = [
        Row(SECTION, "`ProgressBar` in a `Run`", "eventbus", times.ratio("bar", "run"), goal=1.01),
        Row(SECTION, "`Run`, over a plain `for`", "eventbus", times.ratio("run", "plain")),
        Row(SECTION, OVER_FOR, "eventbus", times.ratio("bar", "plain")),
    ]
    if "tqdm" in loops:
        rows.append(Row(SECTION, OVER_FOR, "tqdm", times.ratio("tqdm", "plain")))
    return rows


OVER_FOR = "bar and loop, over a plain `for`"


def _bound(loop: Callable[[range], None], steps: int) -> Callable[[], None]:
    return lambda: loop(range(steps))


def _work() -> None:
    until = time.perf_counter() + STEP_S
    while time.perf_counter() < until:
        pass


def _plain(steps: Iterable[int]) -> None:
    for _ in steps:
        _work()


def _run(steps: Iterable[int], bus: EventBus | None = None) -> None:
    with Run(EventBus() if bus is None else bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(steps):
                _work()
                run.report(loss=0.5)


def _run_with_bar(steps: Iterable[int]) -> None:
    from rich.console import Console

    from eventbus.handlers import ProgressBar

    bus = EventBus()
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bus.attach(ProgressBar(console=console))
    _run(steps, bus)


def _tqdm() -> dict[str, Callable[[Iterable[int]], None]]:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return {}

    def loop(steps: Any) -> None:
        bar = tqdm(steps, file=io.StringIO(), ncols=100)
        for _ in bar:
            _work()
            bar.set_postfix(loss=0.5, refresh=False)

    return {"tqdm": loop}
