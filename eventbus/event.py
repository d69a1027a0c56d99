"""One emission, as handlers see it: read-only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from eventbus.errors import FieldError
from eventbus.shown import DICTS, Shown

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.emitter import Emitter
    from eventbus.event_signal import EventSignal
    from eventbus.subscription import Receiver

__all__ = ["Event"]

_ABSENT = object()

MAPPINGS = ("metrics", "learning_rates")
"""The fields that are mappings: a dict that the loop gives is only shown, so that no handler can
change what the others see."""


def read_only(fields: dict[str, Any], value: str | None = None) -> dict[str, Any]:
    """Have each dict among the mappings only read; not the value of a transform."""
    for name in MAPPINGS:
        if type(fields.get(name)) in DICTS and name != value:
            fields[name] = Shown(fields[name])
    return fields


class Event:
    """All of one emission, for a handler that names `event`.

    Attributes
    ----------
    name : str
        The signal.
    sender : str or None
        The label of who emitted it.
    fields : mapping
        What the loop sent, and epoch and step where they were filled in.
    context : mapping
        What the run is: `run_id`, `model`, `optimizer` and so on.
    bus : EventBus

    Examples
    --------
    >>> from eventbus import EventBus
    >>> bus = EventBus()
    >>> @bus.on("*")
    ... def show(event): print(event.name, event.sender, dict(event.fields))
    >>> _ = bus.bind(sender="train").emit("epoch_started", epoch=1, step=0)
    epoch_started train {'epoch': 1, 'step': 0}
    """

    __slots__ = ("_emitter", "_extra", "_fields", "_numbers", "_outer", "_signal")

    def __init__(
        self,
        signal: EventSignal[...],
        emitter: Emitter,
        fields: dict[str, Any],
        extra: Mapping[str, Any] | None = None,
        outer: Event | None = None,
    ) -> None:
        self._signal = signal
        self._emitter = emitter
        self._outer = outer
        self._fields = fields
        self._extra = extra  # context given with this emission alone
        self._numbers: dict[Receiver, int] | None = None

    @property
    def name(self) -> str:
        """The name of the signal."""
        return self._signal.name

    @property
    def sender(self) -> str | None:
        """The label of who emitted it, where there is one."""
        return self._emitter.sender

    @property
    def bus(self) -> EventBus:
        """The bus that it came over."""
        return self._emitter.bus

    @property
    def fields(self) -> Mapping[str, Any]:
        """The facts that it carries."""
        return MappingProxyType(self._fields)

    @property
    def context(self) -> Mapping[str, Any]:
        """What the run is."""
        return MappingProxyType({**self._emitter.context, **(self._extra or {})})

    def from_context(self, name: str, default: Any = _ABSENT) -> Any:
        """Return one part of the context; raise `FieldError` where it was not given."""
        if self._extra is not None and name in self._extra:
            return self._extra[name]
        value = self._emitter.context.get(name, default)
        if value is _ABSENT:
            raise FieldError(_not_given(name, self), signal=self.name, field=name)
        return value

    # -- for the parts of the bus

    @property
    def signal(self) -> EventSignal[...]:
        """What was emitted."""
        return self._signal

    @property
    def emitter(self) -> Emitter:
        """By whom."""
        return self._emitter

    @property
    def outer(self) -> Event | None:
        """The emission that this one is inside of, if any."""
        return self._outer

    @property
    def numbers(self) -> dict[Receiver, int]:
        """The number of this emission, for each receiver whose filter reads it."""
        if self._numbers is None:
            self._numbers = {}
        return self._numbers

    def where(self) -> str:
        """Word the place for messages: `signal 'batch_finished', epoch 1, sender 'train'`."""
        parts = [f"signal {self.name!r}"]
        parts += [f"{key} {self._fields[key]}" for key in ("epoch", "step") if key in self._fields]
        if self.sender is not None:
            parts.append(f"sender {self.sender!r}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<Event {self.where()}>"


def _not_given(name: str, event: Event) -> str:
    several = event.emitter.context.get(name + "s")
    if several is not None and name in ("model", "optimizer"):
        return f"the run has several {name}s: ask for {name}s, a dict of {', '.join(several)}"
    return f"{event.sender or 'the loop'!r} gave no {name!r} to bus.bind or Run"
