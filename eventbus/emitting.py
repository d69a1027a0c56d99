"""The side of the bus that loops use: emit, transform, answer; and what handlers emit by."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ParamSpec, cast, overload

from eventbus.answers import Answers, Request
from eventbus.declaration import Declaration
from eventbus.emitter import Emitter
from eventbus.event_signal import EventSignal
from eventbus.frames import surrounding
from eventbus.inbox import Inbox, Runs

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.compiled import ByName

__all__ = ["LoopsSide"]

P = ParamSpec("P")


class LoopsSide:
    """What an `EventBus` offers to those who emit."""

    inert: bool
    inbox: Inbox
    root: Emitter
    _settled: dict[Any, ByName]

    def bind(
        self,
        *,
        sender: str | None = None,
        parent: Emitter | None = None,
        **context: Any,
    ) -> Emitter:
        """Make an emitter: a label, and a run's context, which rides on each of its signals.

        Parameters
        ----------
        sender
            The label; a non-empty string.
        parent
            The emitter of the run that this one is inside of: it then reaches only subscriptions
            with this `sender=`, and the parent's `Stop` is pending here too.
        context
            `model`, `optimizer`, `scheduler`, `models`, `optimizers`, `config`, `run`, `run_id`.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("epoch_finished")
        ... def save(epoch, model): print("saving", model)
        >>> loop = bus.bind(sender="train", model="the model")
        >>> _ = loop.emit("epoch_finished", epoch=1, step=10)
        saving the model
        """
        given = {name: value for name, value in context.items() if value is not None}
        return Emitter(cast("EventBus", self), sender, given, parent)

    @overload
    def emit(self, signal: Declaration[P], /, *args: P.args, **fields: P.kwargs) -> Answers: ...
    @overload
    def emit(self, signal: str | EventSignal[...], /, **fields: Any) -> Answers: ...
    def emit(self, signal: Any, /, **fields: Any) -> Answers:  # type: ignore[misc]  # *args cost
        """Emit from nowhere in particular; inside a handler, from where its event came.

        `sender=` labels this emission alone. Context may be given like fields.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("batch_finished")
        ... def measure(step, bus): bus.emit("metrics_measured", metrics={"norm": 0.5})
        >>> @bus.on("metrics_measured")
        ... def show(step, metrics): print(step, metrics)
        >>> _ = bus.emit("batch_finished", epoch=1, step=7)
        7 {'norm': 0.5}
        """
        emit = self._settled.get(signal)
        if emit is not None:
            answers = emit(fields)
            if answers is not None:
                return answers
        return self._emitter(fields).emit_slowly(signal, fields)

    def transform(self, signal: Any, value: Any, /, **fields: Any) -> Any:
        """Let handlers replace a value; return what they made of it.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("batch_loaded")
        ... def double(batch): return [2 * x for x in batch]
        >>> bus.transform("batch_loaded", [1, 2], epoch=1, step=1, batch_index=1)
        [2, 4]
        """
        return self._emitter(fields).transform(signal, value, **fields)

    def answer(self, answer: Request, *, runs: Runs = "current", by: str = "bus.answer") -> None:
        """Give an answer from anywhere: any thread, an OS signal handler.

        It is pending from the next emission on, in the runs that are there by now; where none has
        heard it, in the next one. `runs="all"` ends later runs on the bus too.

        Examples
        --------
        >>> from eventbus import EventBus, Stop
        >>> bus = EventBus()
        >>> loop = bus.bind(sender="train")
        >>> bus.answer(Stop("SIGTERM", exit_code=143))
        >>> loop.emit("batch_finished", epoch=1, step=1).stop.reason
        'SIGTERM'
        """
        if not isinstance(answer, Request):
            raise TypeError(f"bus.answer takes a Stop, StopEpoch or SkipBatch, got {answer!r}")
        if runs not in ("current", "all"):
            raise ValueError(f'runs is "current" or "all", got {runs!r}')
        if not self.inert:
            self.inbox.give(answer.signed(by), runs)

    def here(self) -> Emitter:
        """Return the emitter of the emission that this thread is inside of, else the bus's own."""
        event = surrounding(cast("EventBus", self), sys._getframe(1))
        return self.root if event is None else event.emitter

    def _emitter(self, fields: dict[str, Any]) -> Emitter:
        emitter = self.here()
        return emitter.labelled(fields.pop("sender")) if "sender" in fields else emitter
