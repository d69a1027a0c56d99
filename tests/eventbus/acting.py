"""Scripted handlers, and one side of the state machine: they do the same on either bus."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from eventbus import SkipBatch, Stop, StopEpoch

SIGNALS = ("batch_finished", "batch_finished", "sample_drawn", "batch_loaded", "run_closed")
EMITTED = (*SIGNALS[:4], "epoch_started", "epoch_finished", "batch_skipped", "run_closed")
NESTED = tuple(signal for signal in EMITTED if signal != "batch_loaded")
LOOPS = ("a", "a", "b", "inner", "named like the inner one")
DEEPEST = 3
MOST_SUBSCRIPTIONS = 40

Script = tuple[Any, ...]
Spec = dict[str, Any]


def build_filter(module: Any, spec: tuple[Any, ...] | None) -> Any:
    """Make the filter that a spec describes, of the real bus or of the naive one."""
    if spec is None:
        return None
    kind, *rest = spec
    if kind == "not":
        return ~build_filter(module, rest[0])
    if kind == "and":
        return build_filter(module, rest[0]) & build_filter(module, rest[1])
    if kind == "or":
        return build_filter(module, rest[0]) | build_filter(module, rest[1])
    return getattr(module, kind)(*rest)


counts = st.integers(min_value=1, max_value=4)
leaves = st.one_of(
    st.tuples(st.sampled_from(["every", "from_", "until"]), counts),
    st.tuples(st.just("at"), counts, counts),
)
filters = st.one_of(
    st.none(),
    st.none(),
    leaves,
    st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(st.just("not"), inner),
            st.tuples(st.sampled_from(["and", "or"]), inner, inner),
        ),
        max_leaves=4,
    ),
)
fields = st.fixed_dictionaries({"epoch": st.integers(0, 4), "step": st.integers(0, 9)})
calm_scripts = st.one_of(
    st.just(("nothing",)),
    st.tuples(st.just("replace"), st.integers(0, 9)),
    st.tuples(st.just("answer"), st.sampled_from(["stop", "epoch", "skip", "all"])),
)
scripts = st.one_of(
    calm_scripts,
    st.just(("raise",)),
    st.just(("raise",)),
    st.tuples(st.just("raise every other"), st.integers(0, 1)),
    st.tuples(st.just("emit"), st.sampled_from(NESTED), fields),
    st.tuples(st.just("emit bare"), st.sampled_from(["sample_drawn", "run_closed"])),
    st.tuples(st.just("emit elsewhere"), st.sampled_from(LOOPS)),
    st.tuples(st.just("transform"), st.integers(0, 9)),
    st.tuples(st.just("detach"), st.integers(0, MOST_SUBSCRIPTIONS)),
    st.tuples(st.just("forget"), st.integers(0, MOST_SUBSCRIPTIONS)),
    st.tuples(st.just("mute and emit"), st.sampled_from(NESTED), fields),
)
specs = st.fixed_dictionaries(
    {
        "signals": st.lists(st.sampled_from(SIGNALS), min_size=1, max_size=3, unique=True),
        "when": filters,
        "priority": st.integers(-1, 1),
        "sender": st.sampled_from([None, None, None, "a", "inner"]),
        "on_error": st.sampled_from(["raise", "isolate"]),
        "once": st.sampled_from([False, False, False, True]),
    }
)
casts = st.lists(st.tuples(specs, scripts), min_size=2, max_size=6)
emissions = st.lists(
    st.tuples(st.sampled_from(LOOPS), st.sampled_from(EMITTED), fields), min_size=1, max_size=4
)
ANSWERS: dict[str, Callable[[str], Any]] = {
    "stop": Stop,
    "epoch": StopEpoch,
    "skip": SkipBatch,
    "all": lambda name: [Stop(name), StopEpoch(name), SkipBatch(name)],
}


class Side:
    """One of the two buses, all that was subscribed to it, and the trace of all calls."""

    def __init__(self, bus: Any, filters: Any) -> None:
        self.bus = bus
        self.filters = filters
        self.trace: list[Any] = []
        self.actors: list[Actor] = []
        self.depth = 0
        outer = bus.bind(sender="a")
        inner = bus.bind(sender="inner", parent=outer)
        self.loops = {"a": outer, "b": bus.bind(sender="b"), "inner": inner}
        self.loops["named like the inner one"] = bus.bind(sender="inner")
        bus.on("handler_failed", name="told")(self.note_failure)

    def note_failure(self, event: Any) -> None:
        told = event.fields
        self.trace.append(("failed", told["handler"], told["signal"], told.get("step")))

    def subscribe(self, spec: Spec, script: Script) -> None:
        options = {key: spec[key] for key in ("priority", "sender", "on_error")}
        actor = Actor(self, f"h{len(self.actors)}", script)
        self.actors.append(actor)
        subscribe = self.bus.once if spec["once"] else self.bus.on
        when = build_filter(self.filters, spec["when"])
        subscribe(*spec["signals"], when=when, name=actor.name, **options)(actor)

    def connect(self, signal: str, script: Script) -> None:
        actor = Actor(self, f"h{len(self.actors)}", script)
        self.actors.append(actor)
        actor.receiver = self.bus.signal(signal).connect(actor.plain)
        actor.plain_signal = signal

    def connect_weakly(self, signal: str, script: Script) -> None:
        actor = Actor(self, f"h{len(self.actors)}", script)
        self.actors.append(actor)
        actor.receiver = actor.as_function()
        actor.is_weak = True
        actor.plain_signal = signal
        self.bus.signal(signal).connect(actor.receiver)

    def forget(self, place: int) -> None:
        """Let go of one that is connected weakly: it is gone at once, unless it is being called."""
        weak = [each for each in self.actors if each.is_weak and each.receiver is not None]
        if not weak or weak[place % len(weak)].under_way:
            return
        actor = weak[place % len(weak)]
        self.about_to_forget(actor)
        held = weakref.ref(actor.receiver)
        actor.receiver = None
        assert held() is None, "something holds a receiver that was connected weakly"

    def about_to_forget(self, actor: Actor) -> None:
        """Tell the naive bus, which cannot learn it from the collector."""
        forgets = getattr(self.bus.signal(actor.plain_signal), "forgets", None)
        if forgets is not None:
            forgets(actor.receiver)

    def detach(self, place: int) -> None:
        if not self.actors:
            return
        actor = self.actors[place % len(self.actors)]
        if actor.plain_signal is not None:
            if actor.receiver is not None:
                self.bus.signal(actor.plain_signal).disconnect(actor.receiver)
            return
        try:
            self.bus.detach(actor)
        except Exception:
            self.trace.append(("was not attached", actor.name))

    def attempt(self, action: Callable[[], Any]) -> None:
        """Do something that may raise; what comes of it belongs to the trace."""
        try:
            result = action()
        except Exception as error:
            self.trace.append(("raised", outline(error)))
        else:
            self.trace.append(("result", result))

    def emit(self, sender: str, signal: str, sent: dict[str, int], typed: bool) -> Any:
        loop = self.loops[sender]
        emit = loop.signal(signal).emit if typed else partial(loop.emit, signal)
        return reasons(emit(**only_known(signal, sent)))


class Actor:
    """A handler that does what its script says, and notes each call."""

    def __init__(self, side: Side, name: str, script: Script) -> None:
        self.side = side
        self.name = name
        self.script = script
        self.calls = 0
        self.receiver: Any = None
        self.plain_signal: str | None = None
        self.is_weak = False
        self.under_way = 0

    def as_function(self) -> Callable[..., Any]:
        """Return a function that nobody holds but who asked for it."""

        def receive(sender: object, **sent: Any) -> Any:
            self.under_way += 1
            try:
                return self.plain(sender, **sent)
            finally:
                self.under_way -= 1

        return receive

    def __call__(self, event: Any) -> Any:
        self.side.trace.append((self.name, event.name, event.sender, outline_fields(event.fields)))
        return self.act()

    def plain(self, sender: object, **sent: Any) -> Any:
        self.side.trace.append((self.name, "plain", sender, outline_fields(sent)))
        return self.act()

    def act(self) -> Any:
        self.calls += 1
        kind, *rest = self.script
        if self.side.depth >= DEEPEST and ("emit" in kind or kind == "transform"):
            return None
        self.side.depth += 1
        try:
            return getattr(self, f"do_{kind.replace(' ', '_')}")(*rest)
        finally:
            self.side.depth -= 1

    def do_nothing(self) -> None: ...

    def do_replace(self, value: int) -> int:
        return value

    def do_answer(self, kind: str) -> Any:
        return ANSWERS[kind](f"{self.name}.{self.calls}")

    def do_raise(self) -> None:
        raise ValueError(self.name)

    def do_raise_every_other(self, first: int) -> None:
        if self.calls % 2 == first:
            raise ValueError(self.name)

    def do_emit(self, signal: str, sent: dict[str, int]) -> None:
        answers = self.side.bus.emit(signal, **only_known(signal, sent))
        self.side.trace.append((self.name, "emitted", reasons(answers)))

    def do_emit_bare(self, signal: str) -> None:
        self.side.bus.emit(signal, **({"outcome": "failed"} if signal == "run_closed" else {}))

    def do_emit_elsewhere(self, loop: str) -> None:
        self.side.loops[loop].emit("sample_drawn")

    def do_transform(self, value: int) -> None:
        loop = self.side.loops["b"]
        self.side.trace.append((self.name, loop.transform("batch_loaded", value, epoch=1, step=1)))

    def do_detach(self, place: int) -> None:
        self.side.detach(place)

    def do_forget(self, place: int) -> None:
        self.side.forget(place)

    def do_subscribe(self, spec: Spec, script: Script) -> None:
        if len(self.side.actors) < MOST_SUBSCRIPTIONS:
            self.side.subscribe(spec, script)

    def do_mute_and_emit(self, signal: str, sent: dict[str, int]) -> None:
        with self.side.bus.signal(signal).muted():
            self.do_emit(signal, sent)


def only_known(signal: str, sent: dict[str, Any]) -> dict[str, Any]:
    return {"outcome": "completed"} if signal == "run_closed" else dict(sent)


def outline(error: Exception) -> Any:
    if isinstance(error, ExceptionGroup):
        return [outline(one) for one in error.exceptions]
    return type(error).__name__, error.args


def outline_fields(sent: Any) -> dict[str, Any]:
    return {name: value for name, value in sent.items() if name != "exception"}


def reasons(answers: Any) -> list[tuple[str, str]]:
    return [(type(answer).__name__, answer.reason) for answer in answers]
