"""Emissions that lead back to themselves: they end, with an error that names the cycle (T17)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from eventbus import Emitter, EventBus, Stop
from eventbus.depth import DEPTH_LIMIT
from eventbus.errors import SignalError

from .recorders import Recorder, finish, notes_of


def leads_to(bus: EventBus, signal: str) -> Callable[[], None]:
    """Return a handler that emits."""

    def emit_next() -> None:
        bus.emit(signal)

    return emit_next


def cycle_of(error: BaseException) -> str:
    """Return what an error says went round."""
    return str(error).partition(f"{DEPTH_LIMIT} deep: ")[2].partition(", and so on")[0]


def test_a_signal_that_leads_to_itself_is_an_error_that_names_it(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("ping")(leads_to(bus, "ping"))
    with pytest.raises(SignalError) as caught:
        loop.emit("ping")
    assert cycle_of(caught.value) == "ping inside ping"
    assert caught.value.signal == "ping"


def test_two_signals_that_lead_to_each_other_are_both_named(bus: EventBus, loop: Emitter) -> None:
    bus.on("ping", name="there")(leads_to(bus, "pong"))
    bus.on("pong", name="back")(leads_to(bus, "ping"))
    with pytest.raises(SignalError) as caught:
        loop.emit("ping")
    assert cycle_of(caught.value) == "ping inside pong inside ping"
    assert "in handler 'there', signal 'ping'" in notes_of(caught.value)
    assert "in handler 'back', signal 'pong'" in notes_of(caught.value)


def test_what_only_led_to_the_cycle_is_no_part_of_it(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished")(leads_to(bus, "ping"))
    bus.on("ping")(leads_to(bus, "pong"))
    bus.on("pong")(leads_to(bus, "ping"))
    with pytest.raises(SignalError) as caught:
        finish(loop)
    assert cycle_of(caught.value) == "pong inside ping inside pong"


def test_emissions_that_were_compiled_are_counted_too(bus: EventBus, loop: Emitter) -> None:
    goes_round = False

    @bus.on("batch_finished")
    def measure(step: int) -> None:
        if goes_round:
            bus.emit("metrics_measured", metrics={})

    @bus.on("metrics_measured")
    def train(step: int) -> None:
        if goes_round:
            bus.emit("batch_finished", epoch=1, step=step)

    for step in range(1, 40):  # by then both have settled
        finish(loop, step)
        loop.emit("metrics_measured", metrics={}, epoch=1, step=step)
    goes_round = True
    with pytest.raises(SignalError) as caught:
        finish(loop, 40)
    assert cycle_of(caught.value) == "batch_finished inside metrics_measured inside batch_finished"


def test_a_handler_of_all_signals_that_emits_one_is_a_cycle(bus: EventBus, loop: Emitter) -> None:
    bus.on("*")(leads_to(bus, "ping"))
    with pytest.raises(SignalError) as caught:
        finish(loop)
    assert cycle_of(caught.value) == "ping inside ping"


def test_a_transform_within_itself_is_a_cycle(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: loop.transform("batch_loaded", batch, epoch=1, step=1))
    with pytest.raises(SignalError) as caught:
        loop.transform("batch_loaded", 0, epoch=1, step=1)
    assert cycle_of(caught.value) == "batch_loaded inside batch_loaded"


def test_a_stop_that_leads_to_a_stop_is_a_cycle(bus: EventBus, loop: Emitter) -> None:
    bus.on("ping")(lambda: Stop("once more"))
    bus.on("stop_requested")(leads_to(bus, "ping"))
    with pytest.raises(SignalError) as caught:
        loop.emit("ping")
    assert cycle_of(caught.value) == "ping inside stop_requested inside ping"


def test_as_many_emissions_inside_each_other_as_the_limit_are_fine(
    bus: EventBus, loop: Emitter
) -> None:
    recorder = Recorder()
    for depth in range(1, DEPTH_LIMIT):
        bus.on(f"level {depth}")(leads_to(bus, f"level {depth + 1}"))
    bus.on(f"level {DEPTH_LIMIT}")(recorder.handler("innermost"))
    loop.emit("level 1")
    assert recorder.calls == ["innermost"]


def test_one_more_than_the_limit_is_named_whole_where_it_is_no_cycle(
    bus: EventBus, loop: Emitter
) -> None:
    for depth in range(1, DEPTH_LIMIT + 1):
        bus.on(f"level {depth}")(leads_to(bus, f"level {depth + 1}"))
    bus.on(f"level {DEPTH_LIMIT + 1}")(lambda: None)
    with pytest.raises(SignalError) as caught:
        loop.emit("level 1")
    assert cycle_of(caught.value).split(" inside ")[::50] == ["level 51", "level 1"]


def test_the_bus_works_on_after_a_cycle(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.on("ping")(leads_to(bus, "ping"))
    bus.on("epoch_finished")(recorder.handler("works on"))
    with pytest.raises(SignalError):
        loop.emit("ping")
    loop.emit("epoch_finished", epoch=1, step=1)
    assert recorder.calls == ["works on"]


# -- isolated handlers


def test_a_cycle_of_an_observer_ends_and_is_logged_with_its_name(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    @bus.on("ping", on_error="isolate")
    def observe() -> None:
        calls.append(1)
        bus.emit("ping")

    loop.emit("ping")
    assert len(calls) == DEPTH_LIMIT
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert cycle_of(record.exc_info[1] or Exception()) == "ping inside ping"


@pytest.mark.parametrize("policy", ["raise", "isolate"])
def test_a_failure_that_leads_to_a_failure_ends(bus: EventBus, loop: Emitter, policy: str) -> None:
    calls: list[str] = []

    @bus.on("ping", on_error="isolate")
    def fail() -> None:
        calls.append("ping")
        raise OSError("no network")

    @bus.on("handler_failed", on_error="isolate" if policy == "isolate" else "raise")
    def try_again() -> None:
        calls.append("handler_failed")
        bus.emit("ping")

    loop.emit("ping")
    assert calls == ["ping", "handler_failed", "ping"]  # a failure within is not told again


def test_failures_of_two_that_lead_to_each_other_end(bus: EventBus, loop: Emitter) -> None:
    calls: list[str] = []

    def failing(name: str) -> Callable[[], None]:
        def fail() -> None:
            calls.append(name)
            raise OSError(name)

        return fail

    for name in ("ping", "pong"):
        bus.on(name, on_error="isolate")(failing(name))
    bus.on("handler_failed")(leads_to(bus, "pong"))
    bus.on("handler_failed")(leads_to(bus, "ping"))
    loop.emit("ping")
    assert calls == ["ping", "pong", "ping"]


# -- background handlers: each call ends before the next begins, and still they must not go on


def test_background_handlers_that_lead_to_each_other_end_and_the_loop_is_told(
    bus: EventBus, loop: Emitter
) -> None:
    calls: list[str] = []
    refused = threading.Event()

    def handler(name: str, following: str) -> Callable[[], None]:
        def emit_next() -> None:
            calls.append(name)
            try:
                bus.emit(following)
            except SignalError:
                refused.set()
                raise

        return emit_next

    bus.on("ping", background=True)(handler("ping", "pong"))
    bus.on("pong", background=True)(handler("pong", "ping"))
    loop.emit("ping")
    assert refused.wait(60)
    with pytest.raises(SignalError) as caught:
        loop.emit("run_closed", outcome="completed")
    assert calls == ["ping", "pong"] * (DEPTH_LIMIT // 2)
    assert cycle_of(caught.value) == "ping inside pong inside ping"


def test_a_background_handler_that_emits_to_another_thread_begins_no_chain_there(
    bus: EventBus, loop: Emitter
) -> None:
    heard = threading.Semaphore(0)
    bus.on("ping", background=True)(leads_to(bus, "pong"))
    bus.on("pong", background=True)(lambda: heard.release())
    for _ in range(2 * DEPTH_LIMIT):  # side by side, not inside each other
        loop.emit("ping")
    assert all(heard.acquire(timeout=60) for _ in range(2 * DEPTH_LIMIT))
    loop.emit("run_closed", outcome="completed")
