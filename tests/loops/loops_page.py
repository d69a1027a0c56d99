"""The tables of `docs/loops.md`: their cells are what the suite holds each loop to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from .effects import EFFECTS
from .test_any_handler_in_any_loop import cannot_handle
from .test_any_loop import LOOPS, SITUATIONS, cannot, differences, trained_by
from .test_any_loop_resumes import OWN_CHECKPOINTS

WORKS = "works"
COLUMNS = ("fit", *LOOPS)


def table(head: str, rows: Iterable[str], cell: Callable[[str, str], str]) -> str:
    """Lay out a table with a row for each of `rows` and a column for each loop."""
    names = [trained_by(loop).NAME for loop in COLUMNS]
    lines = [f"| {head} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for row in rows:
        cells = [cell(row, loop) for loop in COLUMNS]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def answers_table() -> str:
    def cell(situation: str, loop: str) -> str:
        reason = differences(loop).get(situation)
        return "the same" if reason is None else f"differs: {reason}"

    return table("in this situation the transcript is", SITUATIONS, cell)


def signals_table() -> str:
    missing = sorted({signal for loop in COLUMNS for signal in cannot(loop)})

    def cell(signal: str, loop: str) -> str:
        reason = cannot(loop).get(signal.strip("`"))
        return "emitted" if reason is None else f"not possible here: {reason}"

    return table("signal", [f"`{signal}`" for signal in missing], cell)


def state_table() -> str:
    def cell(row: str, loop: str) -> str:
        if loop in OWN_CHECKPOINTS:
            return WORKS
        reason: str = trained_by(loop).OWN_STATE
        return reason

    return table("state of handlers", ["in the framework's own checkpoints"], cell)


def handlers_table() -> str:
    def cell(handler: str, loop: str) -> str:
        reason = cannot_handle(loop).get(handler.strip("`"))
        return WORKS if reason is None else f"not possible here: {reason}"

    return table("handler", [f"`{handler}`" for handler in EFFECTS], cell)


TABLES: Mapping[str, Callable[[], str]] = {
    "answers": answers_table,
    "signals": signals_table,
    "state": state_table,
    "handlers": handlers_table,
}


def with_tables(page: str) -> str:
    """Return the page with each table written anew between its marks."""
    for name, write in TABLES.items():
        marked = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = marked.subn(lambda found: f"{found[1]}\n{write()}\n\n{found[2]}", page)  # noqa: B023 - used at once
        assert count == 1, f"docs/loops.md has no place for the table {name!r}"
    return page
