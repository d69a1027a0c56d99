"""`fit`, against the loop that a person would write by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from eventbus import EventBus, SkipBatch, Stop, StopEpoch
from eventbus.loops import fit
from eventbus.loops._nested import moved
from eventbus.testing import capture

from .transcripts import Transcript, answer_on


class Setup(NamedTuple):
    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: DataLoader[Any]
    validation: DataLoader[Any]

    def arguments(self, **changes: Any) -> dict[str, Any]:
        given = {
            "model": self.model,
            "optimizer": self.optimizer,
            "loss_fn": functional.cross_entropy,
            "train_loader": self.train,
            "validation_loader": self.validation,
            "epochs": 2,
            "device": "cpu",
        }
        return {**given, **changes}


def setup() -> Setup:
    torch.manual_seed(0)
    x, y = torch.randn(22, 4), torch.randint(3, (22,))
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    return Setup(model, optimizer, train, DataLoader(TensorDataset(x, y), batch_size=8))


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def by_hand(parts: Setup, epochs: int, accumulate: int) -> list[dict[str, float]]:
    scheduler = torch.optim.lr_scheduler.StepLR(parts.optimizer, 1, gamma=0.5)
    history = []
    for _ in range(epochs):
        parts.model.train()
        for place, (x, y) in enumerate(parts.train, start=1):
            loss = functional.cross_entropy(parts.model(x), y)
            (loss / accumulate).backward()  # type: ignore[no-untyped-call]  # torch's
            if place % accumulate == 0 or place == len(parts.train):
                parts.optimizer.step()
                parts.optimizer.zero_grad()
        scheduler.step()
        history.append(evaluate(parts))
    return history


def evaluate(parts: Setup) -> dict[str, float]:
    parts.model.eval()
    with torch.no_grad():
        pairs = [(parts.model(x), y) for x, y in parts.validation]
    outputs, targets = (torch.cat(column) for column in zip(*pairs, strict=True))
    loss = functional.cross_entropy(outputs, targets).item()
    return {"val_loss": loss, "val_accuracy": correct(outputs, targets).item()}


def weights(model: nn.Module) -> list[float]:
    return [value for tensor in model.state_dict().values() for value in tensor.flatten().tolist()]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["callable", "torchmetrics"])
def test_fit_trains_bit_by_bit_as_the_loop_by_hand(
    bus: EventBus, transcript: Transcript, accumulate: int, kind: str
) -> None:
    hand = setup()
    history = by_hand(hand, epochs=2, accumulate=accumulate)
    parts = setup()
    metric: Any = correct if kind == "callable" else MulticlassAccuracy(3, average="micro")
    run = fit(
        bus,
        **parts.arguments(
            scheduler=torch.optim.lr_scheduler.StepLR(parts.optimizer, 1, gamma=0.5),
            metrics={"accuracy": metric},
            accumulate=accumulate,
        ),
    )
    assert weights(parts.model) == weights(hand.model)
    for fields, expected in zip(transcript.of("epoch_finished"), history, strict=True):
        assert set(fields["metrics"]) == {"loss", "val_loss", "val_accuracy"}
        told = {key: fields["metrics"][key] for key in expected}
        assert told == pytest.approx(expected, rel=1e-6)
    assert (run.outcome, run.epoch, run.step) == ("completed", 2, 10 if accumulate == 1 else 6)


def test_fit_tells_the_gradients_before_each_step(bus: EventBus, transcript: Transcript) -> None:
    norms: list[float] = []

    @bus.on("backward_finished")
    def measure(model: nn.Module, loss: Tensor) -> None:
        assert not loss.requires_grad
        norms.append(sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None))

    fit(bus, **setup().arguments(epochs=1, accumulate=2))
    assert len(norms) == transcript.names.count("batch_finished") == 3
    assert all(norms)


def test_fit_takes_no_step_on_a_skipped_batch(bus: EventBus, transcript: Transcript) -> None:
    bus.on("backward_finished")(lambda: SkipBatch("never"))
    parts = setup()
    before = weights(parts.model)
    run = fit(bus, **parts.arguments(epochs=1, validation_loader=None))
    assert weights(parts.model) == before
    assert all(p.grad is None for p in parts.model.parameters())
    assert (run.step, transcript.names.count("batch_skipped")) == (0, 5)


@pytest.mark.parametrize(
    ("signal", "answer", "outcome", "steps"),
    [
        ("backward_finished", Stop("enough"), "stopped", 1),
        ("backward_finished", StopEpoch("enough"), "completed", 2),
        ("validation_done", Stop("enough"), "stopped", 5),
    ],
)
def test_fit_honours_every_answer(
    bus: EventBus, signal: str, answer: object, outcome: str, steps: int
) -> None:
    answer_on(bus, signal, answer)
    run = fit(bus, **setup().arguments())
    assert (run.outcome, run.step) == (outcome, steps)


@pytest.mark.parametrize(("signal", "steps"), [("batch_finished", 0), ("validation_done", 1)])
def test_fit_steps_the_scheduler_once_for_each_finished_epoch(
    bus: EventBus, signal: str, steps: int
) -> None:
    parts = setup()
    scheduler = torch.optim.lr_scheduler.StepLR(parts.optimizer, 1)
    answer_on(bus, signal, Stop("enough"))
    fit(bus, **parts.arguments(scheduler=scheduler))
    assert scheduler.last_epoch == steps


def test_fit_gives_a_plateau_the_loss_of_the_validation(bus: EventBus) -> None:
    parts = setup()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(parts.optimizer)
    run = fit(bus, **parts.arguments(scheduler=scheduler, epochs=1))
    assert scheduler.best == run.metrics["val_loss"]
    with pytest.raises(ValueError, match="validation_loader"):
        fit(bus, **parts.arguments(scheduler=scheduler, validation_loader=None))


@pytest.mark.parametrize("wrong", [5, lambda optimizer: optimizer, torch.optim.lr_scheduler.StepLR])
def test_what_is_no_scheduler_is_refused_before_the_training(bus: EventBus, wrong: Any) -> None:
    with (
        capture(bus) as recording,
        pytest.raises(TypeError, match=r"fit: scheduler= takes .*StepLR\(optimizer, 30\); got "),
    ):
        fit(bus, **setup().arguments(scheduler=wrong))
    assert recording.names == []


class CountedMetric:
    """A metric object that notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.calls.append("update")

    def compute(self) -> float:
        self.calls.append("compute")
        return 0.5

    def reset(self) -> None:
        self.calls.append("reset")


def test_fit_resets_a_metric_object_before_each_validation(bus: EventBus) -> None:
    metric = CountedMetric()
    run = fit(bus, **setup().arguments(metrics={"accuracy": metric}, epochs=2))
    assert metric.calls == ["reset", "update", "update", "update", "compute"] * 2
    assert run.metrics["val_accuracy"] == 0.5


def test_fit_cuts_a_validation_short_on_stop_and_computes_nothing(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "validation_batch_finished", Stop("enough"))
    metric = CountedMetric()
    run = fit(bus, **setup().arguments(metrics={"accuracy": metric}))
    assert run.outcome == "stopped"
    assert transcript.names.count("validation_interrupted") == 1
    assert metric.calls == ["reset", "update"]


def test_fit_trains_on_soft_targets(bus: EventBus) -> None:
    @bus.on("batch_loaded")
    def soften(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        return inputs, functional.one_hot(targets, 3) * 0.9 + 0.1 / 3

    run = fit(bus, **setup().arguments(metrics={"accuracy": correct}))
    assert run.outcome == "completed"
    assert {"loss", "val_loss", "val_accuracy"} == set(run.metrics)


def test_fit_takes_nested_inputs(bus: EventBus) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, inputs: dict[str, list[Tensor]]) -> Tensor:
            out = self.head(torch.stack(inputs["parts"]).sum(0))
            assert isinstance(out, Tensor)
            return out

    model = Sum()
    batch = ({"parts": [torch.ones(4, 2), torch.ones(4, 2)]}, torch.zeros(4, dtype=torch.long))
    run = fit(
        bus,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=functional.cross_entropy,
        train_loader=[batch],
        epochs=1,
    )
    assert run.step == 1


def test_moving_a_nested_batch_moves_every_tensor() -> None:
    meta = torch.device("meta")
    batch = {"x": [torch.ones(1), (torch.ones(2), "text")], "packed": nn.Linear(1, 1)}
    there = moved(batch, meta)
    assert there["x"][0].device == there["x"][1][0].device == meta
    assert there["packed"].weight.device == meta
    assert there["x"][1][1] == "text"
    assert batch["x"][0].device.type == "cpu"  # type: ignore[index]  # nested as batches are


def test_fit_on_auto_trains_where_there_is_a_device(bus: EventBus) -> None:
    parts = setup()
    fit(bus, **parts.arguments(device="auto", epochs=1))
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert {p.device.type for p in parts.model.parameters()} == {expected}


def test_fit_goes_on_with_workers_in_the_loader(bus: EventBus) -> None:
    parts = setup()
    workers = DataLoader(parts.train.dataset, batch_size=5, num_workers=2)
    assert fit(bus, **parts.arguments(train_loader=workers, epochs=1)).step == 5


def test_metrics_are_given_by_name(bus: EventBus) -> None:
    model = nn.Linear(1, 1)
    wrong: Any = [functional.l1_loss]
    with pytest.raises(TypeError, match="metrics= takes a dict"):
        fit(
            bus,
            model=model,
            optimizer=torch.optim.SGD(model.parameters()),
            loss_fn=functional.mse_loss,
            train_loader=[],
            epochs=1,
            metrics=wrong,
        )
