"""Where in a run its ranks meet, and what they agree on there.

================================  =============================================  ===============
safe point                        what the ranks agree on                        waited for
================================  =============================================  ===============
the run is opened                 a pending `Stop`; from which checkpoint        at once
before each epoch                 a `Stop`                                       at once
the data is opened                `Stop`, `StopEpoch`; how many batches          at once
before a step's batch is loaded   `Stop`, `StopEpoch`                            at the next step
after a batch is read, where a    whose data has ended                           at once
loader has no length
`backward_finished`               `Stop`, `StopEpoch`, `SkipBatch`               at once
the end of an epoch               `Stop`, `StopEpoch`; whether work is undone    at once
a checkpoint                      the state that differs by rank                 at once
the end of the run                a `Stop`; then that all got there              at once
================================  =============================================  ===============

So what is answered in a step takes effect before the next step where the loop emits
`backward_finished` and it was answered by then, otherwise before the step after that one: the
exchange that is begun before a step is read before the one after it. The data's end reads it, too.

All ranks must come to these points equally often: take as many steps, open the same runs, emit
`backward_finished` alike and save on the same signals. Each exchange names its place, and where the
places differ all ranks raise a `RanksError` that says so. In a validation nothing is exchanged and
nothing is heeded that was not agreed before it: one rank may validate alone, the others wait for it
at the end of the epoch.

One rank that alone left a batch out would be missed in the all-reduce of the others. So a
`SkipBatch` that comes before the forward waits until `backward_finished`: forward and backward are
computed for nothing, and no rank's optimizer steps. In a loop that does not emit that signal a
`SkipBatch` is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from eventbus import Answers, Emitter, SkipBatch, Stop, StopEpoch
from eventbus.loops._agreement import Agreement, encoded
from eventbus.loops._exchange import Exchange, RanksError, Wish, exchange_for
from eventbus.loops._loader import END

if TYPE_CHECKING:
    from eventbus.loops._loader import Reader
    from eventbus.loops._spans import Spans

__all__ = ["Ranks", "meet"]

Kinds: TypeAlias = tuple[type[Stop | StopEpoch | SkipBatch], ...]

_STOPS: Kinds = (Stop,)
_ENDS: Kinds = (Stop, StopEpoch)
_ALL: Kinds = (Stop, StopEpoch, SkipBatch)

_exchanges: WeakKeyDictionary[Emitter, Exchange | None] = WeakKeyDictionary()
"""Of the open runs: a run inside another meets over the exchange of that one, or goes alone."""

_BEFORE_ALL = 10**9
"""The priority of what hears a step's end before any handler."""


class Ranks:
    """One rank's part in a run of several.

    Parameters
    ----------
    spans
        Where the run is.
    exchange
        What the ranks exchange over; shared by the runs inside this one.
    outer
        The emitter of the run around it.
    is_owner
        The exchange ends with this run.

    Attributes
    ----------
    agreement : Agreement
        The answers that are to be heeded.
    """

    def __init__(
        self, spans: Spans, exchange: Exchange, outer: Emitter | None, *, is_owner: bool
    ) -> None:
        self._spans = spans
        self.exchange = exchange
        self._is_owner = is_owner
        self.agreement = Agreement(spans, outer)
        self._received: list[Mapping[str, Any]] = []
        self._all_have_length = True
        self._was_saved = False
        self._backward_of = 0

    # -- the safe points

    def open(self, resumed_from: str | None) -> None:
        """Meet after `run_opened`: all go on from one checkpoint, or none does."""
        counts = self._spans.counts
        begin = f"from {Path(resumed_from).name}" if resumed_from else "afresh"
        self._meet(f"the opening, {begin}, after {counts.epochs_done} epochs", _STOPS)

    def before_epoch(self) -> None:
        """Meet before an epoch begins."""
        self._meet(f"the beginning of epoch {self._spans.counts.epochs_done + 1}", _STOPS)

    def open_data(self, reader: Reader, accumulate: int) -> None:
        """Meet before the first batch of a pass: all ranks are to read as many."""
        left = None if reader.size is None else reader.size - reader.read
        received = self._meet(f"the beginning of the data of {self._epoch}", _ENDS, left=[left])
        self._all_have_length = all(facts["left"] != [None] for facts in received)
        if self._all_have_length:
            self._compare_lengths([facts["left"][0] for facts in received])
        elif accumulate > 1:
            raise ValueError(
                "accumulate= with several ranks needs a loader with a length, for all ranks to "
                "step on the same micro-batch; give run.batches one, or accumulate yourself"
            )

    def _compare_lengths(self, lengths: list[int]) -> None:
        if len(set(lengths)) > 1:
            pairs = zip(self.exchange.ranks, lengths, strict=True)
            each = ", ".join(f"rank {rank} has {length}" for rank, length in pairs)
            raise RanksError(
                f"the data of the ranks differs in length, in batches: {each}. Give each as many: "
                "DistributedSampler and ResumableSampler(rank=, ranks=) do"
            )

    def before_step(self) -> None:
        """Read what was begun before the last step, and begin what is read before the next one."""
        step = self._spans.counts.steps_done + 1
        self._start(f"step {step} of {self._epoch}", _ENDS)
        if self._was_saved:  # a rank that could not write tells it before the others go on
            self._was_saved = False
            self.settle()

    def read(self, batch: Any) -> Any:
        """Return the batch that was read, or `END` where the data of any rank has come to it."""
        if self._all_have_length:
            return batch
        index = self._spans.counts.batch_index + 1
        has_ended = batch is END
        received = self._meet(f"batch {index} of {self._epoch}", _ENDS, ended=has_ended)
        return END if any(facts.get("ended") for facts in received) else batch

    def heard(self, signal: Any, answers: Answers) -> Answers:
        """Return the answers to what the loop has emitted: those that all ranks have agreed on."""
        spans = self._spans
        if spans.emitter.bus.signal(signal).name == "backward_finished":
            self._backward_of = spans.step
            self._meet(f"the backward of step {spans.step}", _ALL)
        return Answers(self.agreement.answers.pending, answers.given)

    def settle(self) -> None:
        """Read what is under way, where the data ends."""
        self.exchange.settle()

    def end_epoch(self, was_cut: bool, was_left: bool) -> tuple[bool, bool]:
        """Meet before an epoch is called finished or interrupted: it is the same on all ranks."""
        received = self._meet(f"the end of {self._epoch}", _ENDS, cut=was_cut, left=was_left)
        cut, left = (any(facts.get(key) for facts in received) for key in ("cut", "left"))
        return cut, left

    def end(self) -> None:
        """Meet before the run is called completed or stopped."""
        self._meet("the end", _STOPS)

    def part(self) -> None:
        """Meet a last time: what any rank's handlers failed with at the end, all know."""
        self._meet("the end, after run_finished", _STOPS)

    def gather(self, state: bytes) -> list[bytes]:
        """Return the state of each rank, in their order."""
        gathered: list[bytes] = []
        self._was_saved = True
        self.exchange.start(self._worded("a checkpoint"), state, gathered.extend)
        self.exchange.settle()
        return gathered

    # -- how they meet

    def _meet(self, place: str, kinds: Kinds, **facts: Any) -> list[Mapping[str, Any]]:
        self._start(place, kinds, **facts)
        self.settle()
        return self._received

    def _start(self, place: str, kinds: Kinds, **facts: Any) -> None:
        self.settle()
        answers = self.agreement.take_new(kinds, self.exchange.rank)
        payload = encoded({"answers": answers, **facts})
        self.exchange.start(self._worded(place), payload, self._receive)

    def _worded(self, place: str) -> str:
        return f"{place} (run {self._spans.emitter.sender!r}, step {self._spans.step})"

    @property
    def _epoch(self) -> str:
        epoch = self._spans.counts.epoch if self._spans.epoch is not None else 0
        return f"epoch {epoch}" if epoch else "the run"

    def _receive(self, payloads: list[bytes]) -> None:
        self._received = [json.loads(payload or b"{}") for payload in payloads]
        for rank, facts in zip(self.exchange.ranks, self._received, strict=False):
            self.agreement.accept(facts.get("answers", ()), rank == self.exchange.rank)

    # -- the beginning and the end

    def attach(self) -> None:
        """Be heeded; hear the end of each step, to refuse a `SkipBatch` that could not be."""
        emitter = self._spans.emitter
        self._spans.ranks, self._spans.heeded = self, self.agreement
        emitter.bus.on(
            "batch_finished",
            sender=emitter.sender if emitter.inner else None,
            priority=_BEFORE_ALL,
            name=f"Run {emitter.sender}, ranks",
        )(self._refuse_skip)

    def _refuse_skip(self, step: int) -> None:
        skip = self._spans.emitter.answers.skip
        if skip is not None and self._backward_of != step:
            raise RanksError(
                f"{skip.by} on rank {self.exchange.rank} answered SkipBatch({skip.reason!r}): "
                "with several ranks it is heeded at `backward_finished`, which this loop does "
                "not emit; emit it after backward() and skip the optimizer where it says so"
            )

    def fail(self, error: BaseException, described: str) -> None:
        """Note for the others that this rank has failed, and for this one what others have."""
        before = None if isinstance(error, RanksError) else self.exchange.failure()
        if before is not None:
            error.add_note(f"before that, {before}")
        self.exchange.leave_note(described)

    def close(self) -> None:
        """End what `attach` began."""
        self._spans.emitter.bus.detach(self._refuse_skip)
        if self._is_owner:
            self.exchange.close()


def meet(spans: Spans, wish: Wish, outer: Emitter | None) -> None:
    """Have a run that is being opened agree with other ranks, where there are some.

    Collective where the wish is "agree" and torch.distributed is initialised.
    """
    shared = _exchanges.get(outer) if outer is not None and wish == "agree" else None
    exchange = exchange_for(wish) if outer is None or wish != "agree" else shared
    _exchanges[spans.emitter] = exchange
    if exchange is not None:
        Ranks(spans, exchange, outer, is_owner=exchange is not shared).attach()
