"""What a body reports, and what becomes of it."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from eventbus import EventBus
from eventbus.loops import Run
from eventbus.signals import STANDARD

from .transcripts import Transcript

Pair = namedtuple("Pair", ["first", "second"])


@dataclasses.dataclass(frozen=True)
class Record:
    tokens: torch.Tensor
    label: str


def report_in_a_batch(bus: EventBus, batch: Any = None, **values: Any) -> None:
    with Run(bus) as run:
        for _ in run.batches([batch]):
            run.report(**values)


def finished(transcript: Transcript) -> Any:
    (fields,) = transcript.of("batch_finished")
    return fields


def test_a_reported_loss_is_a_metric_and_a_detached_field(
    bus: EventBus, transcript: Transcript
) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    report_in_a_batch(bus, loss=weight * 3)
    fields = finished(transcript)
    assert not fields["loss"].requires_grad
    assert fields["loss"].item() == fields["metrics"]["loss"] == 6.0


def test_a_report_without_a_loss_sends_no_loss(bus: EventBus, transcript: Transcript) -> None:
    report_in_a_batch(bus, accuracy=0.5)
    assert "loss" not in finished(transcript)
    assert "outputs" not in finished(transcript)


def test_a_report_is_a_copy_at_the_time_of_the_report(
    bus: EventBus, transcript: Transcript
) -> None:
    total = torch.tensor(0.0)
    with Run(bus) as run:
        for _ in run.batches([1, 2]):
            total += 1
            run.report(total=total)
    assert [fields["metrics"]["total"] for fields in transcript.of("batch_finished")] == [1.0, 2.0]


def test_outputs_and_targets_are_detached_in_whatever_they_are_nested(
    bus: EventBus, transcript: Transcript
) -> None:
    grown = torch.ones(2, requires_grad=True) * 2
    outputs = {
        "tuple": (grown, "text"),
        "pair": Pair(grown, None),
        "list": [grown],
        "record": Record(grown, "label"),
        "ordered": OrderedDict(logits=grown),
        "set": {1},
    }
    report_in_a_batch(bus, outputs=outputs, targets=grown)
    fields = finished(transcript)
    told = fields["outputs"]
    tensors = [
        told["tuple"][0],
        told["pair"].first,
        told["list"][0],
        told["record"].tokens,
        told["ordered"]["logits"],
        fields["targets"],
    ]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert {key: type(value) for key, value in told.items()} == {
        key: type(value) for key, value in outputs.items()
    }
    assert told["record"].label == "label"
    assert grown.requires_grad
    assert tensors[0].data_ptr() == grown.data_ptr()


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(5, 3), 5),
        ((torch.zeros(4), torch.zeros(9)), 4),
        ({"ids": [torch.tensor(1), torch.zeros(7, 2)]}, 7),
        (Record(torch.zeros(6), "x"), 6),
        (["a", "b"], 1),
        (None, 1),
    ],
)
def test_batch_size_is_dimension_0_of_the_first_tensor(
    bus: EventBus, transcript: Transcript, batch: Any, size: int
) -> None:
    report_in_a_batch(bus, batch, loss=1.0)
    assert finished(transcript)["batch_size"] == size


def test_a_reported_batch_size_wins(bus: EventBus, transcript: Transcript) -> None:
    report_in_a_batch(bus, torch.zeros(5), batch_size=3)
    assert finished(transcript)["batch_size"] == 3


def test_batch_rides_as_the_body_got_it(bus: EventBus, transcript: Transcript) -> None:
    bus.on("batch_loaded")(lambda batch: batch * 2)
    report_in_a_batch(bus, torch.ones(2))
    assert finished(transcript)["batch"].tolist() == [2.0, 2.0]


def test_times_are_host_seconds(bus: EventBus, transcript: Transcript) -> None:
    report_in_a_batch(bus)
    assert finished(transcript)["duration_s"] > 0
    assert finished(transcript)["data_wait_s"] > 0


def test_several_reports_of_one_batch_add_up(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.batches([1]):
            run.report(loss=1.0)
            run.report(accuracy=torch.tensor([0.5]))
    assert dict(finished(transcript)["metrics"]) == {"loss": 1.0, "accuracy": 0.5}


def test_a_key_reported_twice_is_an_error_that_names_it(bus: EventBus) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1]):
                run.report(loss=1.0)
                with pytest.raises(ValueError, match=r"'loss' was already reported .*step 1"):
                    run.report(loss=2.0)
            with pytest.raises(ValueError, match=r"'loss' was already reported for epoch 1"):
                run.report(loss=2.0)
            run.report(norm=1.0)
            with pytest.raises(ValueError, match="'norm'"):
                run.report(norm=2.0)
            for _ in run.batches([1]):
                with pytest.raises(ValueError, match="'norm'"):
                    run.report(norm=2.0)
            for _ in run.validate([1]):
                run.report(loss=1.0)
                with pytest.raises(ValueError, match="validation 'val'"):
                    run.report(loss=1.0)
            with pytest.raises(ValueError, match="'val_loss'"):
                run.report(val_loss=1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": torch.ones(2)}, r"'loss' .* shape \(2,\)"),
        ({"loss": "low"}, "'loss' must be a real number"),
        ({"loss": None}, "'loss' must be a real number"),
        ({"loss": 0.5 + 1j}, "'loss' must be a real number"),
        ({"loss": np.complex64(0.5)}, "'loss' must be a real number"),
        ({"loss": np.array(0.5 + 1j)}, "'loss' must be a real number"),
        ({"loss": torch.tensor(0.5 + 1j)}, "'loss' must be a real number; got a tensor of torch.c"),
        ({"loss": torch.ones(1) + 0j}, r"report its abs\(\)"),
        ({"batch_size": torch.tensor(3)}, "batch_size must be an int"),
        ({"batch_size": -1}, "batch_size must be an int"),
    ],
)
def test_a_report_of_what_is_no_number_is_an_error(
    bus: EventBus, values: dict[str, Any], message: str
) -> None:
    with Run(bus) as run:
        for _ in run.batches([1]):
            with pytest.raises((TypeError, ValueError), match=message):
                run.report(**values)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (float("-inf"), "-inf"),
        (10**400, "inf"),
        (-(10**400), "-inf"),
        (True, "1.0"),
        (np.float32(0.5), "0.5"),
        (torch.tensor(float("nan")), "nan"),
        (torch.tensor([[-0.0]], dtype=torch.bfloat16), "-0.0"),
    ],
)
def test_a_report_takes_any_number_there_is(
    bus: EventBus, transcript: Transcript, value: Any, number: str
) -> None:
    report_in_a_batch(bus, loss=value)
    assert repr(finished(transcript)["metrics"]["loss"]) == number


def test_fields_of_a_batch_need_a_batch(bus: EventBus) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            with pytest.raises(ValueError, match="'outputs' belongs to a batch"):
                run.report(outputs=1)


def test_what_is_reported_outside_of_batches_is_a_metric_of_the_epoch(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for epoch in run.epochs(2):
            for _ in run.batches([1]):
                run.report(loss=1.0)
            run.report(norm=float(epoch))
    assert [dict(f["metrics"]) for f in transcript.of("epoch_finished")] == [
        {"loss": 1.0, "norm": 1.0},
        {"loss": 1.0, "norm": 2.0},
    ]


def test_a_key_may_be_reported_once_between_any_two_steps(bus: EventBus) -> None:
    with Run(bus) as run:
        for step in run.steps(2):
            run.report(loss=1.0)
            for _ in run.validate([1]):
                pass
            run.report(norm=float(step))
            with pytest.raises(ValueError, match="'norm'"):
                run.report(norm=0.0)
    assert run.metrics["norm"] == 2.0


def test_metrics_of_the_run_are_the_last_of_each(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for epoch in run.epochs(2):
            for batch in run.batches([1, 3]):
                run.report(loss=float(batch * epoch))
            if epoch == 1:
                for _ in run.validate([1]):
                    run.report(loss=9.0)
        run.report(test_accuracy=0.75)
    expected = {"loss": 4.0, "val_loss": 9.0, "test_accuracy": 0.75}
    assert dict(run.metrics) == expected
    assert dict(transcript.of("run_finished")[0]["metrics"]) == expected
    assert dict(transcript.of("epoch_finished")[1]["metrics"]) == {"loss": 4.0}


def test_emit_fills_in_epoch_and_step_and_detaches_the_loss(
    bus: EventBus, transcript: Transcript
) -> None:
    loss = torch.tensor(1.0, requires_grad=True) * 2

    @bus.declare
    def sample_drawn(*, text: str) -> None:
        """A signal that has neither epoch nor step."""

    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1]):
                run.emit("backward_finished", loss=loss)
                run.emit("something_else", value=1)
                run.emit(sample_drawn, text="to be")
    (backward,) = transcript.of("backward_finished")
    assert (backward["epoch"], backward["step"]) == (1, 1)
    assert not backward["loss"].requires_grad
    assert transcript.of("something_else") == [{"value": 1, "epoch": 1, "step": 1}]
    assert transcript.of("sample_drawn") == [{"text": "to be"}]


def test_transform_gives_what_handlers_made_of_the_value(bus: EventBus) -> None:
    bus.on("batch_loaded")(lambda batch, step: [batch, step])
    with Run(bus) as run:
        for _ in run.steps(1):
            assert run.transform("batch_loaded", "x") == ["x", 1]


OWN_SIGNALS = [
    name
    for name in STANDARD
    if name.split("_")[0] in {"run", "epoch", "batch", "validation"} and name != "batch_loaded"
]


@pytest.mark.parametrize("name", OWN_SIGNALS)
def test_a_signal_that_the_run_emits_itself_is_refused(
    bus: EventBus, transcript: Transcript, name: str
) -> None:
    signal: Any
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1]):
                for signal in (name, STANDARD[name]):
                    with pytest.raises(ValueError, match=f"^Run emits {name} itself: .*`.*`"):
                        run.emit(signal, metrics={"loss": 1.0})
            list(run.validate([1]))
    once = {"run_failed", "epoch_interrupted", "batch_skipped", "validation_interrupted"}
    assert len(transcript.of(name)) == (name not in once)


@pytest.mark.parametrize("name", ["loader_opened", "batch_loaded"])
def test_what_the_loop_over_batches_offers_is_not_offered_again(bus: EventBus, name: str) -> None:
    with Run(bus) as run:
        for _ in run.batches([1]):
            with pytest.raises(ValueError, match=f"^Run emits {name} itself, for what"):
                run.transform(name, 2)
        assert run.transform("loader_opened", [2]) == [2]
