"""Numbers that a guard looks at come to the host while the loop goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from eventbus.handlers import NonFiniteGuard
from eventbus.handlers._in_transit import InTransit, merged, send
from tests.handlers.test_non_finite_guard import Loop

from .device import NAME, PATIENCE_S, Device


def on_device(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, device=NAME) for value in values]


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_numbers_have_not_arrived_while_they_are_held_back(
    device: Device, elsewhere: ThreadPoolExecutor
) -> None:
    loss, wide = torch.tensor(0.5).to(NAME), torch.tensor([1.0, -3.0]).to(NAME)
    waits = device.waits
    with device.holding():
        sent = send({"loss": loss, "logits": wide})
        loss.zero_()
        assert [one.has_arrived() for one in sent] == [False]
        reading = elsewhere.submit(merged, sent)
        assert device.is_waited_for()
    assert reading.result(PATIENCE_S) == {"loss": 0.5, "logits": 3.0}
    assert sent[0].has_arrived()
    assert device.waits == waits


def test_numbers_of_each_device_travel_by_themselves(device: Device) -> None:
    values = {name: torch.ones((), device=name) for name in ("cpu", f"{NAME}:0", f"{NAME}:1")}
    with device.holding():
        sent = send(values)
        assert [one.has_arrived() for one in sent] == [True, False, False]
    assert merged(sent) == dict.fromkeys(values, 1.0)


@pytest.mark.parametrize("action", ["stop", "raise"])
def test_guard_acts_on_a_loss_once_it_has_arrived(device: Device, action: str) -> None:
    loop = Loop(NonFiniteGuard(action, watch="loss"))  # type: ignore[arg-type]  # either of two
    losses, waits = on_device(1.0, math.nan, 1.0, 1.0), device.waits
    with device.holding():
        for loss in losses[:3]:
            loop.step(loss)
        assert loop.reason is None
        assert device.under_way == 3
    device.finish()
    if action == "stop":
        loop.step(losses[3])
        assert loop.reason == "not finite in step 2: loss is nan"
    else:
        with pytest.raises(FloatingPointError, match="not finite in step 2: loss is nan"):
            loop.step(losses[3])
    assert device.waits == waits


def test_guard_acts_on_gradients_once_they_have_arrived(device: Device) -> None:
    model = torch.nn.Linear(3, 2).to(NAME)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert model.bias.grad is not None
    loop, waits = Loop(NonFiniteGuard(), model=model), device.waits
    with device.holding():
        loop.backward()
        model.bias.grad[1] = math.inf
        loop.backward()
        model.bias.grad.zero_()  # nobody sees in the gradient any more what it was
        loop.backward()
        assert loop.reason is None
    device.finish()
    loop.backward()
    assert loop.reason == "not finite in step 1: gradient of bias is inf"
    assert device.waits == waits


def test_guard_waits_at_the_end_of_the_epoch_for_what_is_on_its_way(
    device: Device, elsewhere: ThreadPoolExecutor
) -> None:
    loop = Loop(NonFiniteGuard())
    (loss,) = on_device(math.nan)
    with device.holding():
        loop.step(loss)
        ending = elsewhere.submit(loop.end_epoch)
        assert device.is_waited_for()
    ending.result(PATIENCE_S)
    assert loop.reason == "not finite in step 1: loss is nan"


def test_a_device_of_another_kind_is_waited_for(careless: Device) -> None:
    loss = torch.tensor(0.5, device=NAME)
    with careless.holding(), pytest.raises(RuntimeError, match="a copy to the host synchronizes"):
        InTransit({"loss": loss})
    sent = InTransit({"loss": loss})
    assert sent.has_arrived()
    assert sent.read() == {"loss": 0.5}
