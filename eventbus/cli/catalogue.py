"""The shipped handlers, found by looking: their marks, their docstrings, no instance made.

Each class docstring has a table; `docs/handlers.md` and `eventbus handlers` show what it says.

A handler imports its third-party library when it is made, so all are listed, also those whose
library is missing here.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from eventbus import Priority
from eventbus import handlers as package
from eventbus.marks import find_marks
from eventbus.signals import STANDARD

ROWS = ("signals consumed", "values produced", "cost", "state", "band, errors")
"""What every docstring's table has; `needs` is there where a third-party library is."""

_EXTRAS = re.compile(r"training-eventbus\[([\w,]+)\]")


@dataclass(frozen=True)
class HandlerFacts:
    """What is known of a handler without making one.

    Attributes
    ----------
    signals
        Those in its marks and defaults, in the order of a run.
    bands
        Those in its marks, the commonest first.
    line
        The first of its docstring: the effect.
    says
        The table in its docstring, by row.
    chosen
        The signals of the argument `on`, unless others are given.
    """

    name: str
    module: str
    signals: tuple[str, ...]
    bands: tuple[str, ...]
    line: str
    says: Mapping[str, str]
    chosen: tuple[str, ...] = ()

    @property
    def hears(self) -> str:
        """The signals in words, with what `on` is unless given."""
        said = self.says.get("signals consumed", "")
        if not self.chosen or "`on`" not in said:
            return said
        return f"{said}. `on` is {', '.join(f'`{name}`' for name in self.chosen)}, unless given"

    @property
    def band(self) -> str:
        """The band, in words where there is more to say."""
        return self._band_and_errors[0]

    @property
    def errors(self) -> str:
        """What becomes of its errors, and which rank does what."""
        return self._band_and_errors[1]

    @property
    def _band_and_errors(self) -> tuple[str, str]:
        said = self.says.get("band, errors", "")
        errors = re.search(r"; ((?:raised|isolated)\b.*)", said)
        return (said[: errors.start()], errors[1]) if errors else (said, "")

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of this distribution that it needs, or some of its methods do."""
        found = _EXTRAS.search(self.says.get("needs", ""))
        return tuple(found[1].split(",")) if found else ()


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
    (('run_started', 'validation_done', 'run_finished'), ('DECIDE', 'ALTER'))
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
        says=docstring_table(inspect.getdoc(handler) or ""),
        chosen=_names_of_on(handler),
    )


def docstring_table(docstring: str) -> dict[str, str]:
    """Read the first table of two columns: what stands left, and all that stands right of it.

    Examples
    --------
    >>> docstring_table('''
    ... ======  ==========
    ... cost    one write,
    ...         0.1 ms
    ... state   none
    ... ======  ==========
    ... ''')
    {'cost': 'one write, 0.1 ms', 'state': 'none'}
    """
    table = re.search(r"^(=+  )=+\n(.*?)^=+  =+$", docstring, re.MULTILINE | re.DOTALL)
    rows: dict[str, list[str]] = {}
    name = ""
    for line in table[2].splitlines() if table else ():
        width = len(table[1]) if table else 0
        name = line[:width].strip() or name
        rows.setdefault(name, []).append(line[width:].strip())
    return {name: " ".join(lines) for name, lines in rows.items()}


def handlers_table() -> Table:
    """Make the table: for each shipped handler what `docs/handlers.md` says in a row."""
    table = Table(title="The shipped handlers", box=SIMPLE_HEAD, show_lines=True)
    table.add_column("handler", no_wrap=True, style="bold")
    table.add_column("what it does, hears, produces, costs, keeps and needs")
    for facts in shipped_handlers():
        table.add_row(facts.name, _told(facts))
    return table


def _told(facts: HandlerFacts) -> Text:
    told = Text(facts.line)
    for label, text in facts_in_words(facts).items():
        told.append(f"\n{label}: ", style="bold").append(text)
    return told


def facts_in_words(facts: HandlerFacts) -> dict[str, str]:
    """Return what there is to say of a handler beside its name and effect, by label."""
    return {
        "signals": facts.hears,
        "produces": facts.says.get("values produced", ""),
        "band": facts.band,
        "errors": facts.errors,
        "cost": facts.says.get("cost", ""),
        "state": facts.says.get("state", ""),
        "extra": ", ".join(facts.extras) or "–",
    }


def _init_nodes(handler: type) -> Iterator[ast.AST]:
    for cls in handler.__mro__:
        init = vars(cls).get("__init__")
        if inspect.isfunction(init):
            yield from ast.walk(_parsed(init))


def _default_names(handler: type) -> Iterator[str]:
    for parameter in inspect.signature(handler).parameters.values():
        yield from _names_in(parameter.default)


def _names_of_on(handler: type) -> tuple[str, ...]:
    parameter = inspect.signature(handler).parameters.get("on")
    return tuple(_names_in(parameter.default)) if parameter else ()


def _names_in(default: object) -> Iterator[str]:
    if isinstance(default, str):
        yield default
    elif isinstance(default, Iterable):  # several, or a mapping of names to filters
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
