"""How a signal is declared: by a stub whose signature is the fields."""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any, Generic, ParamSpec

from eventbus.errors import FieldError
from eventbus.frozen import Frozen

__all__ = ["CONTEXT", "RESERVED", "Declaration", "Field", "signal"]

P = ParamSpec("P")

CONTEXT = (
    "run_id",
    "run",
    "model",
    "optimizer",
    "scheduler",
    "models",
    "optimizers",
    "config",
)
"""What a run is: rides on each of its signals, and handlers name it like fields."""

RESERVED = ("event", "sender", "bus")
"""What the bus itself gives to any handler that names it."""

_BLINKERS = ("_async_wrapper", "_sync_wrapper")  # blinker's `send` swallows these keywords


class Field(Frozen):
    """What the type of a field cannot say; put into `Annotated[type, Field(...)]`.

    Parameters
    ----------
    meaning
        One line for people.
    unit
        The unit or the base of a count, where there is one: `"s"`, `"steps, from 1"`.

    Examples
    --------
    >>> from typing import Annotated
    >>> from eventbus import EventBus, Field
    >>> bus = EventBus()
    >>> Heat = Annotated[float, Field("of the softmax", unit="1")]
    >>> @bus.declare
    ... def sample_drawn(*, temperature: Heat) -> None: '''A sample was drawn from the model.'''
    >>> list(sample_drawn.fields)
    ['temperature']
    """

    meaning: str
    unit: str

    def __init__(self, meaning: str, unit: str = "") -> None:
        self._set(meaning=meaning, unit=unit)


class Declaration(Frozen, Generic[P]):
    """A declared signal: its name, its fields, its clock. Made by `signal` or `bus.declare`.

    Attributes
    ----------
    name : str
        The stub's name.
    fields : mapping of str to inspect.Parameter
        In the order of the stub; a default makes a field optional.
    clock : str or None
        The field that filters on counts read.
    value : str or None
        The field that handlers may replace, where the signal is a transform.
    stub : callable
        The function that declared it; its docstring says when and how often the signal fires.

    Examples
    --------
    >>> from eventbus.signals import batch_finished
    >>> batch_finished.name, batch_finished.clock
    ('batch_finished', 'step')
    >>> "loss" in batch_finished.fields
    True
    """

    name: str
    stub: Callable[P, None]
    clock: str | None
    value: str | None
    fields: Mapping[str, inspect.Parameter]

    def __init__(
        self,
        name: str,
        stub: Callable[P, None],
        clock: str | None = None,
        value: str | None = None,
    ) -> None:
        parameters = inspect.signature(stub).parameters
        fields = MappingProxyType(dict(parameters))
        self._set(name=name, stub=stub, clock=clock, value=value, fields=fields)
        _check_fields(self)

    def __eq__(self, other: object) -> bool:
        return self is other  # a stub that is run again declares anew

    __hash__ = object.__hash__  # as fast as can be: the loop finds its signal by it

    def __deepcopy__(self, memo: object) -> Declaration[P]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # By where it stands, as functions are pickled; the stub's own name leads to this.
        place = self.stub.__module__, self.stub.__qualname__
        try:
            is_there = _declared_at(*place) is self
        except (ImportError, AttributeError):
            is_there = False
        if not is_there:
            raise pickle.PicklingError(
                f"{self!r} cannot be pickled: it is not found as {'.'.join(place)}; "
                "declare it at the top of a module"
            )
        return _declared_at, place

    @property
    def doc(self) -> str:
        """When and how often the signal fires: the stub's docstring."""
        return inspect.getdoc(self.stub) or ""

    def redefines(self, other: Declaration[...]) -> bool:
        """Tell whether this is the same stub, run again, as when a notebook's cell is."""
        one, two = self.stub, other.stub
        return (one.__module__, one.__qualname__) == (two.__module__, two.__qualname__)

    def __repr__(self) -> str:
        return f"<signal {self.name}({', '.join(self.fields)})>"


def signal(
    *, clock: str | None = None, value: str | None = None
) -> Callable[[Callable[P, None]], Declaration[P]]:
    """Declare a signal by the stub that this decorates.

    Parameters
    ----------
    clock
        The field that counts: `every(n)` and its like read it.
    value
        The field that handlers may replace; it makes the signal a transform.

    Raises
    ------
    FieldError
        A field has a name that is taken (context, `event`, `sender`, `bus`), or the clock or the
        value is not a field.

    Examples
    --------
    >>> from eventbus import EventBus, every, signal
    >>> @signal(clock="step")
    ... def sample_drawn(*, step: int, text: str) -> None:
    ...     '''A sample was drawn from the model. Whenever the loop likes.'''
    >>> bus = EventBus()
    >>> @bus.on(sample_drawn, when=every(2))
    ... def show(step, text): print(step, text)
    >>> for step in (1, 2): _ = bus.emit(sample_drawn, step=step, text="to be")
    2 to be
    """

    def declare(stub: Callable[P, None]) -> Declaration[P]:
        if not isinstance(stub, FunctionType):
            raise TypeError(f"a signal is declared by a stub, a function; got {stub!r}")
        if not stub.__name__.isidentifier():
            raise TypeError("a signal is named by its stub: write `def name(*, ...)`; got a lambda")
        return Declaration(stub.__name__, stub, clock, value)

    return declare


def _declared_at(module: str, qualname: str) -> Any:
    return functools.reduce(getattr, qualname.split("."), importlib.import_module(module))


def _check_fields(declaration: Declaration[...]) -> None:
    taken = {*CONTEXT, *RESERVED, *_BLINKERS}
    name = declaration.name
    for key, parameter in declaration.fields.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise FieldError(f"signal {name!r}: name each field, no *{key}", signal=name)
        if key in taken:
            raise FieldError(
                f"signal {name!r}: {key!r} is taken by the bus; give the field another name",
                signal=name,
                field=key,
            )
    for role in ("clock", "value"):
        key = getattr(declaration, role)
        if key is not None and key not in declaration.fields:
            raise FieldError(
                f"signal {name!r}: its {role} {key!r} is not one of its fields: "
                f"{', '.join(declaration.fields)}",
                signal=name,
                field=key,
            )
