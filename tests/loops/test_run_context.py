"""What a Run is given, and what of it is not in its checkpoints: that is said."""

from __future__ import annotations

import logging
from collections import namedtuple
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from eventbus import EventBus
from eventbus.loops import Run

NAMED = r"several go by name, {}; got an object of type {}"

GradientTransformation = namedtuple("GradientTransformation", ["init", "update"])  # as optax's


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return caplog


def save(bus: EventBus, times: int = 1) -> Mapping[str, Any]:
    """Ask for the state as a checkpoint handler does; return what came last."""
    return dict([bus.emit("state_requested").state for _ in range(times)][-1])


def test_a_list_in_place_of_a_model_or_an_optimizer_is_refused(bus: EventBus) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrong: dict[str, Any]
    for wrong in ({"model": [model]}, {"model": {"g": model}}, {"model": model.parameters()}):
        kind = type(wrong["model"]).__name__
        with pytest.raises(TypeError, match=NAMED.format(r'models=\{"g": .*\}', kind)):
            Run(bus, **wrong)
    for wrong in ({"optimizer": [optimizer, optimizer]}, {"optimizer": (optimizer,)}):
        kind = type(wrong["optimizer"]).__name__
        with pytest.raises(TypeError, match=NAMED.format(r'optimizers=\{"g": .*\}', kind)):
            Run(bus, **wrong)
    with pytest.raises(TypeError, match=NAMED.format(r'state=\{"warmup": .*\}', "list")):
        Run(bus, scheduler=[1, 2])


@pytest.mark.parametrize("given", ["models", "optimizers"])
def test_a_list_under_a_name_is_refused(bus: EventBus, given: str) -> None:
    wrong: dict[str, Any] = {given: {"g": [nn.Linear(1, 1)]}}
    with pytest.raises(TypeError, match=rf"{given}=\{{'g': ...\}} takes one {given[:-1]} itself"):
        Run(bus, **wrong)


@pytest.mark.parametrize("given", ["model", "optimizer"])
def test_one_and_several_of_a_kind_are_refused(bus: EventBus, given: str) -> None:
    both: dict[str, Any] = {given: nn.Linear(1, 1), f"{given}s": {"g": nn.Linear(1, 1)}}
    with pytest.raises(ValueError, match=f"give {given}= or {given}s=, not both"):
        Run(bus, **both)


def test_a_container_that_is_a_module_is_a_model(bus: EventBus) -> None:
    class Stack(list[Any]):
        def state_dict(self) -> dict[str, int]:
            return {"layers": len(self)}

        def load_state_dict(self, state: dict[str, int]) -> None:
            pass

    for model in (nn.ModuleList([nn.Linear(1, 1)]), Stack([1])):
        with Run(bus, model=model):
            assert "model" in save(bus)


def test_context_without_a_state_is_told_once_where_it_is_missed(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    models = {"net": nn.Linear(1, 1), "teacher": abs}
    transformation = GradientTransformation(None, None)
    with Run(bus, models=models, optimizer=transformation):
        assert not warnings.messages
        assert set(save(bus, times=2)) == {"models.net", "random", "loop"}
    assert warnings.messages == [
        "optimizer is not in the checkpoint: a GradientTransformation has no state_dict",
        "models.teacher is not in the checkpoint: a builtin_function_or_method has no state_dict",
    ]


def test_a_checkpoint_without_weights_is_told_once(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with Run(bus, optimizer=optimizer):
        save(bus, times=2)
    (message,) = warnings.messages
    assert message.startswith("the run was given no model (model=...): its checkpoints hold no")


def test_whoever_has_the_weights_elsewhere_hears_nothing(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(1, 1)
    with Run(bus, state={"weights": model}):
        save(bus)
    with Run(bus, models={"net": model}), Run(bus, name="search"):
        save(bus)
    assert not warnings.messages
