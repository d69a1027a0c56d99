"""Handlers off the loop's thread, whose backend takes 10 ms, 1 s, or never answers."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from benchmarks.measure import Effort
from benchmarks.results import Row
from eventbus import Background, EventBus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventbus import Emitter

__all__ = ["NOTE", "measure"]

SECTION = "background"
BACKENDS_S = {"takes 10 ms": 0.01, "takes 1 s": 1.0, "never answers": None}
TIMEOUT_S = 1.0
GOAL_US = 50.0
NOTE = (
    "`background=Background(timeout_s=1)`, a backend that waits, and a loop that emits a"
    " loss tensor every 0.2 ms: the median emission in microseconds (goal: tens of them),"
    " the 99th percentile, and how long `run_closed` takes in seconds, at most its timeout"
    " and a tenth."
)


def measure(effort: Effort) -> list[Row]:
    """Measure emissions and the end, for each backend."""
    emissions = max(100, int(5000 * effort.scale))
    timeout_s = TIMEOUT_S if effort.scale >= 0.1 else 0.05
    rows = []
    with _quiet():
        for name, seconds in BACKENDS_S.items():
            rows += _measured(name, seconds, emissions, timeout_s)
    return rows


def _measured(name: str, seconds: float | None, emissions: int, timeout_s: float) -> list[Row]:
    released = threading.Event()
    bus = EventBus()

    @bus.on("batch_finished", background=Background(timeout_s=timeout_s))
    def upload(step: int, loss: object) -> None:
        released.wait(seconds)

    loop = bus.bind(sender="train")
    taken = sorted(_emit(loop, step) for step in range(1, emissions + 1))
    began = time.perf_counter()
    loop.emit("run_closed", outcome="completed")
    closed_s = time.perf_counter() - began
    released.set()
    return _rows(f"backend {name}", taken, closed_s, timeout_s)


def _rows(case: str, taken_s: list[float], closed_s: float, timeout_s: float) -> list[Row]:
    median, late = statistics.median(taken_s), taken_s[int(0.99 * len(taken_s))]
    return [
        Row(SECTION, f"{case}: emission", "eventbus", 1e6 * median, "µs", GOAL_US),
        Row(SECTION, f"{case}: 99 % of emissions within", "eventbus", 1e6 * late, "µs"),
        Row(SECTION, f"{case}: close", "eventbus", closed_s, "s", timeout_s + 0.1),
    ]


def _emit(loop: Emitter, step: int) -> float:
    loss = torch.ones(())
    began = time.perf_counter()
    loop.emit("batch_finished", epoch=1, step=step, loss=loss)
    taken = time.perf_counter() - began
    _spin(0.0002)
    return taken


def _spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of what was dropped, which is meant here, off the terminal."""
    logger = logging.getLogger("eventbus")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
