"""What was measured, as rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Results", "Row"]


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes
    ----------
    section, case : str
        What was measured, and under which heading.
    who : str
        Whose number: "eventbus", or the name of another library.
    value : float
        In `unit`: "×" is a ratio.
    goal : float or None
        At most this; None where there is no goal.
    """

    section: str
    case: str
    who: str
    value: float
    unit: str = "×"
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """True where the goal is met as it is printed; None where there is none."""
        return None if self.goal is None else float(spelt(self.value)) <= self.goal


@dataclass
class Results:
    """All rows, and what is to be said beside them.

    Attributes
    ----------
    differs : dict of str to str
        What another library does differently in these cases, by its name.
    missing : dict of str to str
        Why a library was not measured, by its name.
    notes : list of str
        What the numbers of a section mean.
    """

    rows: list[Row] = field(default_factory=list)
    differs: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows up."""
        self.rows.extend(rows)

    def own(self) -> list[Row]:
        """Return what was measured of eventbus."""
        return [row for row in self.rows if row.who == "eventbus"]

    def others(self) -> list[str]:
        """Return whom it was compared with, in the order of measuring."""
        return list(dict.fromkeys(row.who for row in self.rows if row.who != "eventbus"))


def spelt(value: float) -> str:
    """Write a number with three digits that count, at least two after the point below 10."""
    if value < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
