"""The shipped handlers, found by looking: their marks, their docstrings, no instance made.

A handler imports its third-party library when it is made, so all are listed, also those whose
library is missing here.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rich.box import SIMPLE_HEAD
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
    public = [getattr(package, name) for name in package.__all__]
    found = [handler_facts(value) for value in public if inspect.isclass(value)]
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
    marks = [mark for _, _, mark in find_marks(object.__new__(handler))]
    chosen = list(_init_nodes(handler))
    named = {name for mark in marks for name in mark.signals}
    constants = {node.value for node in chosen if isinstance(node, ast.Constant)}
    constants |= set(_default_names(handler))
    named |= {name for name in STANDARD if name in constants}
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
    table = Table(title="The shipped handlers", box=SIMPLE_HEAD)
    table.add_column("handler", no_wrap=True, style="bold")
    for column in ("signals", "band", "what for"):
        table.add_column(column)
    for facts in shipped_handlers():
        signals, bands = ", ".join(facts.signals), ", ".join(facts.bands)
        table.add_row(facts.name, Text(signals), bands, Text(facts.line))
    return table


def _init_nodes(handler: type) -> Iterator[ast.AST]:
    for cls in handler.__mro__:
        init = vars(cls).get("__init__")
        if inspect.isfunction(init):
            yield from ast.walk(_parsed(init))


def _default_names(handler: type) -> Iterator[str]:
    for parameter in inspect.signature(handler).parameters.values():
        default = parameter.default
        if isinstance(default, Iterable):  # one name, several, or a mapping of names to filters
            yield from (name for name in default if isinstance(name, str))


def _parsed(function: object) -> ast.AST:
    try:
        source = inspect.getsource(function)  # type: ignore[arg-type]  # a function, by `isfunction`
    except OSError:  # a generated one, as in a dataclass
        return ast.Module([], [])
    return ast.parse(textwrap.dedent(source))


def _band(priority: int) -> str:
    return min(Priority, key=lambda band: abs(band - priority)).name


def _place(name: str) -> tuple[int, str]:
    """Where in a run the first signal is that a name or a pattern covers."""
    places = (place for place, one in enumerate(STANDARD) if fnmatchcase(one, name))
    return next(places, len(STANDARD)), name
