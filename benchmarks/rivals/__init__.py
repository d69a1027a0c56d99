"""Others, doing the same: one module each, imported only where the library is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.task import Task

__all__ = ["NAMES", "Rival", "found"]

NAMES = ("blinker", "pluggy", "ignite", "lightning", "huggingface", "keras", "skorch")

Emissions = Callable[[int], None]


@dataclass(frozen=True)
class Rival:
    """One library.

    Attributes
    ----------
    name, module, distribution : str
        What it is called in the table, how it is imported, and how pip knows it.
    differs : str
        What it does differently in these cases.
    dispatch : callable or None
        Takes the number of handlers, and the period of those that are due once in a while; returns
        what emits so many times.
    whole_run : callable or None
        Trains a task with all duties; returns the steps taken.
    """

    name: str
    module: str
    distribution: str
    differs: str
    dispatch: Callable[[int, int | None], Emissions | None] | None = None
    whole_run: Callable[[Task, Path], int] | None = None

    def emissions(self, handlers: int, every: int | None = None) -> Emissions | None:
        """Return what emits to so many handlers; None where there is no such thing."""
        return None if self.dispatch is None else self.dispatch(handlers, every)


def found(names: Iterable[str] = NAMES) -> tuple[list[Rival], dict[str, str]]:
    """Return those that are installed, and why the others are not measured."""
    rivals: list[Rival] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            rivals.append(importlib.import_module(f"benchmarks.rivals.{name}").RIVAL)
        except ModuleNotFoundError as error:
            missing[name] = f"not measured: {error.name} is not installed"
    return rivals, missing
