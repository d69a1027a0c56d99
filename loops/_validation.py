"""The span of one validation: from `validation_started` to `validation_done` or `_interrupted`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from eventbus.loops._batch import Body
from eventbus.loops._closing import Ending, described, noted
from eventbus.loops._generators import RandomGenerators
from eventbus.loops._loader import keep_order, within_bar
from eventbus.loops._metrics import Means, Metrics, prefixed
from eventbus.loops._report import Report
from eventbus.loops._untold import forget_untold, untold

if TYPE_CHECKING:
    from types import TracebackType

    from eventbus.loops._spans import Spans

__all__ = ["HeldValidation", "ValidationSpan"]

_GENERATORS = RandomGenerators(devices=False)  # nobody waits for a device here


class ValidationSpan:
    """One validation under way.

    Attributes
    ----------
    name : str
        Its metrics are `<name>_<key>`.
    round : int
        Which validation of that name; an interrupted one does not use up its number.
    held : bool
        Opened by `with run.validation()`, so closed by the end of that block and by nothing else.
    silent : bool
        A `Stop` was pending when it began: it emits and records nothing.
    is_behind : bool
        A resumed run has come to one that was done before the checkpoint: silent, and no data read.
    is_gone_through : bool
        It is behind, and so is all of the run: silent, but the script has its batches again.
    was_cut : bool
        A `Stop` ended it before the data did.
    """

    def __init__(self, spans: Spans, name: str, owner: object, held: bool = False) -> None:
        self._spans = spans
        self.owner = weakref.ref(owner)
        self.name = name
        self.round = spans.counts.rounds.get(name, 0) + 1
        self.held = held
        self.silent = False
        self.is_behind = self.is_gone_through = False
        self.was_cut = False
        self._generators = _GENERATORS.state_dict() if spans.is_redone else None
        self._places: list[str] = []  # where its loaders are known
        self._untold = untold()  # before it: a validation is to have one order
        self._means = Means()
        self._results = Report()
        self._body: Body | None = None
        self._wait_s = 0.0
        self._began_s = perf_counter()

    @property
    def is_left(self) -> bool:
        """True once the loop over its batches is gone: dropped at `break` or `return`."""
        return not self.held and self.owner() is None

    def start(self) -> None:
        """Tell that it begins; a checkpoint within it is to have it done again as it was begun."""
        if not self.silent:
            self._spans.generators_before = self._generators
        self._emit("validation_started")

    def enter(self, batch: Any, wait_s: float) -> None:
        """Give the loop a batch, for which it waited so long."""
        self._wait_s = wait_s
        self._body = Body(batch)

    def open_loader(self, loader: Any) -> None:
        """A loop over the batches of one of its loaders begins, or is passed over."""
        place, loaders = f"validation {self.name} {len(self._places)}", self._spans.place.loaders
        self._places.append(place)
        loader = within_bar(loader)
        keep_order(loader)
        if self.is_behind and not self.is_gone_through:
            loaders.pass_over(place, loader)
        else:
            loaders.begin(place, loader)

    def record(self, values: Mapping[str, Any]) -> None:
        """Keep what is reported: for the batch under way, else as a result of the validation."""
        place = f"validation {self.name!r}"
        if self._spans.epoch is not None:
            self._spans.epoch.check_free(prefixed(self.name, values))
        if self._body is not None:
            self._body.add(values, f"this batch of {place}", self._results.metrics)
        else:
            self._results.add_metrics(values, place, self._means)

    def settle(self, results: Mapping[str, Any]) -> None:
        """Take results that were computed elsewhere; a mean of the same key gives way."""
        self._results = Report()
        self._results.add_metrics(results, f"validation {self.name!r}", ())

    def leave(self, ending: Ending) -> None:
        """The body of a batch came to its end."""
        body, self._body = self._body, None
        if body is None or not (ending is Ending.COMPLETED or body.made):
            return
        size = body.size
        self._means.add(body.metrics, size)
        fields = body.told()
        if "loss" in body.metrics:
            fields["loss"] = body.metrics["loss"]
        self._emit(
            "validation_batch_finished",
            metrics=Metrics(prefixed(self.name, body.metrics)),
            batch_size=size,
            duration_s=perf_counter() - body.began_s,
            data_wait_s=self._wait_s,
            **fields,
        )

    def close(self, ending: Ending, reason: str = "") -> None:
        """End it: done, with what was reported, unless a `Stop` or a failure cut it short."""
        in_body_of_epoch = not self._spans.is_in_body
        if in_body_of_epoch and (self.held or ending is Ending.LEFT):
            self._spans.schedules.leave_body()  # the block, or what came after a `break`, is of it
        self.leave(ending)
        self._spans.validation = None
        forget_untold(self._untold)
        if self._spans.batch is not None:
            self._spans.batch.exclude(perf_counter() - self._began_s)
        stop = self._spans.pending().stop
        cut_by_break = ending is Ending.LEFT and not self.held and stop is not None
        if ending is Ending.FAILED or self.was_cut or cut_by_break:
            self._interrupt(reason or (stop.reason if stop else ""))
        else:
            self._finish()
        if in_body_of_epoch:
            self._spans.schedules.go_back()

    def _finish(self) -> None:
        spans = self._spans
        is_in_body_of_epoch = spans.epoch is not None and spans.is_between
        if self.is_behind and is_in_body_of_epoch:
            spans.place.draws.pass_over()
        if self.silent:
            return
        spans.counts.rounds[self.name] = self.round
        values = self._values()
        spans.last.update(values)
        spans.generators_before = None
        for place in self._places:
            spans.place.loaders.end(place)
        spans.place.done.settle(self.name)
        if spans.epoch is not None:
            spans.epoch.validations.update(values)
        if spans.batch is not None or spans.is_between:
            spans.place.done.note_validation(self.name, in_step=spans.batch is not None)
        if is_in_body_of_epoch:
            spans.place.draws.settle()
        self._emit("validation_done", metrics=Metrics(values))
        if is_in_body_of_epoch:
            spans.place.draws.end_loop()

    def _interrupt(self, reason: str) -> None:
        self._spans.note_undone()
        self._emit("validation_interrupted", reason=reason, metrics=Metrics(self._values()))

    def _values(self) -> dict[str, Any]:
        return prefixed(self.name, {**self._means, **self._results.metrics})

    def _emit(self, signal: str, **fields: Any) -> None:
        if self.silent:
            return
        spans = self._spans
        spans.emitter.emit(
            signal,
            name=self.name,
            round=self.round,
            epoch=spans.counts.epoch,
            step=spans.step,
            **fields,
        )


class HeldValidation:
    """A validation as long as a `with` block, for results that are computed elsewhere."""

    def __init__(self, spans: Spans, name: str) -> None:
        self._spans = spans
        self._name = name
        self._span: ValidationSpan | None = None

    def __enter__(self) -> None:
        self._span = self._spans.open_validation(self._name, self, held=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        span = self._span
        if span is None or self._spans.validation is not span:
            return
        if error is None:
            span.close(Ending.LEFT)
        else:
            with noted(error):
                span.close(Ending.FAILED, described(error))
