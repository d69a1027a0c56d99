"""What was found: violations and notes, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from eventbus.errors import LoopError

__all__ = ["Report", "Rule", "Violation"]

Rule: TypeAlias = Literal["run", "order", "closing", "counts", "fields", "metrics", "answers"]
"""What was broken: how runs come, what may follow what, what must be closed, what counts up by one,
what an emission carries, which metrics there are, what handlers wanted."""


@dataclass(frozen=True)
class Violation:
    """One rule that a loop broke, and where.

    Attributes
    ----------
    signal : str
        The signal that broke it; the last one of the run where something never came.
    rule : str
        "run", "order", "closing", "counts", "fields", "metrics" or "answers".
    message : str
        What is wrong and what was expected, in one line.
    emission : int
        Which emission on the bus, counted from 1.
    run : str
        The label of the run's sender.
    given : str
        What a handler did in this trial, such as "Stop at batch_finished"; empty in the plain run.

    Examples
    --------
    >>> from eventbus.testing import Violation
    >>> print(Violation("epoch_started", "counts", "epoch 0 begins: epochs count from 1", 3))
    emission 3, epoch_started: epoch 0 begins: epochs count from 1
    """

    signal: str
    rule: Rule
    message: str
    emission: int
    run: str = ""
    given: str = ""

    def __str__(self) -> str:
        trial = f"with {self.given}: " if self.given else ""
        return f"{trial}emission {self.emission}, {self.signal}: {self.message}"


class Report:
    """What a loop was seen to do against the rules.

    Attributes
    ----------
    emissions, runs : int
        How many there were, in all trials.
    error : BaseException or None
        What the loop raised, where that was expected.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.testing import watch_loop
    >>> bus = EventBus()
    >>> with watch_loop(bus) as report:
    ...     loop = bus.bind(sender="train")
    ...     for name in ("run_opened", "run_started"): _ = loop.emit(name)
    ...     _ = loop.emit("run_finished", reason="completed", epoch=0, step=0, metrics={})
    >>> for violation in report.violations: print(violation)
    emission 3, run_finished: nothing of the run came after it: run_closed is always the last
    """

    def __init__(self) -> None:
        self._violations: list[Violation] = []
        self._notes: dict[str, None] = {}
        self.emissions = 0
        self.runs = 0
        self.error: BaseException | None = None

    @property
    def violations(self) -> tuple[Violation, ...]:
        """In the order in which they came up."""
        return tuple(self._violations)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is no mistake but worth knowing: what handlers will miss, what was not tried."""
        return tuple(self._notes)

    def raise_if_any(self) -> None:
        """Raise a `LoopError`, an `AssertionError` too, that lists the violations."""
        if self._violations:
            raise LoopError(str(self), self.violations)

    def tell(self, violation: Violation) -> None:
        """Add a violation."""
        self._violations.append(violation)

    def note(self, text: str) -> None:
        """Add a note, once."""
        self._notes[text] = None

    def __str__(self) -> str:
        return "\n".join([self._head(), *self._grouped(), *(f"  note: {n}" for n in self._notes)])

    def _head(self) -> str:
        found = len(self._violations)
        where = f"{_counted(self.emissions, 'emission')} of {_counted(self.runs, 'run')}"
        return f"{_counted(found, 'violation')} in {where}" + (":" if found else "")

    def _grouped(self) -> Iterator[str]:
        """Yield the first of those that are alike; a mistake is mostly made in every step."""
        groups: dict[tuple[str, ...], list[Violation]] = {}
        for violation in self._violations:
            groups.setdefault(_kind(violation), []).append(violation)
        for first, *others in groups.values():
            yield f"  {first}"
            if others:
                yield f"    … and {len(others)} more like it"


def _kind(violation: Violation) -> tuple[str, ...]:
    words = "".join(letter for letter in violation.message if not letter.isdigit())
    return violation.signal, violation.rule, violation.run, violation.given, words


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
