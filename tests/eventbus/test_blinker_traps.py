"""It is blinker, without its traps: each test is one that plain blinker 1.9 fails or warns of."""

from __future__ import annotations

import copy
import gc
import pickle
from contextlib import suppress
from typing import Any

import blinker
import pytest

from eventbus import Emitter, EventBus, HandlerError

from .recorders import Recorder


def plain(calls: list[Any]) -> Any:
    def receiver(sender: object, **fields: object) -> str:
        calls.append((sender, fields))
        return "result"

    return receiver


def test_a_signal_of_the_bus_is_a_blinker_signal(bus: EventBus) -> None:
    signal = bus.signal("batch_finished")
    assert isinstance(signal, blinker.Signal)
    assert isinstance(signal, blinker.NamedSignal)
    assert signal.name == "batch_finished"
    assert bus.signal("batch_finished") is signal


def test_a_plain_receiver_receives_sender_and_fields(bus: EventBus, loop: Emitter) -> None:
    calls: list[Any] = []
    bus.signal("batch_finished").connect(receiver := plain(calls))
    loop.emit("batch_finished", epoch=1, step=2, loss=0.5)
    assert calls == [("train", {"epoch": 1, "step": 2, "loss": 0.5})]
    del receiver
    gc.collect()
    loop.emit("batch_finished", epoch=1, step=3)
    assert len(calls) == 1


def test_send_returns_pairs_and_calls_handlers_too(bus: EventBus) -> None:
    calls: list[Any] = []
    steps: list[int] = []
    signal = bus.signal("batch_finished")
    signal.connect(receiver := plain(calls))
    bus.on("batch_finished", priority=1)(lambda step: steps.append(step))
    results = signal.send("anyone", epoch=1, step=2)
    assert (receiver, "result") in results
    assert (steps, calls) == ([2], [("anyone", {"epoch": 1, "step": 2})])


def test_any_object_may_send(bus: EventBus) -> None:
    calls: list[Any] = []
    who = object()
    bus.signal("mine").connect(receiver := plain(calls), sender=who)
    bus.signal("mine").send(who)
    bus.signal("mine").send(object())
    assert calls == [(who, {})]
    assert receiver


def test_the_first_exception_aborts_a_send(bus: EventBus) -> None:
    recorder = Recorder()

    def broken(sender: object, **fields: object) -> None:
        raise ValueError("broken")

    bus.signal("run_started").connect(broken)
    bus.on("run_started", on_error="isolate")(recorder.handler("after"))
    with pytest.raises(ValueError, match="broken"):
        bus.signal("run_started").send("train")
    assert recorder.calls == []


@pytest.mark.parametrize("sender", [0, False])
def test_zero_is_no_sender_and_registers_nothing(bus: EventBus, sender: Any) -> None:
    signal = bus.signal("mine")
    receiver = plain([])
    with pytest.raises(ValueError, match="sender"):
        signal.connect(receiver, sender=sender)
    assert not signal.receivers


def test_disconnecting_the_sender_zero_leaves_the_others(bus: EventBus) -> None:
    calls: list[Any] = []
    signal = bus.signal("mine")
    signal.connect(receiver := plain(calls), sender="a")
    with suppress(ValueError):
        signal.disconnect(receiver, sender=0)
    signal.send("a")
    assert len(calls) == 1


def test_a_second_weak_connection_does_not_weaken_the_first(bus: EventBus) -> None:
    calls: list[Any] = []
    signal = bus.signal("mine")
    receiver = plain(calls)
    signal.connect(receiver, weak=False)
    signal.connect(receiver, sender="a")
    del receiver
    gc.collect()
    signal.send("a")
    assert len(calls) == 1


def test_an_object_with_an_async_call_is_not_called_in_vain(bus: EventBus, loop: Emitter) -> None:
    class Later:
        async def __call__(self, sender: object, **fields: object) -> None: ...

    bus.signal("run_started").connect(later := Later())
    with pytest.raises(HandlerError, match="is async: emit awaits nothing"):
        loop.emit("run_started")
    with pytest.raises(RuntimeError, match="coroutine"):
        bus.signal("run_started").send("train")
    assert later


def test_muted_nests(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()
    bus.on("run_started")(recorder.handler("heard"))
    signal = bus.signal("run_started")
    with signal.muted():
        with signal.muted():
            loop.emit("run_started")
        loop.emit("run_started")
        assert signal.is_muted
    assert recorder.calls == []
    loop.emit("run_started")
    assert recorder.calls == ["heard"]


def test_muted_ends_when_its_block_fails(bus: EventBus) -> None:
    signal = bus.signal("run_started")
    with pytest.raises(ValueError, match="inside"), signal.muted():
        raise ValueError("inside")
    assert not signal.is_muted


def test_connected_to_leaves_earlier_connections(bus: EventBus) -> None:
    calls: list[Any] = []
    signal = bus.signal("mine")
    signal.connect(receiver := plain(calls), sender="a")
    with signal.connected_to(receiver, sender="b"):
        signal.send("b")
    signal.send("a")
    signal.send("b")
    assert [sender for sender, _ in calls] == ["b", "a"]


def test_disconnecting_during_a_send_counts_from_the_next(bus: EventBus) -> None:
    calls: list[Any] = []
    signal = bus.signal("mine")
    receiver = plain(calls)

    def disconnecting(sender: object, **fields: object) -> None:
        signal.disconnect(receiver)

    signal.connect(disconnecting)
    signal.connect(receiver)
    signal.send("a")
    signal.send("a")
    assert len(calls) == 1


def test_disconnecting_one_sender_during_a_send_counts_from_the_next(bus: EventBus) -> None:
    calls: list[Any] = []
    signal = bus.signal("mine")
    receiver = plain(calls)

    def disconnecting(sender: object, **fields: object) -> None:
        signal.disconnect(receiver, sender="a")

    signal.connect(disconnecting)
    signal.connect(receiver, sender="a")
    signal.send("a")
    signal.send("a")
    assert len(calls) == 1


def test_disconnecting_the_only_sender_leaves_no_ghost(bus: EventBus, loop: Emitter) -> None:
    calls: list[Any] = []
    signal = bus.signal("run_started")
    signal.connect(receiver := plain(calls), sender="train")
    signal.disconnect(receiver, sender="train")
    loop.emit("run_started")
    assert (calls, signal.has_receivers_for("train")) == ([], False)


def test_many_passing_senders_leave_no_growing_bookkeeping(bus: EventBus) -> None:
    signal = bus.signal("mine")
    receiver = plain([])
    for number in range(1000):
        signal.connect(receiver, sender=f"sender {number}")
        signal.disconnect(receiver, sender=f"sender {number}")
    assert len(signal._by_sender) < 200
    assert len(signal.receivers) <= 1


def test_a_signal_and_its_bus_can_be_pickled(bus: EventBus) -> None:
    bus.on("run_started")(lambda: None)
    pickle.loads(pickle.dumps(bus.signal("run_started")))
    pickle.loads(pickle.dumps(bus))


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_a_copy_does_not_call_the_handlers_of_the_original(bus: EventBus, copier: Any) -> None:
    recorder = Recorder()
    bus.on("run_started")(recorder.handler("heard"))
    copied = copier(bus)
    copied.bind(sender="train").emit("run_started")
    assert recorder.calls == []
    bus.bind(sender="train").emit("run_started")
    assert recorder.calls == ["heard"]


def test_a_weak_receiver_that_dies_during_an_emission_harms_nobody(
    bus: EventBus, loop: Emitter
) -> None:
    recorder = Recorder()
    calls: list[Any] = []
    holder = [plain(calls)]
    bus.on("run_started", priority=1)(lambda: holder.clear())
    bus.signal("run_started").connect(holder[0])
    bus.on("run_started", priority=-1)(recorder.handler("after"))
    loop.emit("run_started")
    gc.collect()
    loop.emit("run_started")
    assert (calls, recorder.calls) == ([], ["after", "after"])


def test_the_id_of_a_dead_receiver_used_again_inherits_nothing(bus: EventBus) -> None:
    signal = bus.signal("mine")
    calls: list[Any] = []
    for _ in range(200):
        signal.connect(plain(calls), sender="a")
        signal.connect(fresh := plain(calls), sender="b")
        signal.send("a")
        del fresh
    assert calls == []


def test_signals_live_in_their_bus_not_in_blinkers_namespace(bus: EventBus) -> None:
    assert bus.signal("batch_finished") is not EventBus().signal("batch_finished")
    assert "batch_finished" not in blinker.base.default_namespace


def test_receiver_connected_is_told(bus: EventBus) -> None:
    told: list[object] = []
    signal = bus.signal("mine")

    def on_connected(which: object, receiver: object, **rest: object) -> None:
        told.append(receiver)

    signal.receiver_connected.connect(on_connected)
    signal.connect(receiver := plain([]))
    assert told == [receiver]


def test_receiver_disconnected_is_told(bus: EventBus) -> None:
    told: list[object] = []
    signal = bus.signal("mine")

    def on_disconnected(which: object, receiver: object, **rest: object) -> None:
        told.append(receiver)

    signal.connect(receiver := plain([]))
    signal.receiver_disconnected.connect(on_disconnected)
    signal.disconnect(receiver)
    assert told == [receiver]
