"""The span of a whole run: from `run_opened` to `run_closed`, which is always the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from eventbus import Stop
from eventbus.inert import inert_bus, silence_in_children
from eventbus.loops._closing import Ending, described, noted, told_to
from eventbus.loops._context import gaps
from eventbus.loops._metrics import Metrics
from eventbus.loops._ranks import meet
from eventbus.loops._spans import Spans
from eventbus.loops._state import LoopState
from eventbus.loops._stepping import note_steps

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from eventbus import Emitter, EventBus
    from eventbus.loops._counts import Counts
    from eventbus.loops._exchange import Wish

__all__ = ["RunSpan"]


class RunSpan:
    """One run on the bus.

    Attributes
    ----------
    spans : Spans
        What is open inside it.
    state : LoopState
        What speaks for it when state is asked for.
    outcome : str or None
        "completed", "stopped" or "failed"; None while it is open.
    """

    def __init__(
        self,
        bus: EventBus,
        name: str | None,
        context: Mapping[str, Any],
        counts: Counts,
        ranks: Wish = "alone",
    ) -> None:
        outer = bus.runs.around()
        _check_name(name, outer)
        label = name or "train"
        self.outcome: str | None = None
        self._bus = bus
        self._outer = outer[-1] if outer else None
        emitter = bus.bind(sender=label, run=label, parent=self._outer, **context)
        self.spans = Spans(emitter, counts)
        self._prefix = f"{label}." if outer else ""
        self.state = LoopState(self.spans)
        self._context = context
        self._optimizers = (context.get("optimizer"), *(context.get("optimizers") or {}).values())
        self._hooks: list[RemovableHandle] = []
        self._wish: Wish = ranks
        self._stops: tuple[Stop, ...] = ()
        self._has_finished = False
        silence_in_children(self)

    @property
    def stop(self) -> Stop | None:
        """The `Stop` that is pending, or that ended it."""
        if self.outcome is None:
            return self.spans.pending().stop
        return self._stops[0] if self._stops else None

    def silence(self) -> None:
        """Emit to nobody and record nothing any more: this is a copy in another process."""
        emitter = self.spans.emitter
        elsewhere = inert_bus().bind(sender=emitter.sender, run_id=emitter.run_id)
        self.spans = InertSpans(elsewhere, self.spans)

    def open(self, parts: Mapping[str, Any]) -> None:
        """Emit `run_opened`, in which restorers give the parts of the state back."""
        emitter, runs = self.spans.emitter, self._bus.runs
        runs.claim(emitter)
        with told_to(lambda _: runs.remove(emitter)):  # where that fails nothing has begun
            meet(self.spans, self._wish, self._outer)
        try:
            missing = gaps(self._context, parts, is_inner=self._outer is not None)
            self.state.attach(self._bus, parts, self._prefix, missing)
            self._hooks = note_steps(self.spans, self._optimizers)
            restored = emitter.emit("run_opened").restored
            self.spans.resumed_from = None if restored is None else str(restored.path)
            if self.spans.ranks is not None:
                self.spans.ranks.open(self.spans.resumed_from)
        except BaseException as error:
            self.fail(error)
            raise

    def finish(self) -> None:
        """End the run as it should end; raise `SystemExit` if its `Stop` has an exit code."""
        try:
            self.spans.start()
            self.spans.close_all(Ending.LEFT)
            if self.spans.ranks is not None:
                self.spans.ranks.end()
            self._note_stops()
            if not self._stops:
                self.spans.place.done.end_run()
            self._emit_finished()
            if self.spans.ranks is not None:
                self.spans.ranks.part()
        except BaseException as error:
            self.fail(error)
            raise
        self._close("stopped" if self._stops else "completed")
        self._exit()

    def fail(self, error: BaseException) -> None:
        """End the run after `error`; whatever handlers do meanwhile, each step is taken."""
        if self.spans.ranks is not None:
            self.spans.ranks.fail(error, described(error))
        self._note_stops()
        if self.spans.epoch is not None:
            self.spans.hints.explain(error)
        was_cut_for = self._reason_of_cut(error)
        with ExitStack() as steps:  # taken from the last to the first, a second Ctrl-C or not
            steps.callback(_take, self._close, "failed", cause=error)
            steps.callback(_take, self._emit_failed, error, cause=error)
            for span in (self.spans.epoch, self.spans.batch, self.spans.validation):
                if span is not None:
                    reason = was_cut_for or described(error)
                    steps.callback(_take, span.close, Ending.FAILED, reason, cause=error)
            if self.spans.validation is not None:  # its batch first, as a step of its own
                steps.callback(_take, self.spans.validation.leave, Ending.FAILED, cause=error)

    def _reason_of_cut(self, error: BaseException) -> str:
        """Return why a `Stop` had cut the epoch before its body failed; else "".

        Nothing was under way any more, so a run goes on from there as after the `Stop`: whoever
        saves for its reason may do so. Several ranks would have to agree on that.
        """
        spans = self.spans
        is_open = spans.batch is not None or spans.validation is not None or spans.ranks is not None
        if spans.epoch is None or is_open or not isinstance(error, Exception):
            return ""
        is_cut = spans.epoch.was_cut and not spans.epoch.open_passes
        return self._stops[0].reason if is_cut and self._stops else ""

    def _note_stops(self) -> None:
        """Keep what ends the run: nothing is pending any more once it is closed."""
        self._stops = tuple(one for one in self.spans.pending() if isinstance(one, Stop))

    def _emit_finished(self) -> None:
        self._has_finished = True
        reason = self._stops[0].reason if self._stops else "completed"
        self._emit("run_finished", reason=reason, metrics=Metrics(dict(self.spans.last)))

    def _emit_failed(self, error: BaseException) -> None:
        if not self._has_finished:  # else that has been told, and run_closed tells of the failure
            self._emit("run_failed", exception=error)

    def _emit(self, signal: str, **fields: Any) -> None:
        spans = self.spans
        spans.emitter.emit(signal, epoch=spans.counts.epoch, step=spans.step, **fields)

    def _close(self, outcome: str) -> None:
        self.outcome = outcome
        self.spans.end()
        try:
            self.spans.emitter.emit("run_closed", outcome=outcome)
        finally:
            self.state.detach(self._bus)
            while self._hooks:
                self._hooks.pop().remove()
            if self.spans.ranks is not None:
                self.spans.ranks.close()

    def _exit(self) -> None:
        """Leave the process if a `Stop` wants that, unless it is for an outer run to do.

        The first that has an exit code: a SIGTERM after early stopping is still a SIGTERM.
        """
        outers = self._outer.answers.pending if self._outer is not None else ()
        for stop in self._stops:
            if stop.exit_code is not None and stop not in outers:
                raise SystemExit(stop.exit_code)


class InertSpans(Spans):
    """The spans of a run in another process, where nobody hears of them.

    What a DataLoader's workers report belongs to no batch of theirs, and would come from each.

    Parameters
    ----------
    before
        What was known up to then: it can still be read.
    """

    def __init__(self, emitter: Emitter, before: Spans) -> None:
        super().__init__(emitter, before.counts)
        self.last = before.last
        self._step = before.step

    @property
    def step(self) -> int:
        """The step that was under way, else the last one finished."""
        return self._step

    def record(self, values: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def skip(self, reason: str) -> None:
        """Leave nothing out: no batch is under way here."""


def _take(step: Callable[..., None], *args: Any, cause: BaseException) -> None:
    with noted(cause):
        step(*args)


def _check_name(name: str | None, outer: tuple[Emitter, ...]) -> None:
    taken = [emitter.sender for emitter in outer]
    if taken and (name is None or name in taken):
        raise ValueError(
            f"a Run inside another needs its own name=; got {name!r}, "
            f"taken: {', '.join(map(repr, taken))} (run {taken[-1]!r} was opened and is not "
            "closed: for this one to come after it, leave its `with` block first)"
        )
