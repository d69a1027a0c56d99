"""Priority: a promised order, the first thing that users of other libraries ask for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventbus import Emitter, EventBus, Priority

from .recorders import Recorder


def test_the_bands_are_in_the_order_of_a_step() -> None:
    bands = [Priority.ALTER, Priority.MEASURE, Priority.NORMAL, Priority.DECIDE]
    bands += [Priority.REPORT, Priority.PERSIST]
    assert [int(band) for band in bands] == [400, 200, 0, -200, -400, -600]


def test_a_higher_number_runs_first(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    for priority in (0, -600, 400, 1, -1):
        bus.on("run_started", priority=priority)(recorder.handler(str(priority)))
    loop.emit("run_started")
    assert recorder.calls == ["400", "1", "0", "-1", "-600"]


@given(st.lists(st.integers(min_value=-3, max_value=3), max_size=12))
def test_equal_priorities_run_in_the_order_they_were_subscribed(priorities: list[int]) -> None:
    bus, recorder = EventBus(), Recorder()
    names = [f"{place}:{priority}" for place, priority in enumerate(priorities)]
    for name, priority in zip(names, priorities, strict=True):
        bus.on("run_started", priority=priority)(recorder.handler(name))
    bus.bind(sender="train").emit("run_started")
    assert recorder.calls == sorted(names, key=lambda name: -int(name.split(":")[1]))


def test_a_pattern_takes_its_place_among_names_by_when_it_subscribed(
    bus: EventBus, loop: Emitter
) -> None:
    recorder = Recorder()
    bus.on("run_started")(recorder.handler("first"))
    bus.on("run_*")(recorder.handler("second"))
    bus.on("run_started")(recorder.handler("third"))
    bus.on("*", priority=1)(recorder.handler("zeroth"))
    loop.emit("run_started")
    assert recorder.calls == ["zeroth", "first", "second", "third"]


def test_a_plain_blinker_receiver_takes_part_at_priority_zero(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()

    def plain(sender: object, **fields: object) -> None:
        recorder.calls.append("plain")

    bus.on("run_started", priority=-1)(recorder.handler("after"))
    bus.on("run_started")(recorder.handler("before"))
    bus.signal("run_started").connect(plain)
    bus.on("run_started")(recorder.handler("then"))
    bus.on("run_started", priority=1)(recorder.handler("first"))
    loop.emit("run_started")
    assert recorder.calls == ["first", "before", "plain", "then", "after"]


def test_a_handler_that_comes_back_goes_to_the_end_of_its_priority(
    bus: EventBus, loop: Emitter
) -> None:
    recorder = Recorder()
    returning = recorder.handler("returning")
    bus.on("run_started")(returning)
    bus.on("run_started")(recorder.handler("other"))
    bus.detach(returning)
    bus.on("run_started")(returning)
    loop.emit("run_started")
    assert recorder.calls == ["other", "returning"]


def test_the_sender_of_a_subscription_does_not_change_its_place(bus: EventBus) -> None:
    recorder = Recorder()
    for place, sender in enumerate(["train", None, "train", None]):
        bus.on("run_started", sender=sender)(recorder.handler(f"{place}"))
    bus.bind(sender="train").emit("run_started")
    assert recorder.calls == ["0", "1", "2", "3"]


def test_a_checkpoint_sees_the_decision_of_the_same_emission(bus: EventBus, loop: Emitter) -> None:
    decided: list[str] = []
    saved: list[list[str]] = []
    bus.on("epoch_finished", priority=Priority.PERSIST)(lambda: saved.append(list(decided)))
    bus.on("epoch_finished", priority=Priority.DECIDE)(lambda: decided.append("stop"))
    loop.emit("epoch_finished", epoch=1, step=1)
    assert saved == [["stop"]]
