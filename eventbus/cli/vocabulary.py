"""What the stubs of the standard signals say, taken apart for tables and pages."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ForwardRef, get_args, get_origin

from eventbus import fields as glossary
from eventbus.declaration import Declaration, Field


@dataclass(frozen=True)
class FieldFacts:
    """One row of a signal's table of fields."""

    name: str
    type: str
    meaning: str
    unit: str
    is_optional: bool
    is_value: bool


@dataclass(frozen=True)
class SignalFacts:
    """A signal as a page shows it: `when` and `often` are a sentence each, `notes` may be empty."""

    name: str
    when: str
    often: str
    notes: str
    clock: str | None
    fields: tuple[FieldFacts, ...]


def signal_facts(declaration: Declaration[...]) -> SignalFacts:
    """Take apart a stub: "When. How often." in its first line, notes below, and the fields.

    Examples
    --------
    >>> from eventbus.cli.vocabulary import signal_facts
    >>> from eventbus.signals import batch_finished
    >>> facts = signal_facts(batch_finished)
    >>> facts.when, facts.often
    ('One optimizer step is complete.', 'Once per step, after the step.')
    """
    first, _, notes = declaration.doc.partition("\n\n")
    when, _, often = " ".join(first.split()).partition(". ")
    return SignalFacts(
        name=declaration.name,
        when=f"{when.rstrip('.')}.",
        often=often,
        notes=" ".join(notes.split()),
        clock=declaration.clock,
        fields=tuple(_field_facts(declaration, one) for one in declaration.fields.values()),
    )


def _field_facts(declaration: Declaration[...], parameter: inspect.Parameter) -> FieldFacts:
    alias = getattr(glossary, str(parameter.annotation).removesuffix(" | None"))
    type_, described = get_args(alias)
    assert isinstance(described, Field)  # every alias of the glossary is described
    return FieldFacts(
        name=parameter.name,
        type=_type_name(type_),
        meaning=described.meaning,
        unit=described.unit,
        is_optional=parameter.default is not parameter.empty,
        is_value=parameter.name == declaration.value,
    )


def _type_name(type_: Any) -> str:
    if isinstance(type_, ForwardRef):  # names torch, which is not imported for a table
        return type_.__forward_arg__
    if get_origin(type_) is None:
        return str(type_.__name__)
    if all(isinstance(one, str) for one in get_args(type_)):  # Literal["completed", ...]
        return " | ".join(f'"{one}"' for one in get_args(type_))
    inner = ", ".join(_type_name(one) for one in get_args(type_))
    return f"{get_origin(type_).__name__}[{inner}]"
