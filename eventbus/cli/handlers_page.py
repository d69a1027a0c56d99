"""`docs/handlers.md`: the shipped handlers as a page, made from their docstrings and marks."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from eventbus import Priority
from eventbus import handlers as package
from eventbus.cli.catalogue import HandlerFacts, facts_in_words, shipped_handlers
from eventbus.cli.errors import CommandError
from eventbus.cli.markdown import cell, table
from eventbus.errors import did_you_mean

HEAD = """\
# Handlers

What `eventbus.handlers` has. Written by `eventbus docs` from the handlers' docstrings and marks;
edit those. `eventbus handlers` prints the same.

```python
from eventbus import EventBus
from eventbus.handlers import EarlyStopping

bus = EventBus()
bus.attach(EarlyStopping("val_loss", patience=5))
```

* **signals**: what it hears. `on` is an argument; `when=` takes a filter on those signals.
* **band**: where it stands among the handlers of a signal. Higher ones run first: {bands}.
* **errors**: *raised* ones end the run. *Isolated* ones are logged and counted, and training goes
  on; three in a row switch off what failed, a method on its signal, and the others go on.
* **cost**: on the loop's thread. Nothing waits for the device but where it says so.
* **state**: what is saved and comes back with a checkpoint.
* **extra**: what its library is installed with: `pip install 'training-eventbus[plot]'`.
"""


def handlers_page() -> str:
    """Write the whole page, as Markdown.

    Examples
    --------
    >>> from eventbus.cli.handlers_page import handlers_page
    >>> handlers_page().splitlines()[0]
    '# Handlers'
    """
    shipped = shipped_handlers()
    bands = ", ".join(f"{band.name} {int(band)}" for band in sorted(Priority, reverse=True))
    made = "\n".join(how_made(getattr(package, facts.name)) for facts in shipped)
    parts = [HEAD.format(bands=bands), "## What each does\n", _overview(shipped)]
    parts += [
        "## How each is made\n",
        "`eventbus handlers NAME` prints a docstring, which says what the arguments are.\n",
    ]
    return "\n".join([*parts, f"```text\n{made}\n```\n"])


def how_made(handler: Callable[..., object]) -> str:
    """Write a call with all its arguments and their defaults, without types.

    Examples
    --------
    >>> from eventbus.handlers import Plot
    >>> how_made(Plot)
    'Plot(path, *, when=None)'
    """
    signature = inspect.signature(handler)
    plain = [_untyped(parameter) for parameter in signature.parameters.values()]
    bare = signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    return f"{handler.__name__}{bare}"


def all_about(name: str) -> str:
    """Return how a shipped handler is made, and its docstring.

    Raises
    ------
    CommandError
        There is none of that name.

    Examples
    --------
    >>> from eventbus.cli.handlers_page import all_about
    >>> all_about("Plot").splitlines()[0]
    'Plot(path, *, when=None)'
    """
    if name not in package.__all__:
        hint = did_you_mean(name, package.__all__) or "; `eventbus handlers` lists them"
        raise CommandError(f"there is no handler {name!r}{hint}")
    handler = getattr(package, name)
    return f"{how_made(handler)}\n\n{inspect.getdoc(handler)}"


class _Named:
    """Stands for a default that is a function: its representation is its name."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"

    def __repr__(self) -> str:
        return self.name


def _untyped(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    if inspect.isroutine(default):
        default = _Named(default)
    return parameter.replace(default=default, annotation=inspect.Parameter.empty)


def _overview(shipped: list[HandlerFacts]) -> str:
    rows = [
        (_link(facts), cell(facts.line), *map(cell, facts_in_words(facts).values()))
        for facts in shipped
    ]
    return table(("handler", "effect", *facts_in_words(shipped[0])), rows)


def _link(facts: HandlerFacts) -> str:
    module = facts.module.rpartition(".")[2]
    return f"[`{facts.name}`](../handlers/{module}.py)"
