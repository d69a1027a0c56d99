"""The side of the bus that handlers use: subscribe, attach, and end it again."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from eventbus.arguments import called_as
from eventbus.attachment import Attachment
from eventbus.background import Background
from eventbus.declaration import Declaration
from eventbus.errors import AttachError
from eventbus.event_signal import EventSignal
from eventbus.handler_names import check_own_name, is_of, label_of, name_of
from eventbus.inert import warn_if_inert
from eventbus.log import log
from eventbus.subscription import OnError, Options

if TYPE_CHECKING:
    from eventbus.registry import Registry

__all__ = ["HandlersSide"]

F = TypeVar("F", bound=Callable[..., Any])


class HandlersSide:
    """What an `EventBus` offers to those who listen."""

    registry: Registry

    @called_as("bus.on")
    def on(
        self,
        *signals: str | Declaration[...],
        when: Any = None,
        priority: int = 0,
        sender: str | None = None,
        name: str | None = None,
        on_error: OnError = "raise",
        background: Background | bool | None = None,
    ) -> Callable[[F], F]:
        """Subscribe the decorated callable, which is returned unchanged.

        Parameters
        ----------
        signals
            Names or declarations; or a pattern, `"validation_*"` or `"*"`, which covers signals
            declared later too, but never `handler_failed` and `state_*`. One that covers none so
            far and looks misspelt is an error on a strict bus, elsewhere a warning.
        when
            A filter, or a callable that names fields. None: always due.
        priority
            A higher number runs first; equal ones in the order they were subscribed. See
            `Priority`.
        sender
            Hear this sender alone.
        name
            For messages and tables; else the function's.
        on_error
            "raise" lets a failure reach the loop, "isolate" logs and counts it.
        background
            True, or a `Background` with a queue of another size: call it on a thread of its own,
            which the loop does not wait for. It cannot name the model or the optimizer.

        Raises
        ------
        EventBusError
            An unknown signal or field, an `async def`, a filter that names a wrong field.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("epoch_started", "epoch_finished", sender="train")
        ... def show(event): print(event.name)
        >>> _ = bus.bind(sender="train").emit("epoch_started", epoch=1, step=0)
        epoch_started
        >>> _ = bus.bind(sender="generator").emit("epoch_started", epoch=1, step=0)
        """
        options = Options.checked(when, priority, sender, on_error, background)
        return self._decorator(signals, name, options)

    @called_as("bus.once")
    def once(
        self,
        *signals: str | Declaration[...],
        when: Any = None,
        priority: int = 0,
        sender: str | None = None,
        name: str | None = None,
        on_error: OnError = "raise",
        background: Background | bool | None = None,
    ) -> Callable[[F], F]:
        """Subscribe as `on` does, for one call.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.once("batch_finished")
        ... def first(step): print("first step:", step)
        >>> for step in (1, 2): _ = bus.emit("batch_finished", epoch=1, step=step)
        first step: 1
        """
        options = Options.checked(when, priority, sender, on_error, background, once=True)
        return self._decorator(signals, name, options)

    def _decorator(
        self, signals: tuple[Any, ...], name: str | None, options: Options
    ) -> Callable[[F], F]:
        names = self._names(signals)
        check_own_name(name)

        def subscribe(handler: F) -> F:
            warn_if_inert(self.registry.bus)
            self._replace(handler)
            own = name_of(handler)
            labelled = options
            if name is None and type(handler) is MethodType:
                labelled = options._replace(label=f"{own}.{label_of(handler)}")
            self.registry.subscribe(handler, names, name or own, labelled)
            return handler

        return subscribe

    def _names(self, signals: tuple[Any, ...]) -> tuple[str, ...]:
        if not signals:
            raise TypeError('name the signals: @bus.on("batch_finished")')
        for each in signals:
            if not isinstance(each, str | Declaration | EventSignal) or not each:
                raise TypeError(f'name the signals: @bus.on("batch_finished"); got {each!r}')
        return tuple(s if isinstance(s, str) else self.registry.signal(s).name for s in signals)

    def _replace(self, handler: Any) -> None:
        for name in self.registry.replace_redefined(handler):
            log().warning(
                "handler %r was defined again: the new one replaces it (to have both, give the "
                "functions names of their own)",
                name,
            )
        for name, had_state in self.registry.replace_instances(handler).items():
            note = ", and its state is not carried over" if had_state else ""
            log().warning("handler %r was defined again: the new one replaces it%s", name, note)

    @called_as("bus.attach")
    def attach(
        self,
        thing: Any,
        *,
        when: Any = None,
        priority: int | None = None,
        sender: str | None = None,
        name: str | None = None,
        on_error: OnError | None = None,
        background: Background | bool | None = None,
    ) -> Attachment:
        """Subscribe every mark that an object, a module or a function has; see `handles`.

        The keywords override the marks; `when` and `priority` leave those on `run_*` alone, where
        there are others, so that a handler still opens, resumes and closes, and in its order.
        `when` also leaves what a mark says of ranks: one that writes a file on rank 0 does so
        whatever the filter, unless that names ranks, as in `when=every(10) & on_rank(1)`.

        What has `state_dict` and `load_state_dict` takes part in checkpoints under its name: the
        class's, unless `name` is given. Where the class was defined again, as when a notebook's
        cell is run again, the objects of the old one are detached, and a line says so; the new
        object keeps its own state. Of a class that is not defined there, both stay; a line says
        that, too.

        Raises
        ------
        AttachError
            Attached already, nothing to attach, the state of another has that name, or a shallow
            copy, whose marked methods work on the object that was copied.

        Examples
        --------
        >>> from eventbus import EventBus, handles
        >>> class Greeter:
        ...     @handles("run_started")
        ...     def greet(self, run): print("hello", run)
        >>> bus = EventBus()
        >>> handle = bus.attach(Greeter())
        >>> _ = bus.bind(sender="digits").emit("run_started")
        hello digits
        >>> handle.detach()
        """
        overrides = {
            "when": when,
            "priority": priority,
            "sender": sender,
            "on_error": on_error,
            "background": background,
        }
        check_own_name(name)
        warn_if_inert(self.registry.bus)
        self._replace(thing)
        attachment = self.registry.attach(thing, name, overrides)
        self._warn_of_double(attachment)
        return attachment

    def _warn_of_double(self, attachment: Attachment) -> None:
        if any(attachment.repeats(held) for held in self.registry.attachments):
            log().warning(
                "handler %r is attached a second time, as its cell was run again, and both are "
                "called: make the bus anew in that cell, too, or detach the first one",
                attachment.name,
            )

    @called_as("bus.detach")
    def detach(self, thing: Any) -> None:
        """End every subscription of a function or an object, those of its bound methods too.

        Raises
        ------
        AttachError
            It has none.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("epoch_finished")
        ... def report(epoch): print(epoch)
        >>> bus.detach(report)
        >>> _ = bus.emit("epoch_finished", epoch=1, step=10)
        """
        attachments = [a for a in self.registry.attachments if is_of(a.thing, thing) or a is thing]
        subscriptions = [
            s for s in self.registry.subscriptions if is_of(s.handler, thing) or s is thing
        ]
        if not attachments and not subscriptions:
            raise AttachError(f"{thing!r} is not attached to this bus")
        for attachment in attachments:
            attachment.detach()
        for subscription in subscriptions:
            subscription.detach()
        for left in [a for a in self.registry.attachments if a.is_left]:
            left.detach()
