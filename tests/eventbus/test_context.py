"""Context: what a run is, which rides on each of its signals."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import EventBus

from .recorders import MISTAKE, assert_says

NAMES = {
    "run_id": "r-1",
    "run": "my run",
    "model": object(),
    "optimizer": object(),
    "scheduler": object(),
    "config": {"lr": 0.1},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_handler_names_context_like_a_field(bus: EventBus, name: str) -> None:
    seen: list[object] = []
    namespace: dict[str, Any] = {"seen": seen}
    exec(f"def handler({name}, epoch): seen.append({name})", namespace)
    bus.on("epoch_finished")(namespace["handler"])
    context: dict[str, Any] = {name: NAMES[name]}
    bus.bind(sender="train", **context).emit("epoch_finished", epoch=1, step=1)
    assert seen == [NAMES[name]]


def test_several_models_and_optimizers_ride_as_mappings(bus: EventBus) -> None:
    seen: list[object] = []
    bus.on("run_started")(lambda models, optimizers: seen.extend((dict(models), dict(optimizers))))
    bus.bind(sender="gan", models={"g": 1, "d": 2}, optimizers={"g": 3}).emit("run_started")
    assert seen == [{"g": 1, "d": 2}, {"g": 3}]


@pytest.mark.parametrize(("one", "many"), [("model", "models"), ("optimizer", "optimizers")])
def test_asking_for_one_of_several_is_an_error_that_names_the_many(
    bus: EventBus, one: str, many: str
) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def wants_one({one}): ...", namespace)
    bus.on("run_started")(namespace["wants_one"])
    context: dict[str, Any] = {many: {"g": 1, "d": 2}}
    loop = bus.bind(sender="gan", **context)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("run_started")
    assert_says(caught.value, "wants_one", many, "run_started")


def test_context_that_was_not_given_is_an_error_naming_it(bus: EventBus) -> None:
    bus.on("run_started")(lambda scheduler: None)
    with pytest.raises(MISTAKE) as caught:
        bus.bind(sender="train", model=1).emit("run_started")
    assert_says(caught.value, "scheduler", "run_started", "train")


def test_context_with_a_default_is_optional(bus: EventBus) -> None:
    seen: list[object] = []

    @bus.on("run_started")
    def note(scheduler: object = None) -> None:
        seen.append(scheduler)

    bus.bind(sender="train").emit("run_started")
    bus.bind(sender="train", scheduler="cosine").emit("run_started")
    assert seen == [None, "cosine"]


def test_a_handler_that_comes_mid_run_gets_the_context_too(bus: EventBus) -> None:
    loop = bus.bind(sender="train", model="the model")
    loop.emit("epoch_finished", epoch=1, step=10)
    seen: list[object] = []
    bus.on("epoch_finished")(lambda epoch, model: seen.append((epoch, model)))
    loop.emit("epoch_finished", epoch=2, step=20)
    assert seen == [(2, "the model")]


def test_two_runs_on_a_bus_keep_their_context_apart(bus: EventBus) -> None:
    seen: list[object] = []
    bus.on("batch_finished")(lambda sender, model: seen.append((sender, model)))
    generator = bus.bind(sender="generator", model="g")
    discriminator = bus.bind(sender="discriminator", model="d")
    for loop in (generator, discriminator, generator):
        loop.emit("batch_finished", epoch=1, step=1)
    assert seen == [("generator", "g"), ("discriminator", "d"), ("generator", "g")]


def test_each_run_has_its_own_id_unless_told(bus: EventBus) -> None:
    first, second = bus.bind(sender="train"), bus.bind(sender="train")
    assert first.run_id
    assert first.run_id != second.run_id
    assert bus.bind(sender="train", run_id="fold-3").run_id == "fold-3"


def test_the_emitter_shows_its_label_its_bus_and_its_context(bus: EventBus) -> None:
    loop = bus.bind(sender="train", model="m", run="digits")
    assert (loop.sender, loop.bus) == ("train", bus)
    assert loop.context["model"] == "m"
    assert loop.context["run"] == "digits"


def test_misspelt_context_is_an_error_with_a_suggestion(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.bind(sender="train", modle="m")
    assert_says(caught.value, "modle", "did you mean", "model")


def test_context_that_is_none_is_as_good_as_not_given(bus: EventBus) -> None:
    seen: list[object] = []

    @bus.on("run_started")
    def note(models: object = "none", scheduler: object = None) -> None:
        seen.append(scheduler)

    bus.bind(sender="train", models=None, scheduler=None).emit("run_started")
    assert seen == [None]


def test_context_may_be_given_with_one_emission_and_ends_with_it(bus: EventBus) -> None:
    seen: list[object] = []
    bus.on("epoch_finished")(lambda model: seen.append(model))
    loop = bus.bind(sender="train", model="bound")
    loop.emit("epoch_finished", epoch=1, step=1, model="just now")
    loop.emit("epoch_finished", epoch=2, step=2)
    assert seen == ["just now", "bound"]


def test_context_that_nobody_names_is_not_looked_at(bus: EventBus) -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"somebody read {name}")

    seen: list[int] = []
    bus.on("batch_finished")(lambda step: seen.append(step))
    loop = bus.bind(sender="train", model=Untouchable(), optimizer=Untouchable())
    loop.emit("batch_finished", epoch=1, step=1)
    assert seen == [1]


def test_a_filter_may_name_context(bus: EventBus) -> None:
    seen: list[int] = []

    @bus.on("epoch_finished", when=lambda config: config["save"])
    def save(epoch: int) -> None:
        seen.append(epoch)

    bus.bind(sender="train", config={"save": False}).emit("epoch_finished", epoch=1, step=1)
    bus.bind(sender="train", config={"save": True}).emit("epoch_finished", epoch=2, step=2)
    assert seen == [2]
