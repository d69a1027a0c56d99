"""The shipped handlers, found by looking: their marks, their docstrings, no instance made.

A handler imports its third-party library when it is made, so all are listed, also those whose
library is missing here.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from rich.table import Table
from rich.text import Text

from eventbus import Priority
from eventbus import handlers as package
from eventbus.marks import find_marks
from eventbus.signals import STANDARD


@dataclass(frozen=True)
class HandlerFacts:
    """One row of the table. `signals` in the order of a run; `bands` the commonest first."""

    name: str
    module: str
    signals: tuple[str, ...]
    bands: tuple[str, ...]
    line: str


def shipped_handlers() -> list[HandlerFacts]:
    """Find every public class of `eventbus.handlers` that hears a signal, by name."""
    found = [handler_facts(cls) for cls in _public_classes()]
    return sorted((facts for facts in found if facts.signals), key=lambda facts: facts.name)


def handler_facts(handler: type) -> HandlerFacts:
    """Read what a class is marked for.

    Signals and bands that are chosen when a handler is made are read from its `__init__`: the
    names of standard signals there, defaults included.

    Examples
    --------
    >>> from eventbus.cli.catalogue import handler_facts
    >>> from eventbus.handlers.early_stopping import EarlyStopping
    >>> facts = handler_facts(EarlyStopping)
    >>> facts.signals, facts.bands
    (('run_started', 'validation_done', 'run_finished'), ('DECIDE',))
    """
    marks = [mark for _, _, mark in find_marks(handler.__new__(handler))]
    chosen = list(_init_nodes(handler))
    named = {name for mark in marks for name in mark.signals}
    named |= {node.value for node in chosen if isinstance(node, ast.Constant)} & set(STANDARD)
    bands = [_band(mark.priority or 0) for mark in marks]
    bands += [node.attr for node in chosen if isinstance(node, ast.Attribute)]
    counted = Counter(band for band in bands if band in Priority.__members__)
    return HandlerFacts(
        name=handler.__name__,
        module=handler.__module__,
        signals=tuple(sorted(named, key=_place)),
        bands=tuple(band for band, _ in counted.most_common()),
        line=(inspect.getdoc(handler) or "").partition("\n")[0],
    )


def handlers_table() -> Table:
    """Make the table: one row for each shipped handler."""
    table = Table(title="The shipped handlers", row_styles=("", "dim"))
    table.add_column("handler", no_wrap=True)
    for column in ("signals", "band", "what for"):
        table.add_column(column)
    for facts in shipped_handlers():
        signals, bands = ", ".join(facts.signals), ", ".join(facts.bands)
        table.add_row(facts.name, Text(signals), bands, Text(facts.line))
    return table


def _public_classes() -> Iterator[type]:
    for module in _public_modules():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) and value.__module__ == module.__name__:
                yield value


def _public_modules() -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            yield import_module(f"{package.__name__}.{info.name}")


def _init_nodes(handler: type) -> Iterator[ast.AST]:
    for cls in handler.__mro__:
        init = vars(cls).get("__init__")
        if inspect.isfunction(init) and not hasattr(init, "__dataclass_fields__"):
            yield from ast.walk(_parsed(init))


def _parsed(function: object) -> ast.AST:
    try:
        source = inspect.getsource(function)  # type: ignore[arg-type]  # a function, by `isfunction`
    except OSError:  # a generated one, as in a dataclass
        return ast.Module([], [])
    return ast.parse(textwrap.dedent(source))


def _band(priority: int) -> str:
    return min(Priority, key=lambda band: abs(band - priority)).name


def _place(name: str) -> tuple[int, str]:
    order = list(STANDARD)
    return (order.index(name) if name in STANDARD else len(order), name)
