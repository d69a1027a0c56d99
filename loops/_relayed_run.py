"""The run of somebody else's loop: opened, resumed and closed, and what its handlers want of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus import EventBus, RestoredState
from eventbus.loops._context import named_parts
from eventbus.loops._counts import Counts
from eventbus.loops._run_span import RunSpan

if TYPE_CHECKING:
    from eventbus import Stop
    from eventbus.loops._spans import Spans

__all__ = ["RelayedRun"]

log = logging.getLogger("eventbus.loops")


class RelayedRun:
    """A run that the hooks of a framework tell of.

    Parameters
    ----------
    bus
        Where to emit.
    framework
        Its name, for messages.
    name
        The label of the sender; "train" unless given.
    cannot
        Signals that this framework leaves no place for, and why, in a few words. Said once for
        those that a handler waits for.

    Attributes
    ----------
    is_open : bool
        Between `open` and `finish` or `fail`.
    """

    def __init__(
        self,
        bus: EventBus,
        framework: str,
        *,
        name: str | None = None,
        cannot: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(bus, EventBus):
            raise TypeError(f"the loop of {framework} takes an EventBus; got {bus!r}")
        self.bus = bus
        self.framework = framework
        self.is_open = False
        self._run: RunSpan | None = None
        self._epochs: int | None = None
        self._name = name
        self._cannot = cannot or {}
        self._said: set[str] = set()

    # -- from its beginning to its end

    def open(
        self,
        *,
        state: Mapping[str, Any] | None = None,
        stand_ins: Mapping[str, Any] | None = None,
        carried: Mapping[str, Any] | None = None,
        resumed_from: str | None = None,
        within_epoch: bool = True,
        **context: Any,
    ) -> None:
        """Emit `run_opened`; put back what rode in the framework's checkpoint.

        Parameters
        ----------
        state
            More that belongs into our checkpoints, by key.
        stand_ins
            What gives and takes the state of a `model`, `optimizer` or `scheduler` in its place, by
            that key, where its own `state_dict` will not do.
        carried
            What `luggage` gave when the framework saved the checkpoint that it goes on from.
        resumed_from
            That checkpoint's path, where the framework resumes.
        within_epoch
            False where the framework begins with a new epoch after the one of the checkpoint.
        context
            `model`, `optimizer`, `scheduler`, `models`, `optimizers`, `config`, `run_id`.
        """
        self._epochs = None
        self._run = RunSpan(self.bus, self._name, context, Counts())
        self._warn_of_limits()
        self._span.open(named_parts({**context, **(stand_ins or {})}, state))
        self.is_open = True  # what fails in its opening has closed it again
        self.resume(carried, resumed_from)
        if resumed_from is not None and not within_epoch:
            self._spans.position.forget(as_done=True)

    def resume(
        self, carried: Mapping[str, Any] | None, path: str | None, *, within: bool = True
    ) -> None:
        """Go on from the framework's checkpoint, where it tells of it between `open` and `start`.

        Parameters
        ----------
        carried, path
            As `open` takes them.
        within
            False where the framework begins the epoch anew that a checkpoint was made in.
        """
        spans = self._spans
        if spans.resumed_from is not None and path is not None:
            error = RuntimeError(
                f"{self.framework} resumes from {path!r} and a handler from "
                f"{spans.resumed_from!r}: let one of them do it"
            )
            self.fail(error)
            raise error
        if spans.resumed_from is not None:
            # It says where in the data to go on; only the framework could go there.
            self._begin_epoch_anew(f"only {self.framework}'s own resume goes on within its data")
        spans.resumed_from = spans.resumed_from or path
        if carried is not None:
            with self._span.state.without_parts():
                spans.emitter.emit("state_restored", state=RestoredState(carried), path=path)
        if not within:
            self._begin_epoch_anew(f"{self.framework} resumes at the beginning of an epoch")

    def _begin_epoch_anew(self, why: str) -> None:
        if self._spans.position.forget():
            self.say(
                f"the checkpoint was made within epoch {self._spans.counts.epochs_done + 1}, which "
                f"begins anew: {why}"
            )

    def go_on_from(self, *, epoch: int, step: int) -> None:
        """Go on after these, of a framework's checkpoint that nothing of ours rode in."""
        self._spans.counts.restore({"epoch": epoch, "step": step})

    def start(self, *, epochs: int | None = None, steps: int | None = None) -> None:
        """Emit `run_started`; `epochs` and `steps` are those in all, as far as they are known."""
        self._epochs = epochs
        self._spans.start(epochs=epochs, steps=steps)

    def finish(self) -> None:
        """Close what is open and end the run; nothing where it is closed already.

        Raises
        ------
        SystemExit
            A `Stop` has an exit code.
        """
        if self.is_open:
            self.is_open = False
            self._span.finish()

    def fail(self, error: BaseException) -> None:
        """End the run after a failure; nothing where it is closed already."""
        if self.is_open:
            self.is_open = False
            self._span.fail(error)

    def luggage(self) -> dict[str, Any]:
        """Return what is to ride in a checkpoint of the framework's own, by key.

        The state of handlers, and the counts; the framework keeps model, optimizer and generators.
        """
        with self._span.state.without_parts():
            spans = self._spans
            place = {"epoch": spans.counts.epoch, "step": spans.step}
            parts = dict(spans.emitter.emit("state_requested", **place).state)
        if "loop" not in parts:  # the bus is a copy's, and inert
            return {}
        position = {**parts["loop"]["position"], "done": []}  # a framework does nothing twice
        return {**parts, "loop": {**parts["loop"], "position": position}}

    # -- what the framework is to do

    @property
    def stop(self) -> Stop | None:
        """The pending `Stop`, or the one that ended the run."""
        return None if self._run is None else self._run.stop

    @property
    def is_over(self) -> bool:
        """True where the run is to end now: a `Stop`, or all its epochs are done.

        A resumed run has epochs behind it that the framework may not know of.
        """
        done = self._spans.counts.epochs_done
        return self.stop is not None or (self._epochs is not None and done >= self._epochs)

    @property
    def is_epoch_over(self) -> bool:
        """True where the epoch is to end now."""
        return self._spans.pending().stop_epoch is not None or self.is_over

    @property
    def step(self) -> int:
        """The optimizer step under way, or the last one finished."""
        return self._spans.step

    @property
    def steps_done(self) -> int:
        """Finished optimizer steps."""
        return self._spans.counts.steps_done

    @property
    def epoch(self) -> int:
        """The epoch under way, or the last one that was."""
        return self._spans.counts.epoch

    @property
    def batch_index(self) -> int:
        """Micro-batches of the epoch so far."""
        return self._spans.counts.batch_index

    @property
    def resumes_in_epoch(self) -> bool:
        """True where the first epoch of a resumed run has begun before."""
        return self._spans.position.is_within_epoch

    @property
    def in_epoch(self) -> bool:
        """True between the beginning and the end of an epoch."""
        return self.is_open and self._spans.epoch is not None

    @property
    def in_validation(self) -> bool:
        """True between the beginning and the end of a validation, a silent one too."""
        return self.is_open and self._spans.validation is not None

    # -- limits

    def _warn_of_limits(self) -> None:
        for signal, why in self._cannot.items():
            waiting = [one.label for one in self.bus.subscriptions if one.asked_for(signal)]
            if waiting:
                self.say(f"{', '.join(waiting)}: no {signal} from {self.framework}: {why}")

    def is_heard(self, signal: str) -> bool:
        """Tell whether anybody is subscribed to a signal: else its fields need no work."""
        return bool(self.bus.signal(signal).receivers)

    def say(self, message: str) -> None:
        """Warn, once for each message."""
        if message not in self._said:
            self._said.add(message)
            log.warning(message)

    @property
    def _span(self) -> RunSpan:
        if self._run is None:
            raise RuntimeError(f"{self.framework} has opened no run yet")
        return self._run

    @property
    def _spans(self) -> Spans:
        return self._span.spans
