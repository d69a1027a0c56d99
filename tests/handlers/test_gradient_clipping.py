"""GradientClipping: what torch does, at the right moment, without waiting for the device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from eventbus import EventBus, every
from eventbus.handlers import GradientClipping
from eventbus.loops import Run
from eventbus.testing import capture

from .unread import Unread, read, unread


def model_with_gradients(*rows: list[float]) -> torch.nn.ParameterList:
    model = torch.nn.ParameterList([torch.zeros(len(row)) for row in rows])
    for parameter, row in zip(model, rows, strict=True):
        parameter.grad = torch.tensor(row)
    return model


def gradients(model: torch.nn.Module) -> list[list[float]]:
    return [p.grad.tolist() for p in model.parameters() if p.grad is not None]


def clip(handler: GradientClipping, step: int = 1, **context: Any) -> list[Any]:
    """Emit one backward pass; return the norms that were told."""
    return [norm for told in measured(handler, step, **context) for norm in told.values()]


def measured(handler: GradientClipping, step: int = 1, **context: Any) -> list[dict[str, Any]]:
    """Emit one backward pass; return what was told, by key."""
    bus = EventBus()
    bus.attach(handler)
    with capture(bus) as recording:
        bus.bind(sender="train", **context).emit("backward_finished", epoch=1, step=step)
    return [dict(each["metrics"]) for each in recording.of("metrics_measured")]


def test_norm_over_all_gradients_is_clipped() -> None:
    model = model_with_gradients([3.0, 0.0], [4.0])
    clip(GradientClipping(1.0), model=model)
    assert gradients(model) == [pytest.approx([0.6, 0.0]), pytest.approx([0.8])]


def test_norm_within_the_limit_changes_nothing() -> None:
    model = model_with_gradients([3.0, 0.0], [4.0])
    clip(GradientClipping(5.1), model=model)
    assert gradients(model) == [[3.0, 0.0], [4.0]]


def test_norm_is_told_as_it_was_before_clipping() -> None:
    (norm,) = clip(GradientClipping(1.0), model=model_with_gradients([3.0, 0.0], [4.0]))
    assert norm.item() == 5.0


def test_infinite_limit_only_measures() -> None:
    model = model_with_gradients([3.0, 4.0])
    (norm,) = clip(GradientClipping(math.inf), model=model)
    assert (norm.item(), gradients(model)) == (5.0, [[3.0, 4.0]])


def test_other_norms_may_be_chosen() -> None:
    (norm,) = clip(
        GradientClipping(1.0, norm_type=math.inf), model=model_with_gradients([3.0, -4.0])
    )
    assert norm.item() == 4.0


def test_values_are_clamped_and_no_norm_is_told() -> None:
    model = model_with_gradients([3.0, -0.2], [-4.0])
    assert clip(GradientClipping(max_value=0.5), model=model) == []
    assert gradients(model) == [[0.5, pytest.approx(-0.2)], [-0.5]]


def test_gradients_of_several_models_are_clipped_as_one_vector() -> None:
    models = {"g": model_with_gradients([3.0]), "d": model_with_gradients([4.0])}
    clip(GradientClipping(1.0), models=models)
    assert gradients(models["g"]) == [pytest.approx([0.6])]
    assert gradients(models["d"]) == [pytest.approx([0.8])]


def test_parameter_that_several_models_share_counts_once() -> None:
    encoder = model_with_gradients([3.0, 4.0])
    (norm,) = clip(
        GradientClipping(1.0), models={"encoder": encoder, "all": torch.nn.Sequential(encoder)}
    )
    assert norm.item() == 5.0
    assert gradients(encoder) == [pytest.approx([0.6, 0.8])]


def test_one_of_several_models_may_be_chosen() -> None:
    models = {"g": model_with_gradients([3.0]), "d": model_with_gradients([4.0])}
    clip(GradientClipping(1.0, model="d"), models=models)
    assert gradients(models["g"]) == [[3.0]]
    assert gradients(models["d"]) == [pytest.approx([1.0])]


@pytest.mark.parametrize(
    ("names", "chosen", "key"),
    [
        ("gd", None, "gradient_norm"),
        ("gd", "g", "g.gradient_norm"),
        ("gd", "d", "d.gradient_norm"),
        ("g", "g", "gradient_norm"),
    ],
)
def test_norm_of_one_of_several_models_is_told_with_its_name_ahead(
    names: str, chosen: str | None, key: str
) -> None:
    models = {name: model_with_gradients([3.0]) for name in names}
    (told,) = measured(GradientClipping(1.0, model=chosen), models=models)
    assert list(told) == [key]


def test_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no model 'critic'; it has: model"):
        clip(GradientClipping(1.0, model="critic"), model=model_with_gradients([1.0]))


def test_run_without_a_model_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^GradientClipping: the run has no model\b"):
        clip(GradientClipping(1.0))


@pytest.mark.parametrize("is_early", [True, False])
def test_gradients_that_are_never_there_when_they_are_told_of_are_warned_of(
    caplog: pytest.LogCaptureFixture, is_early: bool
) -> None:
    bus, model = EventBus(), torch.nn.Linear(1, 1)
    bus.attach(GradientClipping(1.0))
    with Run(bus, model=model) as run:
        for _ in run.batches([1, 2]):
            loss = model(torch.ones(1, 1)).sum()
            if is_early:
                run.emit("backward_finished", loss=loss)
            loss.backward()
            if not is_early:
                run.emit("backward_finished", loss=loss)
            model.zero_grad()
            run.report(loss=loss)
    told = [record.getMessage() for record in caplog.records]
    expected = (
        "GradientClipping could clip nothing: no parameter had a gradient when backward_finished "
        "was emitted; emit it between loss.backward() and the step"
    )
    assert told == ([expected] if is_early else [])


def test_filter_that_was_never_due_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    bus = EventBus()
    bus.attach(GradientClipping(1.0, when=every(1000)))
    with Run(bus, model=torch.nn.Linear(1, 1)) as run:
        for _ in run.batches([1, 2]):
            run.emit("backward_finished")
            run.report(loss=1.0)
    assert caplog.records == []


def test_model_without_gradients_is_left_alone() -> None:
    assert clip(GradientClipping(1.0), model=torch.nn.Linear(1, 1)) == []


def test_clipping_is_only_done_when_due() -> None:
    model = model_with_gradients([3.0])
    clip(GradientClipping(1.0, when=every(2)), step=1, model=model)
    assert gradients(model) == [[3.0]]
    clip(GradientClipping(1.0, when=every(2)), step=2, model=model)
    assert gradients(model) == [pytest.approx([1.0])]


@pytest.mark.parametrize("arguments", [{"max_norm": 1.0}, {"max_value": 0.1}])
def test_nobody_waits_for_the_device(arguments: Any) -> None:
    model = torch.nn.Linear(2, 2)
    for parameter in model.parameters():
        parameter.grad = unread(torch.full_like(parameter, 3.0))
    norms = clip(GradientClipping(**arguments), model=model)
    assert all(isinstance(norm, Unread) for norm in norms)
    assert len(norms) == ("max_norm" in arguments)
    assert all(read(p.grad).abs().max() < 3.0 for p in model.parameters() if p.grad is not None)


def test_training_by_run_takes_clipped_steps() -> None:
    bus, model = EventBus(strict=True), torch.nn.Linear(1, 1, bias=False)
    bus.attach(GradientClipping(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.weight.item()
    with Run(bus, model=model, optimizer=optimizer) as run:
        for batch in run.batches([torch.full((1, 1), 100.0)]):
            loss = model(batch).sum()
            loss.backward()
            run.emit("backward_finished", loss=loss)
            optimizer.step()
            run.report(loss=loss)
    assert before - model.weight.item() == pytest.approx(0.5)


# -- a loop that emits no backward_finished


def train(handler: GradientClipping, *signals: str, runs: int = 1, **started: Any) -> None:
    """Emit a run whose two steps are these signals."""
    bus = EventBus(strict=True)
    bus.attach(handler)
    for _ in range(runs):
        loop = bus.bind(sender="train", model=model_with_gradients([3.0]))
        loop.emit("run_started", **started)
        for step in (1, 2):
            for signal in signals:
                loop.emit(signal, epoch=1, step=step)
        loop.emit("run_finished", reason="completed")
        loop.emit("run_closed", outcome="completed")


@pytest.mark.parametrize("arguments", [{"max_norm": 1.0}, {"max_value": 0.1}])
def test_loop_that_gives_nothing_to_clip_is_warned_of_once(
    arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    train(GradientClipping(**arguments), "batch_finished")
    assert caplog.messages == [
        "GradientClipping could clip nothing: the loop emits no backward_finished"
    ]


def test_each_run_that_gives_nothing_to_clip_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = GradientClipping(1.0)
    train(handler, "backward_finished", "batch_finished")
    assert caplog.messages == []
    train(handler, "batch_finished", runs=2)
    assert len(caplog.messages) == 2


def test_filter_that_lets_nothing_be_clipped_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    train(GradientClipping(1.0, when=every(100)), "backward_finished", "batch_finished")
    assert caplog.messages == []


@pytest.mark.parametrize("resumed_from", [None, "runs/one"])
def test_run_without_a_step_is_not_warned_of(
    resumed_from: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    handler = GradientClipping(1.0)
    train(handler, "batch_finished")
    caplog.clear()
    train(handler, resumed_from=resumed_from)
    train(handler, "batch_skipped")
    assert caplog.messages == []


# -- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of max_norm and max_value"),
        ({"max_norm": 1.0, "max_value": 1.0}, "one of max_norm and max_value"),
        ({"max_norm": 0.0}, "max_norm is above 0, got 0.0"),
        ({"max_norm": math.nan}, "max_norm is above 0"),
        ({"max_value": -1.0}, "max_value is above 0"),
        ({"max_norm": 1.0, "norm_type": 0.0}, "norm_type is above 0"),
    ],
)
def test_wrong_argument_is_refused_when_it_is_made(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientClipping(**arguments)


@pytest.mark.gpu
def test_cuda_is_not_waited_for() -> None:
    model = torch.nn.Linear(8, 8).cuda()
    model(torch.ones(4, 8, device="cuda")).sum().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip(GradientClipping(0.1), model=model)
        clip(GradientClipping(max_value=0.1), model=model)
    finally:
        torch.cuda.set_sync_debug_mode("default")
