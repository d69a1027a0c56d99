"""Metrics stay on their device until somebody reads them, and then move in one transfer."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eventbus import EventBus
from eventbus.loops import Metrics, Run

from .transcripts import Transcript


class Guarded(Tensor):
    """A scalar that counts its transfers to the host, and refuses them while nobody may read.

    What CUDA does silently (waiting for the device) is an error here.
    """

    forbidden = True
    transfers: list[str] = []  # noqa: RUF012 - shared by all of them, on purpose

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name in (
            "item",
            "cpu",
            "numpy",
            "tolist",
            "__bool__",
            "__float__",
            "__int__",
            "__index__",
        ):
            if cls.forbidden:
                raise AssertionError(f"{name} waits for the device, and nobody asked for a value")
            cls.transfers.append(name)
        below: Any = super().__torch_function__
        return below(func, types, args, kwargs or {})


def guarded(value: float) -> Guarded:
    return torch.tensor(value).as_subclass(Guarded)


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    Guarded.forbidden, Guarded.transfers = True, []
    yield
    Guarded.forbidden = True


def allow_reading() -> None:
    Guarded.forbidden = False


# -- the mapping


def test_metrics_are_read_in_one_transfer_for_all_keys_and_readers() -> None:
    metrics = Metrics({"a": guarded(1.5), "b": guarded(2.5), "c": 3.0})
    allow_reading()
    assert metrics["a"] == 1.5
    assert dict(metrics) == {"a": 1.5, "b": 2.5, "c": 3.0}
    assert Guarded.transfers == ["tolist"]


def test_metrics_without_tensors_transfer_nothing() -> None:
    assert dict(Metrics({"lr": 0.1})) == {"lr": 0.1}
    assert Guarded.transfers == []


def test_metrics_keys_are_known_without_reading() -> None:
    metrics = Metrics({"loss": guarded(1.0)})
    assert list(metrics) == ["loss"]
    assert len(metrics) == 1
    assert "loss" in metrics
    assert "accuracy" not in metrics
    assert metrics.get("accuracy") is None
    with pytest.raises(KeyError):
        metrics["accuracy"]


def test_metrics_give_their_tensors_unread() -> None:
    loss = guarded(1.0)
    assert Metrics({"loss": loss}).tensors["loss"] is loss


def test_metrics_are_read_only() -> None:
    metrics: Any = Metrics({"loss": 1.0})
    with pytest.raises(TypeError):
        metrics["loss"] = 2.0
    with pytest.raises(TypeError):
        metrics.tensors["loss"] = 2.0


def test_metrics_are_floats_whatever_the_dtype() -> None:
    values = {
        "half": torch.tensor(0.5, dtype=torch.bfloat16),
        "double": torch.tensor(0.1, dtype=torch.float64),
        "count": torch.tensor(2**40),
        "flag": torch.tensor(True),
    }
    read = dict(Metrics(values))
    assert read == {"half": 0.5, "double": 0.1, "count": float(2**40), "flag": 1.0}
    assert {type(value) for value in read.values()} == {float}


def test_metrics_pickle_as_what_they_are() -> None:
    metrics = Metrics({"loss": torch.tensor(0.5)})
    assert pickle.loads(pickle.dumps(metrics)) == {"loss": 0.5}
    assert repr(metrics) == "Metrics({'loss': 0.5})"


# -- what a run does with them


def train(bus: EventBus) -> Run:
    with Run(bus) as run:
        for _ in run.epochs(2):
            for batch in run.batches([torch.ones(2), torch.ones(1)], accumulate=2):
                run.report(loss=guarded(float(len(batch))), accuracy=guarded(0.5))
            for batch in run.validate([torch.ones(2), torch.ones(1)]):
                run.report(loss=guarded(float(len(batch))))
            run.report(norm=guarded(3.0))
    return run


def test_a_run_that_nobody_reads_never_waits_for_the_device(bus: EventBus) -> None:
    seen = []

    @bus.on("*")
    def look(event: Any) -> None:
        seen.append(event.fields.get("metrics"))

    run = train(bus)
    assert Guarded.transfers == []
    allow_reading()
    assert run.metrics["val_loss"] == pytest.approx(5 / 3)


def test_ten_handlers_of_one_emission_share_one_transfer(bus: EventBus) -> None:
    read = []
    for _ in range(10):
        bus.on("epoch_finished")(lambda metrics: read.append(dict(metrics)))
    allow_reading()
    train(bus)
    assert len(read) == 20
    assert Guarded.transfers == ["tolist", "tolist"]
    assert read[0] == pytest.approx(
        {"loss": 5 / 3, "accuracy": 0.5, "val_loss": 5 / 3, "norm": 3.0}
    )


# -- weighted means


def test_epoch_metrics_are_means_weighted_by_batch_size(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for size, loss in ((3, 1.0), (1, 5.0)):
                for _ in run.batches([None]):
                    run.report(loss=loss, batch_size=size)
    assert dict(transcript.of("epoch_finished")[0]["metrics"]) == {"loss": 2.0}


def test_a_key_reported_now_and_then_is_averaged_over_those_who_did(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for batch in run.batches([1, 2, 3]):
                if batch != 2:
                    run.report(loss=float(batch))
    assert dict(transcript.of("epoch_finished")[0]["metrics"]) == {"loss": 2.0}


@pytest.mark.parametrize("loss", [1.0, torch.tensor(1.0)])
def test_batches_of_no_samples_have_no_mean(
    bus: EventBus, transcript: Transcript, loss: float | Tensor
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1, 2]):
                run.report(loss=loss, batch_size=0)
    assert math.isnan(transcript.of("epoch_finished")[0]["metrics"]["loss"])


losses = st.lists(
    st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 64), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(losses, st.integers(1, 4))
def test_means_are_those_of_exact_arithmetic(
    reported: list[tuple[float, int, bool]], accumulate: int
) -> None:
    bus = EventBus()
    transcript = Transcript(bus)
    with Run(bus) as run:
        for _ in run.epochs(1):
            for value, size, is_tensor in run.batches(reported, accumulate):
                run.report(loss=torch.tensor(value) if is_tensor else value, batch_size=size)
    weight = sum(size for _, size, _ in reported)
    expected = math.fsum(value * size for value, size, _ in reported) / weight
    mean = transcript.of("epoch_finished")[0]["metrics"]["loss"]
    assert mean == pytest.approx(expected, rel=1e-9, abs=1e-9)
    steps = transcript.of("batch_finished")
    assert sum(step["batch_size"] for step in steps) == weight
    groups = [reported[at : at + accumulate] for at in range(0, len(reported), accumulate)]
    for step, group in zip(steps, groups, strict=True):
        size = sum(size for _, size, _ in group)
        exact = math.fsum(value * count for value, count, _ in group) / size
        assert step["metrics"]["loss"] == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_long_epochs_lose_nothing_to_rounding(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(range(5000)):
                run.report(loss=torch.tensor(0.1, dtype=torch.bfloat16), batch_size=1)
    exact = float(torch.tensor(0.1, dtype=torch.bfloat16))
    assert transcript.of("epoch_finished")[0]["metrics"]["loss"] == pytest.approx(exact, rel=1e-12)
