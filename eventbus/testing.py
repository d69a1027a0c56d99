"""For tests of handlers and loops: a recorder, a scripted run, a clock that stands still.

No trainer is needed to test a handler: play the signals that it listens to. No handler is needed to
test a loop: `check_loop` says which rules of the vocabulary it breaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from eventbus.answers import Answers, Request
from eventbus.bus import EventBus
from eventbus.conformance import Report, Violation, check_loop, watch_loop
from eventbus.emitter import Emitter
from eventbus.errors import LoopError
from eventbus.event import Event

__all__ = [
    "Emission",
    "FakeClock",
    "LoopError",
    "Recording",
    "Report",
    "Violation",
    "capture",
    "check_loop",
    "play",
    "scripted_run",
    "watch_loop",
]


@dataclass(frozen=True)
class Emission:
    """One emission that was recorded.

    Attributes
    ----------
    name : str
        The signal.
    sender : str or None
    fields : mapping
        As they were when the emission began.

    Examples
    --------
    >>> from eventbus.testing import Emission
    >>> Emission("epoch_started", "train", {"epoch": 1})["epoch"]
    1
    """

    name: str
    sender: str | None
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@dataclass
class Recording:
    """What was emitted on a bus while `capture` was open.

    Attributes
    ----------
    emissions : list of Emission
        In order; emissions inside emissions come after the one that they are inside of.
    answers : list of Request
        The answers that became pending, in the order they were given, with who gave them.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.testing import capture
    >>> bus = EventBus()
    >>> with capture(bus) as recording:
    ...     _ = bus.emit("epoch_started", epoch=1, step=0)
    >>> recording.names
    ['epoch_started']
    """

    emissions: list[Emission] = field(default_factory=list)
    answers: list[Request] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The signals in the order they were emitted."""
        return [emission.name for emission in self.emissions]

    def of(self, name: str) -> list[Emission]:
        """Return the emissions of one signal."""
        return [emission for emission in self.emissions if emission.name == name]

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self.emissions.clear()
        self.answers.clear()


@contextmanager
def capture(bus: EventBus, *signals: str) -> Iterator[Recording]:
    """Record what is emitted on a bus, and the answers that are given.

    Parameters
    ----------
    signals
        Names or patterns; all of the vocabulary and every other signal but `handler_failed` and
        `state_*`, unless given.

    Examples
    --------
    >>> from eventbus import EventBus, Stop
    >>> from eventbus.testing import capture
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def enough(epoch): return Stop("enough")
    >>> with capture(bus) as recording:
    ...     _ = bus.bind(sender="train").emit("epoch_finished", epoch=1, step=10)
    >>> [(emission.name, emission.sender) for emission in recording.emissions]
    [('epoch_finished', 'train'), ('stop_requested', 'train')]
    >>> [(answer.reason, answer.by) for answer in recording.answers]
    [('enough', 'enough')]
    """
    recording = Recording()
    recorder = _Recorder(recording)
    first = bus.on(*(signals or ("*",)), priority=10**9, name="capture")
    last = bus.on("*", priority=-(10**9), name="capture.answers")
    first(recorder.see)
    last(recorder.collect)
    try:
        yield recording
    finally:
        bus.detach(recorder.see)
        bus.detach(recorder.collect)


class _Recorder:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def see(self, event: Event) -> None:
        """Record the emission, before anybody else sees it."""
        self.recording.emissions.append(Emission(event.name, event.sender, dict(event.fields)))

    def collect(self, event: Event) -> None:
        """Record the answers that have been given by now, each once."""
        for answer in event.emitter.answers:
            if not any(answer is known for known in self.recording.answers):
                self.recording.answers.append(answer)


Script = Iterable["tuple[str, Mapping[str, Any]]"]


def play(bus: EventBus, script: Script, *, sender: str = "train", **context: Any) -> list[Answers]:
    """Emit a script of signals as a loop would, without a loop; return the answers to each.

    Parameters
    ----------
    script
        Pairs of a signal's name and its fields, as `scripted_run` makes them.
    sender
        The label of the run; handlers attached with `sender=` hear that one alone.
    context
        As for `bus.bind`.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.testing import play
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def report(epoch, run): print(run, epoch)
    >>> answers = play(bus, [("epoch_finished", {"epoch": 1, "step": 10})])
    train 1
    """
    loop = bus.bind(sender=sender, **context)
    return [_play_one(loop, name, dict(fields)) for name, fields in script]


def _play_one(loop: Emitter, name: str, fields: dict[str, Any]) -> Answers:
    signal = loop.bus.signal(name)
    if signal.value is None:
        return loop.emit(signal, **fields)
    loop.transform(signal, fields.pop(signal.value), **fields)
    return loop.answers


def scripted_run(
    epochs: int = 1,
    steps: int = 2,
    *,
    losses: Iterable[float] = (),
    validation: Iterable[Mapping[str, float]] = (),
    batches: Iterable[Any] = (),
    resumed_from: str | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make the script of a whole run for `play`: each signal of a plain loop, in its place.

    Parameters
    ----------
    epochs, steps
        How many epochs, and how many steps in each.
    losses
        The loss of each step; 0.0 when they run out.
    validation
        The metrics of each epoch's validation, by their full names (`val_loss`), of one batch; no
        validation when they run out.
    batches
        What the steps train on, over and over, for handlers that change it. `loader_opened` and
        `batch_loaded` are left out where there are none; `play` drops what handlers make of them.
    resumed_from
        What `run_started` says: the path of the checkpoint that the run goes on from. Handlers with
        a state then keep it; it is not put back here.

    Examples
    --------
    >>> from eventbus.testing import scripted_run
    >>> [name for name, fields in scripted_run(epochs=1, steps=1)]
    ['run_opened', 'run_started', 'epoch_started', 'batch_started', 'backward_finished', \
'batch_finished', 'epoch_finished', 'run_finished', 'run_closed']
    """
    next_loss, next_validation, next_batch = iter(losses), iter(validation), cycle(batches)
    last: dict[str, float] = {}
    yield "run_opened", {}
    yield "run_started", {"epochs": epochs, "steps": epochs * steps, "resumed_from": resumed_from}
    for epoch in range(1, epochs + 1):
        yield "epoch_started", {"epoch": epoch, "step": (epoch - 1) * steps}
        seen = [next(next_loss, 0.0) for _ in range(steps)]
        yield from _scripted_steps(epoch, seen, list(islice(next_batch, steps)))
        last = {"loss": sum(seen) / len(seen)} if seen else {}
        measured = next(next_validation, None)
        if measured is not None:
            yield from _scripted_validation(epoch, epoch * steps, measured)
            last = {**last, **measured}
        place = {"epoch": epoch, "step": epoch * steps, "metrics": last}
        yield "epoch_finished", {**place, "complete": True}
    place = {"epoch": epochs, "step": epochs * steps, "metrics": last}
    yield "run_finished", {"reason": "completed", **place}
    yield "run_closed", {"outcome": "completed"}


def _scripted_steps(
    epoch: int, losses: list[float], batches: list[Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    before = (epoch - 1) * len(losses)
    if batches:
        yield "loader_opened", {"loader": batches, "epoch": epoch, "step": before}
    for index, loss in enumerate(losses, start=1):
        place = {"epoch": epoch, "step": before + index}
        for batch in batches[index - 1 : index]:
            yield "batch_loaded", {"batch": batch, "batch_index": index, **place}
        yield "batch_started", place
        yield "backward_finished", {**place, "loss": loss}
        yield "batch_finished", {**place, "loss": loss, "metrics": {"loss": loss}}


def _scripted_validation(
    epoch: int, step: int, metrics: Mapping[str, float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    place = {"name": "val", "round": epoch, "epoch": epoch, "step": step}
    yield "validation_started", place
    yield "validation_batch_finished", {**place, "metrics": dict(metrics)}
    yield "validation_done", {**place, "metrics": dict(metrics)}


class FakeClock:
    """A clock that goes only when told: for `EventBus(monotonic=...)` and handlers that keep time.

    Examples
    --------
    >>> from eventbus import EventBus, at_most_every
    >>> from eventbus.testing import FakeClock
    >>> clock = FakeClock()
    >>> bus = EventBus(monotonic=clock)
    >>> @bus.on("batch_finished", when=at_most_every(10))
    ... def log(step): print(step)
    >>> for step in range(1, 5):
    ...     _ = bus.emit("batch_finished", epoch=1, step=step)
    ...     clock.advance(5)
    1
    3
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
