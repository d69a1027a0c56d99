"""A checkpoint holds the weights of the plain model, whatever is wrapped around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eventbus import EventBus, RestoredState
from eventbus.handlers import EMA, Checkpoint
from eventbus.loops import Run


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda model: model,
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "parallel, compiled": lambda model: nn.DataParallel(compiled(model)),
    "compiled, parallel": lambda model: compiled(nn.DataParallel(model)),
}
NAMES = ["0.weight", "0.bias"]


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1))


def train(bus: EventBus, model: Any, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Run(bus, models={"net": model}, optimizer=optimizer) as run:
        for _ in run.epochs(epochs):
            for batch in run.batches([torch.ones(4, 2)] * 2):
                loss = model(batch).mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.report(loss=loss)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_weights_of_a_wrapped_model_are_for_the_plain_one(tmp_path: Path, wrapper: str) -> None:
    model, bus = plain(), EventBus()
    bus.attach(Checkpoint(tmp_path, best=None))
    bus.attach(EMA(0.5))
    train(bus, WRAPPERS[wrapper](model), epochs=1)
    parts = Checkpoint.load(tmp_path)
    assert list(parts["models.net"]) == NAMES
    fresh = plain()
    fresh.load_state_dict(parts["models.net"])
    assert torch.equal(fresh[0].weight, model[0].weight)  # type: ignore[index]
    assert list(Checkpoint.weights(tmp_path, "models.net")) == NAMES
    averaged = list(parts["EMA"]["averaged"])  # as torch's AveragedModel has it
    assert averaged == ["n_averaged", *(f"module.{name}" for name in NAMES)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("before", WRAPPERS)
def test_a_wrapped_model_goes_on_from_the_weights_of_any_other(wrapper: str, before: str) -> None:
    trained, fresh, bus = plain(), plain(), EventBus()
    with Run(bus, model=WRAPPERS[wrapper](fresh)):
        state = WRAPPERS[before](trained).state_dict()  # under the names of the wrapper
        bus.emit("state_restored", state=RestoredState({"model": state}))
    assert torch.equal(fresh[0].weight, trained[0].weight)  # type: ignore[index]


def test_a_model_of_ones_own_that_is_called_module_keeps_its_name(bus: EventBus) -> None:
    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = plain()

    before, after = Averaged(), Averaged()
    with Run(bus, model=before):
        state = bus.emit("state_requested").state
    assert list(state["model"]) == [f"module.{name}" for name in NAMES]
    with Run(bus, model=after):
        bus.emit("state_restored", state=RestoredState(state))
    assert torch.equal(after.module[0].weight, before.module[0].weight)  # type: ignore[index]


def test_handlers_get_the_model_as_it_was_given(bus: EventBus) -> None:
    given, seen = compiled(plain()), []
    bus.on("run_started")(lambda model: seen.append(model))
    with Run(bus, model=given):
        pass
    assert seen == [given]
