"""Time that is measured is that of a monotonic clock, whatever the wall clock does (T18)."""

from __future__ import annotations

import ast
import io
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, State, at_most_every
from eventbus.handlers import (
    Checkpoint,
    ConsoleLog,
    JSONLLog,
    Notify,
    Preemption,
    ProgressBar,
    TensorBoard,
)
from eventbus.testing import FakeClock

from .handlers.postbox import POSTBOX, open_postbox

ROOT = Path(__file__).parents[1]

STAMPS = {
    ("eventbus/cli/demo.py", "datetime.now"): "the name of a new folder",
    ("handlers/_checkpoint_facts.py", "datetime.now"): "when it was saved, for people",
    ("handlers/jsonl_log.py", "time.time"): "when something happened, for people",
    ("handlers/tensorboard.py", "time.time"): "when something happened, for TensorBoard",
}
"""Where the wall clock is read, and what for: each a stamp, none of them compared."""

WALL = {"time.time", "time.time_ns", "time.localtime", "datetime.now", "datetime.utcnow"}
WALL |= {"datetime.today", "date.today"}


def sources() -> list[Path]:
    folders = ("eventbus", "handlers", "loops")
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [path for path in found if "eventbus/handlers" not in str(path)]


def wall_clocks_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            yield from (f"{node.module}.{each.name}" for each in node.names)


def test_wall_clock_is_read_for_stamps_alone() -> None:
    read = {
        (str(path.relative_to(ROOT)), name)
        for path in sources()
        for name in wall_clocks_in(path)
        if name in WALL
    }
    assert read == set(STAMPS)


# -- a run, with a wall clock that is set while it goes on

NOON = 1_900_000_000.0  # s since 1970


def steady() -> Iterator[float]:
    return itertools.count(NOON, 7.0)


def back_an_hour() -> Iterator[float]:
    return itertools.chain([NOON, NOON + 7], itertools.count(NOON - 3600, 7.0))


def forward_a_year() -> Iterator[float]:
    return itertools.chain([NOON, NOON + 7], itertools.count(NOON + 365 * 86_400, 7.0))


def frozen() -> Iterator[float]:
    return itertools.repeat(NOON)


def there_and_back() -> Iterator[float]:
    return itertools.cycle([NOON, NOON + 86_400, NOON - 86_400])


def run(folder: Path, wall: Callable[[], float], step_s: float) -> dict[str, Any]:
    """Tell of three epochs, steps of so many seconds each; return all that was made of it."""
    clock, console, bar = FakeClock(), io.StringIO(), io.StringIO()
    bus, postbox = EventBus(strict=True, monotonic=clock), open_postbox()
    screen = pytest.importorskip("rich.console").Console(file=bar, force_terminal=True, width=120)
    often = at_most_every(30)
    kinds: dict[str, Any] = {"on": "batch_finished", "best": None, "keep": None, "at_end": False}
    saver = Checkpoint(folder / "saved", when=often, **kinds)
    messages = Notify(POSTBOX, on="batch_finished", limit=2, per_s=40.0, monotonic=clock)
    bus.attach(saver)
    bus.attach(messages)
    bus.attach(ConsoleLog(when=often, stream=console, monotonic=clock))
    bus.attach(ProgressBar(console=screen, monotonic=clock))
    bus.attach(Preemption(monotonic=clock))
    bus.attach(JSONLLog(folder / "log.jsonl", on="batch_finished", clock=wall))
    bus.attach(TensorBoard(folder / "board", clock=wall))
    bus.on("state_requested")(lambda: State("loop", {"a": 1}))
    tell(bus, clock, step_s)
    rows = JSONLLog.read(folder / "log.jsonl")
    return {
        "console": console.getvalue().replace(str(folder), ""),
        "bar": bar.getvalue(),
        "messages": [message.body for message in postbox.received],
        "held back": dict(messages.held_back),
        "saved": [saved.manifest.step for saved in Checkpoint.saved(folder / "saved")],
        "rows": [{name: row[name] for name in row if name != "time"} for row in rows],
    }


def tell(bus: EventBus, clock: FakeClock, step_s: float) -> None:
    loop, step = bus.bind(sender="train", run_id="one"), 0
    loop.emit("run_opened")
    loop.emit("run_started", epochs=3, steps=30)
    for epoch in (1, 2, 3):
        loop.emit("epoch_started", epoch=epoch, step=step)
        for _ in range(10):
            step += 1
            clock.advance(step_s)
            loop.emit("batch_finished", epoch=epoch, step=step, metrics={"loss": 1 / step})
        loop.emit("epoch_finished", epoch=epoch, step=step, metrics={"loss": 1 / step})
    loop.emit("run_finished", reason="completed", epoch=3, step=step)
    loop.emit("run_closed", outcome="completed")


@pytest.mark.parametrize("set_clock", [back_an_hour, forward_a_year, frozen, there_and_back])
def test_wall_clock_that_is_set_changes_no_interval_no_rate_and_no_estimate(
    set_clock: Callable[[], Iterator[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tmp_path / "steady", steady().__next__, step_s=7.0)
    assert "eta 3:23" in expected["console"]
    assert expected["saved"] == [1, 6, 11, 16, 21, 26]  # at the first step after 30 s
    assert expected["held back"] == {"batch_finished": 20}
    wall = set_clock()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(wall))
        found = run(tmp_path / "set", lambda: next(wall), step_s=7.0)
    assert found == expected


def test_monotonic_clock_that_stands_still_breaks_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, frozen().__next__, step_s=0.0)
    assert found["saved"] == [1]
    assert len(found["rows"]) == 30
    assert "eta" not in found["console"].replace("eta 0:00", "")
