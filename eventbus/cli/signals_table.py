"""The standard signals as a table in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from eventbus.cli.vocabulary import FieldFacts, signal_facts
from eventbus.signals import STANDARD


def signals_table() -> Table:
    """Make the table: one row for each standard signal, in the order of a run."""
    table = Table(
        title="The standard signals, in the order of a run",
        caption="? is optional, underlined may be replaced; docs/signals.md says more",
        box=SIMPLE_HEAD,
    )
    table.add_column("signal", no_wrap=True, style="bold")
    for column in ("clock", "fields", "when"):
        table.add_column(column)
    for declaration in STANDARD.values():
        facts = signal_facts(declaration)
        fields = Text(", ").join(_field(field) for field in facts.fields)
        table.add_row(facts.name, facts.clock or "–", fields, Text(facts.when))
    return table


def _field(field: FieldFacts) -> Text:
    name = Text(field.name, style="underline" if field.is_value else "")
    return name.append("?") if field.is_optional else name
