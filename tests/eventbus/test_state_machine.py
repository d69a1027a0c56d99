"""The bus against the naive model: any operations in any order, also inside handlers (T14)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import eventbus
from eventbus import EventBus, port

from . import naive_bus
from .acting import (
    LOOPS,
    MOST_SUBSCRIPTIONS,
    SIGNALS,
    Script,
    Side,
    Spec,
    calm_scripts,
    casts,
    emissions,
    reasons,
    scripts,
    specs,
)

WARM = port.WARM


class BusMachine(RuleBasedStateMachine):
    """Does the same to both buses, and compares all that can be seen after each rule."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = (Side(EventBus(), eventbus), Side(naive_bus.NaiveBus(), naive_bus))
        self.muting = ExitStack()
        logging.disable(logging.CRITICAL)

    def teardown(self) -> None:
        port.WARM = WARM
        self.muting.close()
        logging.disable(logging.NOTSET)

    def on_both(self, action: Callable[[Side], Any]) -> None:
        for side in self.sides:
            side.attempt(partial(action, side))

    @property
    def made(self) -> int:
        return len(self.sides[1].actors)

    @initialize(cast=casts, warm=st.sampled_from([0, 2, WARM]))
    def begin(self, cast: list[tuple[Spec, Script]], warm: int) -> None:
        port.WARM = warm  # compiled soon or late
        for spec, script in cast:
            self.subscribe(spec, script)

    @precondition(lambda self: self.made < MOST_SUBSCRIPTIONS)
    @rule(spec=specs, script=scripts)
    def subscribe(self, spec: Spec, script: Script) -> None:
        self.on_both(lambda side: side.subscribe(spec, script))

    @precondition(lambda self: self.made < MOST_SUBSCRIPTIONS)
    @rule(spec=specs, inner=specs, script=calm_scripts)
    def subscribe_one_that_subscribes(self, spec: Spec, inner: Spec, script: Script) -> None:
        self.on_both(lambda side: side.subscribe(spec, ("subscribe", inner, script)))

    @precondition(lambda self: self.made < MOST_SUBSCRIPTIONS)
    @rule(signal=st.sampled_from(SIGNALS), script=scripts)
    def connect_plainly(self, signal: str, script: Script) -> None:
        self.on_both(lambda side: side.connect(signal, script))

    @precondition(lambda self: self.made < MOST_SUBSCRIPTIONS)
    @rule(signal=st.sampled_from(SIGNALS), script=calm_scripts)
    def connect_weakly(self, signal: str, script: Script) -> None:
        self.on_both(lambda side: side.connect_weakly(signal, script))

    @rule(place=st.integers(0, MOST_SUBSCRIPTIONS))
    def forget(self, place: int) -> None:
        self.on_both(lambda side: side.forget(place))

    @rule(place=st.integers(0, MOST_SUBSCRIPTIONS))
    def detach(self, place: int) -> None:
        self.on_both(lambda side: side.detach(place))

    @rule(sent=emissions, typed=st.booleans())
    def emit(self, sent: list[tuple[str, str, dict[str, int]]], typed: bool) -> None:
        for loop, signal, fields in sent:
            self.emit_one(loop, signal, fields, typed)

    def emit_one(self, loop: str, signal: str, sent: dict[str, int], typed: bool) -> None:
        if signal == "batch_loaded":
            self.on_both(lambda side: side.loops[loop].transform(signal, 10, **sent))
        else:
            self.on_both(lambda side: side.emit(loop, signal, sent, typed))

    @rule(
        loop=st.sampled_from(LOOPS),
        step=st.integers(1, 9),
        number=st.integers(3, 6),
        signal=st.sampled_from(["batch_finished", "batch_loaded"]),
        typed=st.booleans(),
    )
    def emit_steps(self, loop: str, step: int, number: int, signal: str, typed: bool) -> None:
        for count in range(number):
            self.emit_one(loop, signal, {"epoch": 1, "step": step + count}, typed)

    @rule(signal=st.sampled_from(SIGNALS))
    def mute(self, signal: str) -> None:
        for side in self.sides:
            self.muting.enter_context(side.bus.signal(signal).muted())

    @rule()
    def unmute_all(self) -> None:
        self.muting.close()

    @invariant()
    def both_saw_the_same(self) -> None:
        real, naive = self.sides
        assert real.trace == naive.trace
        for loop, emitter in real.loops.items():
            assert reasons(emitter.answers) == reasons(naive.loops[loop].answers)
        for side in self.sides:
            side.trace.clear()


def effort(examples: int, rules: int) -> settings:
    """Return how much to try."""
    return settings(
        max_examples=examples,
        stateful_step_count=rules,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


class LongBusMachine(BusMachine):
    """The same, for longer."""


TestBus = BusMachine.TestCase
TestBus.settings = effort(examples=120, rules=25)
TestBusLong = pytest.mark.slow(LongBusMachine.TestCase)
TestBusLong.settings = effort(examples=300, rules=40)
