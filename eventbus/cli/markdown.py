"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Write a table; a cell with text of others goes through `cell` first.

    Examples
    --------
    >>> print(table(("field", "unit"), [("`epoch`", "1")]), end="")
    | field | unit |
    | --- | --- |
    | `epoch` | 1 |
    """
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Keep a text within its cell."""
    return text.replace("|", r"\|")
