"""Runs the cases and writes the report."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from benchmarks import background, emission, idle, imports, memory, progress, report, whole_run
from benchmarks.measure import EFFORTS, Effort
from benchmarks.results import Results, Row
from benchmarks.rivals import NAMES, Rival, found

__all__ = ["main"]

HERE = Path(__file__).parent
CASES: dict[str, ModuleType] = {
    "dispatch": emission,
    "idle": idle,
    "whole run": whole_run,
    "progress bar": progress,
    "background": background,
    "import": imports,
    "memory": memory,
}
WITH_RIVALS = ("dispatch", "whole run", "import")


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, and write it."""
    asked = _parser().parse_args(arguments)
    effort = EFFORTS[asked.effort]
    rivals, missing = found([] if asked.alone else NAMES)
    results = Results(missing=missing)
    results.differs = {rival.name: rival.differs for rival in rivals}
    gc.freeze()  # what the libraries hold is none of the collector's business while measuring
    for name in asked.only or CASES:
        results.notes[name] = CASES[name].NOTE
        _say(f"{name} ...", end=" ")
        began = time.perf_counter()
        results.add(_measured(name, effort, rivals))
        _say(f"{time.perf_counter() - began:.0f} s")
    report.write(results, rivals, asked.out, asked.effort)
    _say(report.summary(results))
    _say(f"written to {asked.out}")


def _measured(name: str, effort: Effort, rivals: list[Rival]) -> list[Row]:
    measure: Callable[[Effort], list[Row]] = CASES[name].measure
    if name in WITH_RIVALS:
        measure = partial(CASES[name].measure, rivals=rivals)
    return measure(effort)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=report.ABOUT)
    parser.add_argument("--only", nargs="+", choices=CASES, help="these cases alone")
    parser.add_argument("--effort", choices=EFFORTS, default="full", help="how long to measure")
    parser.add_argument(
        "--quick", dest="effort", action="store_const", const="quick", help="--effort quick"
    )
    parser.add_argument("--alone", action="store_true", help="leave the other libraries out")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write to")
    return parser


def _say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()
