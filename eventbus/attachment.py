"""What `bus.attach` does: find the marks, subscribe them all or none, let state take part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus.background import as_background
from eventbus.cells import calling_cell, is_run_again
from eventbus.declaration import CONTEXT, RESERVED
from eventbus.due import in_place_of
from eventbus.errors import AttachError
from eventbus.handle import Handle
from eventbus.handler_names import is_same, label_of, name_of
from eventbus.marks import Mark, find_marks
from eventbus.signal_names import is_pattern
from eventbus.signals import STANDARD
from eventbus.state import StatePart, has_state
from eventbus.subscription import Options
from eventbus.worker import Worker

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.subscription import Subscription

__all__ = ["Attachment", "attach"]

_NOT_OF_LIFE = ("when", "priority")
"""What is said of a handler's work: it opens, resumes and closes all the same, in its order."""


class Attachment(Handle):
    """The handle on all subscriptions of one attached thing; ended by `detach` or a `with` block.

    Attributes
    ----------
    thing : object
    name : str
        Under which it answers, and keeps its state.
    subscriptions : list of Subscription

    Examples
    --------
    >>> from eventbus import EventBus, handles
    >>> class Report:
    ...     @handles("epoch_finished")
    ...     def report(self, epoch): print("epoch", epoch)
    >>> bus = EventBus()
    >>> with bus.attach(Report()) as handle:
    ...     print(handle.name)
    ...     _ = bus.emit("epoch_finished", epoch=1, step=10)
    Report
    epoch 1
    >>> _ = bus.emit("epoch_finished", epoch=2, step=20)
    """

    def __init__(self, thing: Any, name: str) -> None:
        self.thing = thing
        self.name = name
        self.subscriptions: list[Subscription] = []
        self.bus: EventBus | None = None
        self.has_state = False
        self._cell = calling_cell()
        self.worker: Worker | None = None  # of all its background handlers

    def detach(self) -> None:
        """End all its subscriptions, from the next emission on; once more does nothing.

        The thing's `on_detach(bus)` is called then, where it has one.
        """
        for subscription in self.subscriptions:
            subscription.detach()
        bus, self.bus = self.bus, None
        if bus is not None:
            bus.registry.forget(self.thing)
            _tell(self.thing, "on_detach", bus)

    def calls(self, handler: Any) -> bool:
        """Tell whether a function or a method is one of its handlers."""
        return any(is_same(one.handler, handler) for one in self.subscriptions if one.attached)

    def repeats(self, held: Attachment) -> bool:
        """Tell whether it comes from the cell that attached `held`, run again."""
        is_alike = (type(held.thing), held.name) == (type(self.thing), self.name)
        return is_alike and self._heeds == held._heeds and is_run_again(held._cell, self._cell)

    @property
    def _heeds(self) -> set[str | None]:
        """The senders that its handlers hear."""
        return {one.sender for one in self.subscriptions}

    @property
    def is_left(self) -> bool:
        """True where all its subscriptions were ended one by one."""
        return not any(one.attached for one in self.subscriptions)

    def worker_for(self, options: Options) -> Worker | None:
        """Return what calls a handler of the thing off the loop's thread, where asked for.

        There is one for all of them: what runs in order and never at once needs no lock.
        """
        if options.background is None:
            return None
        if self.worker is None:
            self.worker = Worker(options.background, self.name)
        if self.worker.background != options.background:
            raise AttachError(
                f"the handlers of {self.name} share one thread in the background: give them the "
                f"same options, got {self.worker.background} and {options.background}",
                handler=self.name,
            )
        return self.worker

    def __reduce__(self) -> tuple[Any, ...]:
        from eventbus.inert import inert_handle

        return inert_handle, (self.name,)

    def __repr__(self) -> str:
        return f"<Attachment {self.name!r}: {len(self.subscriptions)} subscriptions>"


class Planned(NamedTuple):
    """One subscription to be made: under which name, and under which label in messages."""

    handler: Callable[..., Any]
    name: str
    label: str
    mark: Mark

    @property
    def is_life(self) -> bool:
        """Whether it opens, starts or closes the handler, rather than being what it is for."""
        return all(
            signal.startswith("run_") and (signal in STANDARD or is_pattern(signal))
            for signal in self.mark.signals
        )


def attach(bus: EventBus, thing: Any, name: str | None, overrides: Mapping[str, Any]) -> Attachment:
    """Subscribe every mark that `thing` has; all or none. Its `on_attach(bus)` comes last."""
    if isinstance(thing, type):
        raise AttachError(f"{thing.__name__} is a class: attach an instance, {thing.__name__}(...)")
    attachment = Attachment(thing, name or name_of(thing))
    planned = [_plan(thing, attachment.name, name, found) for found in find_marks(thing)]
    stateful = has_state(thing)
    if not planned and not stateful:
        raise AttachError(
            f"nothing to attach: {attachment.name} has no method marked with @eventbus.handles "
            "and no state_dict"
        )
    _check_state_name(bus, attachment.name, stateful)
    try:
        only_life = all(each.is_life for each in planned if not each.mark.always)
        for each in planned:
            chosen = overrides
            if each.mark.always or (each.is_life and not only_life):
                chosen = {key: value for key, value in overrides.items() if key not in _NOT_OF_LIFE}
            subscription = _subscribe(bus, each, attachment, chosen)
            attachment.subscriptions.append(subscription)
        if stateful:
            _join_state(bus, attachment, overrides.get("sender"))
        _tell(thing, "on_attach", bus)
    except Exception:
        attachment.detach()
        raise
    attachment.bus = bus
    return attachment


def _tell(thing: Any, hook: str, bus: EventBus) -> None:
    """Tell the thing itself that it is attached or detached, where it wants to know."""
    tell = getattr(thing, hook, None)
    if not callable(tell):
        return
    try:
        inspect.signature(tell).bind(bus)
    except TypeError as error:
        message = f"{name_of(thing)}.{hook} is called with the bus: write {hook}(self, bus)"
        raise AttachError(message, handler=name_of(thing)) from error
    except ValueError:
        pass  # no signature to read
    tell(bus)


def _plan(
    thing: Any, name: str, given: str | None, found: tuple[str, Callable[..., Any], Mark]
) -> Planned:
    """Name one of the handlers: as was given to `attach`, else as its mark says."""
    attribute, handler, mark = found
    if mark.name is not None and given is None:
        return Planned(handler, mark.name, mark.name, mark)
    is_whole = handler is thing and not isinstance(thing, MethodType)
    label = name if is_whole else f"{name}.{mark.name or attribute}"
    return Planned(handler, name, label, mark)


def _subscribe(
    bus: EventBus,
    planned: Planned,
    attachment: Attachment,
    overrides: Mapping[str, Any],
) -> Subscription:
    mark, label = planned.mark, planned.label
    chosen = {
        key: overrides[key] if overrides.get(key) is not None else getattr(mark, key)
        for key in ("priority", "sender", "on_error", "background")
    }
    when = overrides.get("when")
    chosen["when"] = mark.when if when is None else in_place_of(mark.when, when)
    _check_self(bus, planned)
    _check_thread(mark, overrides.get("background"), label)
    options = Options.checked(**{k: v for k, v in chosen.items() if v is not None}, label=label)
    return bus.registry.subscribe(
        planned.handler, mark.signals, planned.name, options, attachment.worker_for(options)
    )


def _check_thread(mark: Mark, background: Any, label: str) -> None:
    if mark.background is False and as_background(background) is not None:
        raise AttachError(
            f"{label} works on the loop's thread alone: attach it without background=",
            handler=label,
        )


def _check_self(bus: EventBus, planned: Planned) -> None:
    """Refuse a method without `self`, which would get the object in a field's place."""
    handler = planned.handler
    if not isinstance(handler, MethodType) or not isinstance(handler.__func__, FunctionType):
        return
    if getattr(type(handler.__self__), handler.__name__, None) is not handler.__func__:
        return  # a function that somebody bound on purpose, or a class method
    first = next(iter(handler.__func__.__code__.co_varnames), "")
    if first in bus.registry.known_fields() or first in (*CONTEXT, *RESERVED):
        raise AttachError(
            f"{planned.label} is a method, and its first parameter is {first!r}: "
            f"write def {handler.__name__}(self, {first}, ...)",
            handler=planned.label,
        )


def _check_state_name(bus: EventBus, name: str, stateful: bool) -> None:
    if stateful and name in bus.registry.state_names():
        raise AttachError(
            f"the state of another {name!r} is attached already: give this one a name, "
            f"bus.attach(..., name='{name}-2'); or, if this is a notebook's cell that was run "
            "before, make the bus anew in it",
            handler=name,
        )


def _join_state(bus: EventBus, attachment: Attachment, sender: str | None) -> None:
    attachment.has_state = True
    settle = attachment.worker.settle if attachment.worker is not None else None
    part = StatePart(attachment.name, attachment.thing, settle)
    for handler, signal in ((part.give, "state_requested"), (part.take, "state_restored")):
        label = f"{attachment.name}.{label_of(handler)}"
        options = Options.checked(sender=sender, label=label)
        attachment.subscriptions.append(
            bus.registry.subscribe(handler, (signal,), attachment.name, options)
        )
    part.take_late(bus.restored_state)
