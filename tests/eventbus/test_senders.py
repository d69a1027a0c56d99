"""Senders: labels, so that one handler may tell the generator from the discriminator."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.emitter import LABELS

from .recorders import assert_says


def test_a_subscription_to_a_sender_hears_only_it(bus: EventBus) -> None:
    seen: list[str] = []
    bus.on("batch_finished", sender="generator")(lambda sender: seen.append(sender))
    for sender in ("generator", "discriminator", "generator"):
        bus.bind(sender=sender).emit("batch_finished", epoch=1, step=1)
    assert seen == ["generator", "generator"]


def test_a_subscription_without_a_sender_hears_all(bus: EventBus) -> None:
    seen: list[str] = []
    bus.on("batch_finished")(lambda sender: seen.append(sender))
    for sender in ("generator", "discriminator"):
        bus.bind(sender=sender).emit("batch_finished", epoch=1, step=1)
    assert seen == ["generator", "discriminator"]


def test_labels_are_compared_by_value(bus: EventBus) -> None:
    seen: list[str] = []
    bus.on("batch_finished", sender="gen" + "erators"[:6])(lambda sender: seen.append(sender))
    bus.bind(sender="".join(["generator"])).emit("batch_finished", epoch=1, step=1)
    assert seen == ["generator"]


@pytest.mark.parametrize("sender", ["", 0, 1, False, True, 1.0, object(), [], b"train", int])
def test_what_is_not_a_label_is_refused(bus: EventBus, sender: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        bus.bind(sender=sender)
    assert_says(caught.value, "sender")
    with pytest.raises((TypeError, ValueError)):
        bus.on("run_started", sender=sender)(lambda: None)


def test_an_emission_without_a_sender_reaches_those_who_name_none(bus: EventBus) -> None:
    seen: list[str] = []
    bus.on("run_started")(lambda: seen.append("any"))
    bus.on("run_started", sender="train")(lambda: seen.append("train"))
    bus.emit("run_started")
    assert seen == ["any"]


def test_one_emission_may_be_labelled(bus: EventBus) -> None:
    seen: list[str] = []
    bus.on("run_started", sender="train")(lambda sender: seen.append(sender))
    bus.emit("run_started", sender="train")
    bus.emit("run_started")
    assert seen == ["train"]
    with pytest.raises((TypeError, ValueError)) as caught:
        bus.emit("run_started", sender=0)
    assert_says(caught.value, "sender")


def test_once_with_a_sender_waits_for_that_sender(bus: EventBus) -> None:
    seen: list[str] = []
    bus.once("batch_finished", sender="b")(lambda sender: seen.append(sender))
    for sender in ("a", "b", "b"):
        bus.bind(sender=sender).emit("batch_finished", epoch=1, step=1)
    assert seen == ["b"]


def test_a_label_for_one_emission_keeps_nothing_of_the_run_once_it_is_closed(bus: EventBus) -> None:
    class Model: ...

    bus.on("batch_finished")(lambda: bus.emit("metrics_measured", metrics={}, sender="probe"))
    bus.on("metrics_measured")(lambda sender: senders.append(sender))
    senders: list[str] = []
    model = Model()
    alive = weakref.ref(model)
    loop = bus.bind(sender="train", model=model)
    for step in range(1, 21):
        loop.emit("batch_finished", epoch=1, step=step)
    loop.emit("run_closed", outcome="completed")
    gc.collect()
    gc.disable()
    try:
        del loop, model
        assert alive() is None
    finally:
        gc.enable()
    assert senders == ["probe"] * 20


def test_labels_without_end_are_not_remembered_without_end(bus: EventBus) -> None:
    heard: list[str] = []
    bus.on("metrics_measured")(lambda sender: heard.append(sender))
    for number in range(500):
        bus.emit("metrics_measured", metrics={}, sender=f"probe {number}")
    assert heard == [f"probe {number}" for number in range(500)]
    assert len(bus.root._labelled) <= LABELS
