"""Whatever the loop and its handlers do, each span is closed once and the clocks are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus import EventBus, SkipBatch, Stop, StopEpoch
from eventbus.event import Event
from eventbus.loops import Run

from .transcripts import Transcript

SIGNALS = [
    "run_opened",
    "run_started",
    "epoch_started",
    "loader_opened",
    "batch_loaded",
    "batch_started",
    "backward_finished",
    "batch_finished",
    "batch_skipped",
    "validation_started",
    "validation_batch_finished",
    "validation_done",
    "validation_interrupted",
    "epoch_finished",
    "epoch_interrupted",
    "run_finished",
    "run_failed",
    "run_closed",
]


class PlannedError(Exception):
    """Raised by the script."""


ANSWERS: dict[str, Callable[[], Any]] = {
    "stop": lambda: Stop("planned"),
    "stop_epoch": lambda: StopEpoch("planned"),
    "skip": lambda: SkipBatch("planned"),
}
ACTIONS = ["report", "nothing", "emit", "break", "return", "raise", "ctrl-c", "validate"]

script = st.fixed_dictionaries(
    {
        "epochs": st.integers(0, 3),
        "sizes": st.lists(st.integers(0, 4), min_size=1, max_size=3),
        "accumulate": st.integers(1, 3),
        "has_length": st.booleans(),
        "keeps_loops": st.booleans(),
        "by_steps": st.booleans(),
        "body": st.lists(st.sampled_from([*ACTIONS, *["report"] * 12]), max_size=24),
        "validation": st.lists(
            st.sampled_from(["report", "nothing", "break", "raise"]), max_size=4
        ),
        "cues": st.lists(
            st.tuples(
                st.sampled_from(SIGNALS),
                st.integers(1, 4),
                st.sampled_from(["stop", "stop_epoch", "skip", "raise", "ctrl-c"]),
            ),
            max_size=3,
        ),
    }
)


class Cues:
    """Answers or raises on the nth emission of a signal."""

    def __init__(self, bus: EventBus, cues: list[tuple[str, int, str]]) -> None:
        self.left = {(signal, nth): what for signal, nth, what in cues}
        self.seen: dict[str, int] = {}
        bus.on("*", name="cues")(self.act)

    def act(self, event: Event) -> object:
        self.seen[event.name] = self.seen.get(event.name, 0) + 1
        what = self.left.pop((event.name, self.seen[event.name]), None)
        if what == "raise":
            raise PlannedError(event.name)
        if what == "ctrl-c":
            raise KeyboardInterrupt
        return ANSWERS[what]() if what else None


class Unsized:
    """A loader without a length."""

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items)


class Script:
    """A training loop that does what it was told, body by body."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.body = list(plan["body"])
        self.kept: list[Any] = []
        self.given: list[int] = []
        self.boundaries = 0

    def loop(self, iterator: Any) -> Any:
        if self.plan["keeps_loops"]:
            self.kept.append(iterator)  # so that Python does not drop it at break
        return iterator

    def loader(self, size: int) -> Any:
        items = list(range(size))
        return items if self.plan["has_length"] else Unsized(items)

    def run(self, run: Run) -> None:
        if self.plan["by_steps"]:
            for step in self.loop(run.steps(sum(self.plan["sizes"]))):
                self.given.append(step)
                if self.act(run):
                    break
            return
        for epoch in self.loop(run.epochs(self.plan["epochs"])):
            size = self.plan["sizes"][epoch % len(self.plan["sizes"])]
            for batch in self.loop(run.batches(self.loader(size), self.plan["accumulate"])):
                self.given.append(batch)
                self.boundaries += run.boundary
                if self.act(run):
                    break
            self.validate(run)

    def act(self, run: Run) -> bool:
        action = self.body.pop(0) if self.body else "report"
        if action == "raise":
            raise PlannedError("body")
        if action == "ctrl-c":
            raise KeyboardInterrupt
        if action == "emit":
            run.emit("backward_finished", loss=1.0)
        if action == "validate":
            self.validate(run)
        if action == "report":
            run.report(loss=1.0, batch_size=2)
        return action in ("break", "return")

    def validate(self, run: Run) -> None:
        for place, _ in enumerate(self.loop(run.validate(self.plan["validation"]))):
            action = self.plan["validation"][place]
            if action == "raise":
                raise PlannedError("validation")
            if action == "report":
                run.report(loss=2.0)
            if action == "break":
                break


def play(plan: dict[str, Any]) -> tuple[Transcript, Run, BaseException | None]:
    bus = EventBus()
    transcript = Transcript(bus)
    Cues(bus, plan["cues"])
    run = Run(bus)
    try:
        with run:
            Script(plan).run(run)
    except (PlannedError, KeyboardInterrupt) as error:
        return transcript, run, error
    return transcript, run, None


@settings(max_examples=150)
@given(script)
def test_every_span_is_closed_exactly_once_whatever_happens(plan: dict[str, Any]) -> None:
    transcript, run, error = play(plan)
    open_spans: dict[str, Any] = {}
    for name, fields in transcript.events:
        follow(open_spans, name, fields)
    assert open_spans == {}
    assert transcript.names[0] == "run_opened"
    assert transcript.names[-1] == "run_closed"
    assert transcript.names.count("run_failed") + transcript.names.count("run_finished") == 1
    failed = error is not None
    if plan["cues"] == [] or not any(cue[0] == "run_closed" for cue in plan["cues"]):
        assert run.outcome == ("failed" if failed else run.outcome)
        assert (run.outcome == "failed") == failed
    assert run.bus.open_runs == ()


def follow(open_spans: dict[str, Any], name: str, fields: Any) -> None:
    """Keep the book of open spans; fail on one opened or closed twice."""
    kind, _, what = name.partition("_")
    if name in ("batch_loaded", "batch_started"):
        assert open_spans.setdefault("batch", fields["step"]) == fields["step"]
    elif name in ("batch_finished", "batch_skipped"):
        # A step without data may be skipped before it was announced, at its first safe point.
        assert open_spans.pop("batch", fields["step"]) == fields["step"]
    elif kind in ("epoch", "validation") and what == "started":
        assert kind not in open_spans
        open_spans[kind] = fields["epoch"]
    elif kind in ("epoch", "validation") and what in ("finished", "interrupted", "done"):
        assert open_spans.pop(kind) == fields["epoch"]
        if kind == "epoch":
            assert not open_spans
    elif name in ("run_finished", "run_failed", "run_closed"):
        assert not open_spans


@settings(max_examples=150)
@given(script)
def test_clocks_count_from_one_without_gaps_whatever_happens(plan: dict[str, Any]) -> None:
    transcript, run, _ = play(plan)
    finished = [fields["step"] for fields in transcript.of("batch_finished")]
    assert finished == list(range(1, len(finished) + 1))
    assert run.step == len(finished)
    done = 0
    for name, fields in transcript.events:
        if name in ("batch_loaded", "batch_started", "backward_finished", "batch_skipped"):
            assert fields["step"] == done + 1
        elif name == "batch_finished":
            done = fields["step"]
        elif "step" in fields:
            assert fields["step"] in (done, done + 1)
    epochs = [fields["epoch"] for fields in transcript.of("epoch_started")]
    assert epochs == list(range(1, len(epochs) + 1))
    rounds = [fields["round"] for fields in transcript.of("validation_done")]
    assert rounds == list(range(1, len(rounds) + 1))


@settings(max_examples=50)
@given(script)
def test_a_loop_that_nobody_disturbs_steps_at_every_boundary(plan: dict[str, Any]) -> None:
    bus = EventBus()
    transcript = Transcript(bus)
    script = Script({**plan, "body": [], "validation": [], "by_steps": False})
    with Run(bus) as run:
        script.run(run)
    assert script.boundaries == run.step == transcript.names.count("batch_started")
    assert len(script.given) == transcript.names.count("batch_loaded")
    assert all(fields["complete"] for fields in transcript.of("epoch_finished"))
