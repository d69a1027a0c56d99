"""Seeing it: the table of the bus, the cost of each handler, and who never ran."""

from __future__ import annotations

from eventbus import Emitter, EventBus, Priority, at, every, handles
from eventbus.timing import HandlerTime

from .recorders import Recorder


class Reporter:
    @handles("epoch_finished", when=every(5), priority=Priority.REPORT, on_error="isolate")
    def report(self, epoch: int) -> None: ...


def test_print_shows_what_describe_says(bus: EventBus) -> None:
    bus.on("epoch_finished", name="mine")(lambda: None)
    assert str(bus) == bus.describe()


def test_it_shows_signals_handlers_priorities_and_filters(bus: EventBus) -> None:
    bus.attach(Reporter())
    bus.on("batch_finished", priority=7, name="timer")(lambda: None)
    text = bus.describe()
    for word in ("epoch_finished", "Reporter", "-400", "every(5)", "batch_finished", "timer", "7"):
        assert word in text


def test_it_shows_handlers_in_the_order_they_run(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    for name, priority in (("last", -600), ("first", 400), ("middle", 0)):
        bus.on("run_started", priority=priority, name=name)(recorder.handler(name))
    loop.emit("run_started")
    text = bus.describe()
    assert sorted(recorder.calls, key=text.index) == recorder.calls == ["first", "middle", "last"]


def test_it_shows_senders_and_plain_receivers(bus: EventBus) -> None:
    bus.on("run_started", sender="generator")(lambda: None)
    bus.signal("run_started").connect(lambda sender, **fields: None, weak=False)
    text = bus.describe()
    assert "generator" in text
    assert "plain" in text


def test_an_empty_bus_says_so_in_a_word(bus: EventBus) -> None:
    assert bus.describe().strip()
    assert "\n" not in bus.describe().strip()


def test_it_does_not_show_the_bus_itself(bus: EventBus, loop: Emitter) -> None:
    loop.emit("run_closed", outcome="completed")
    assert "eventbus" not in bus.describe()


def test_what_was_detached_is_gone(bus: EventBus) -> None:
    bus.attach(Reporter()).detach()
    assert "Reporter" not in bus.describe()


def test_who_never_ran_is_shown_on_request(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.on("run_started", name="ran")(recorder.handler("ran"))
    bus.on("run_started", when=lambda: False, name="never due")(recorder.handler("never due"))
    bus.on("epoch_started", name="never sent")(recorder.handler("never sent"))
    loop.emit("run_started")
    text = bus.describe(never_ran=True)
    assert "never due" in text
    assert "never sent" in text
    assert " ran" not in text


def test_a_pattern_that_ran_somewhere_is_not_called_idle_everywhere(
    bus: EventBus, loop: Emitter
) -> None:
    """`describe` is per subscription here: one that ran is no suspect."""
    bus.on("epoch_*", name="watcher")(lambda: None)
    loop.emit("epoch_started", epoch=1, step=0)
    assert "epoch_started" not in bus.describe(never_ran=True)


def test_a_pattern_that_covers_nothing_is_shown_as_such(bus: EventBus, loop: Emitter) -> None:
    bus.on("kittens_*", "epoch_*", name="watcher", priority=7)(lambda: None)
    loop.emit("epoch_started", epoch=1, step=0)
    for text in (str(bus), bus.describe(never_ran=True)):
        assert "kittens_*  (covers no signal so far)\n     7  watcher" in text
        assert "epoch_*" not in text
    loop.emit("kittens_born")
    assert "kittens_*" not in str(bus)


def test_a_handler_that_was_switched_off_is_shown_so(bus: EventBus, loop: Emitter) -> None:
    def broken() -> None:
        raise OSError("disk full")

    bus.on("run_started", on_error="isolate", name="csv")(broken)
    for _ in range(3):
        loop.emit("run_started")
    assert "off" in bus.describe()


def test_profiling_counts_calls_not_emissions(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", when=every(2), name="logger")(lambda: None)
    with bus.profile() as profile:
        for step in range(1, 7):
            loop.emit("batch_finished", epoch=1, step=step)
        assert "3 calls" in bus.describe()
    (row,) = profile.rows
    assert (row.handler, row.signal, row.calls) == ("logger", "batch_finished", 3)
    assert row.duration_s > 0.0


def test_subscribing_while_profiling_counts_nobody_twice(bus: EventBus, loop: Emitter) -> None:
    bus.on("run_started", name="logger")(lambda: None)
    with bus.profile() as profile:
        for number in range(3):
            loop.emit("run_started")
            bus.on("run_started", name=f"later {number}")(lambda: None)
        loop.emit("run_started")
    assert [row.calls for row in profile.rows if row.handler == "logger"] == [4]


def test_two_handlers_of_one_name_are_counted_apart(bus: EventBus, loop: Emitter) -> None:
    bus.on("run_started", name="twin")(lambda: None)
    bus.on("run_started", name="twin", when=at(2))(lambda: None)
    with bus.profile() as profile:
        for _ in range(3):
            loop.emit("run_started")
        first, second = str(bus).splitlines()[1:]
    assert "3 calls" in first
    assert "1 call " in second
    assert sorted(row.calls for row in profile.rows) == [1, 3]


def test_a_profile_goes_on_beside_one_within_it_and_after_it(bus: EventBus, loop: Emitter) -> None:
    bus.on("run_started")(lambda: None)
    with bus.profile() as outer:
        with bus.profile() as inner:
            loop.emit("run_started")
        loop.emit("run_started")
    loop.emit("run_started")
    assert [row.calls for row in inner.rows] == [1]
    assert [row.calls for row in outer.rows] == [2]


def test_a_profile_that_is_stopped_before_one_within_it_stays_as_it_is(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("run_started")(lambda: None)
    outer, inner = bus.profile(), bus.profile()
    loop.emit("run_started")
    outer.stop()
    loop.emit("run_started")
    inner.stop()
    loop.emit("run_started")
    assert [row.calls for row in outer.rows] == [1]
    assert [row.calls for row in inner.rows] == [2]
    assert bus.timing is None


def test_a_profile_that_ended_counts_no_more(bus: EventBus, loop: Emitter) -> None:
    bus.on("run_started", name="logger")(lambda: None)
    with bus.profile() as profile:
        loop.emit("run_started")
    loop.emit("run_started")
    assert [row.calls for row in profile.rows] == [1]


def test_a_second_profile_starts_from_zero(bus: EventBus, loop: Emitter) -> None:
    bus.on("run_started", name="logger")(lambda: None)
    for _ in range(2):
        with bus.profile() as profile:
            loop.emit("run_started")
        assert [row.calls for row in profile.rows] == [1]


def test_profiling_changes_neither_order_nor_answers(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.on("run_started")(recorder.handler("a"))
    bus.on("run_started", priority=1)(recorder.handler("b"))
    bus.once("run_started")(recorder.handler("once"))
    with bus.profile():
        loop.emit("run_started")
        loop.emit("run_started")
    assert recorder.calls == ["b", "a", "once", "b", "a"]


def test_the_time_of_a_failing_handler_counts_too(bus: EventBus, loop: Emitter) -> None:
    def broken() -> None:
        raise OSError("disk full")

    bus.on("run_started", on_error="isolate", name="csv")(broken)
    with bus.profile() as profile:
        loop.emit("run_started")
    assert [row.calls for row in profile.rows] == [1]


def test_a_profile_prints_its_handlers_by_time(bus: EventBus) -> None:
    profile = bus.profile()
    bus.on("run_started")(lambda: None)
    (subscription,) = bus.subscriptions
    idle = HandlerTime("idle", "y")
    for row in (
        HandlerTime("log", "run_started", 4, 0.002),
        HandlerTime("save", "x", 1, 1.5),
        idle,
    ):
        profile._rows[subscription, row.signal] = row
    assert str(profile).splitlines() == [
        "total ms   each ms  calls  handler  signal",
        "1500.000  1500.000      1  save     x",
        "   2.000     0.500      4  log      run_started",
    ]
    assert repr(profile) == "<Profile: 1.502000 s in 5 calls>"


def test_a_profile_in_which_nothing_ran_says_so(bus: EventBus) -> None:
    bus.on("run_started", name="logger")(lambda: None)
    with bus.profile() as profile:
        pass
    assert str(profile) == "no handler was called"
