"""The standard signals as a table in the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from eventbus.cli.vocabulary import FieldFacts, signal_facts
from eventbus.signals import STANDARD


def signals_table() -> Table:
    """Make the table: one row for each standard signal, in the order of a run."""
    table = Table(
        title="The standard signals, in the order of a run",
        caption="? is optional, bold may be replaced; docs/signals.md has types, units, meanings",
        row_styles=("", "dim"),
    )
    table.add_column("signal", no_wrap=True)
    for column in ("clock", "fields", "when, how often"):
        table.add_column(column)
    for declaration in STANDARD.values():
        facts = signal_facts(declaration)
        fields = Text(", ").join(_field(field) for field in facts.fields)
        table.add_row(facts.name, facts.clock or "–", fields, Text(f"{facts.when} {facts.often}"))
    return table


def _field(field: FieldFacts) -> Text:
    name = Text(field.name, style="bold" if field.is_value else "")
    return name.append("?") if field.is_optional else name
