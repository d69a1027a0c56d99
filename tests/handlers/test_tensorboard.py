"""TensorBoard, read back with TensorBoard's own reader: curves, pictures, texts, and resuming."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, Filter, Priority, every
from eventbus.handlers import Checkpoint, TensorBoard
from eventbus.loops import Run

from .reporting import Clock, CountedMetrics, finish_epochs, resume, run_child, start

pytest.importorskip("tensorboard")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = dict.fromkeys(["scalars", "images", "histograms", "tensors"], 0)
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def steps_shown(folder: Path, tag: str) -> list[int]:
    """Read as the web server does: all is a tensor there, texts too, and dropped alike."""
    from tensorboard.backend.event_processing import plugin_event_accumulator as server

    found = server.EventAccumulator(str(folder), tensor_size_guidance={"text": 0, "scalars": 0})
    return [point.step for point in found.Reload().Tensors(tag)]


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, round(point.value, 6)) for point in read(folder).Scalars(tag)]


def steps_of(folder: Path, tag: str) -> list[int]:
    return [step for step, _ in curve(folder, tag)]


def finish_steps(loop: Any, first: int, last: int) -> None:
    for step in range(first, last + 1):
        loop.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})


def state_of(bus: EventBus) -> dict[str, Any]:
    return dict(bus.emit("state_requested").state)


# -- what is filed


def test_numbers_of_each_signal_are_a_curve_over_steps(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    loop.emit("learning_rate_changed", step=1, learning_rates={"default": 0.5})
    loop.emit("batch_finished", epoch=1, step=1, metrics={"loss": 0.75, "accuracy": 0.25})
    loop.emit("metrics_measured", metrics={"gradient_norm": 2.0}, step=1)
    done = {"val_loss": 0.125}
    loop.emit("validation_done", name="val", round=1, epoch=1, step=2, metrics=done)
    loop.emit("epoch_finished", epoch=1, step=2, metrics={"loss": 0.5, "val_loss": 0.125})
    assert sorted(read(folder).Tags()["scalars"]) == [
        "epoch/loss",
        "epoch/val_loss",
        "learning_rate/default",
        "measured/gradient_norm",
        "step/accuracy",
        "step/loss",
        "validation/val_loss",
    ]
    assert curve(folder, "step/loss") == [(1, 0.75)]
    assert curve(folder, "validation/val_loss") == [(2, 0.125)]
    assert curve(folder, "learning_rate/default") == [(1, 0.5)]


def test_what_is_measured_inside_an_emission_is_filed_under_its_step(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    measure_on(bus, "batch_finished", Priority.MEASURE)
    finish_steps(start(bus), 1, 3)
    assert curve(folder, "measured/double") == [(1, 2.0), (2, 4.0), (3, 6.0)]


def measure_on(bus: EventBus, signal: str, priority: int, when: Filter | None = None) -> None:
    @bus.on(signal, priority=priority, when=when)
    def measure(step: int, bus: EventBus) -> None:
        measured = {"double": torch.tensor(2.0 * step), "half": 0.5 * step}
        bus.emit("metrics_measured", metrics=measured)


@pytest.mark.parametrize(
    ("signal", "priority"),
    [
        ("backward_finished", Priority.ALTER),
        ("batch_finished", Priority.MEASURE),
        ("batch_finished", Priority.PERSIST),  # after the step's own metrics were filed
    ],
)
def test_tensors_that_are_measured_within_a_step_are_filed_where_the_step_is_due(
    bus: EventBus, folder: Path, signal: str, priority: int
) -> None:
    bus.attach(TensorBoard(folder, when=every(2)))
    measure_on(bus, signal, priority)
    loop = start(bus)
    for step in range(1, 6):
        loop.emit("backward_finished", epoch=1, step=step)
        finish_steps(loop, step, step)
    assert curve(folder, "measured/double") == [(2, 4.0), (4, 8.0)]


def test_numbers_that_are_measured_within_a_step_are_filed_whenever_they_come(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(2)))
    measure_on(bus, "batch_finished", Priority.MEASURE, when=every(3))
    finish_steps(start(bus), 1, 6)
    assert curve(folder, "measured/half") == [(3, 1.5), (6, 3.0)]


@pytest.mark.parametrize("taken", [1, 2])  # a skipped step does not use up its number
def test_what_is_measured_in_a_step_that_was_skipped_is_not_taken_for_the_next_ones(
    bus: EventBus, folder: Path, taken: int
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    measure_on(bus, "backward_finished", Priority.ALTER)
    loop = start(bus)
    loop.emit("backward_finished", epoch=1, step=1)
    loop.emit("batch_skipped", epoch=1, step=1)
    finish_steps(loop, taken, taken)
    assert set(read(folder).Tags()["scalars"]) == {"step/loss", "measured/half"}


def test_what_is_measured_elsewhere_is_always_filed(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1000)))
    measure_on(bus, "epoch_finished", Priority.MEASURE)
    loop = start(bus)
    loop.emit("metrics_measured", metrics={"double": 1.0}, step=1)  # by the loop itself
    loop.emit("epoch_finished", epoch=1, step=2)
    assert curve(folder, "measured/double") == [(1, 1.0), (2, 4.0)]


def test_what_has_no_step_is_filed_under_the_last_one(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 7)
    loop.emit("metrics_measured", metrics={"rate": 3.0})
    assert curve(folder, "measured/rate") == [(7, 3.0)]


def test_a_step_that_is_not_due_has_no_metric_read(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(4)))
    loop, metrics = start(bus), CountedMetrics(loss=0.5)
    for step in range(1, 4):
        loop.emit("batch_finished", epoch=1, step=step, metrics=metrics)
    assert metrics.reads == 0
    loop.emit("batch_finished", epoch=1, step=4, metrics=metrics)
    assert metrics.reads == 1
    assert steps_of(folder, "step/loss") == [4]


def test_a_loop_that_sends_a_bare_loss_has_a_curve_too(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    start(bus).emit("batch_finished", epoch=1, step=1, loss=torch.tensor(0.25))
    assert curve(folder, "step/loss") == [(1, 0.25)]


def test_nan_infinities_and_huge_numbers_are_points_and_text_is_none(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    metrics = {"a": math.nan, "b": -math.inf, "c": 10**400, "d": 1e300, "e": True, "f": "text"}
    start(bus).emit("batch_finished", epoch=1, step=1, metrics=metrics)
    found = {tag: read(folder).Scalars(tag)[0].value for tag in read(folder).Tags()["scalars"]}
    assert math.isnan(found.pop("step/a"))
    assert found == {"step/b": -math.inf, "step/c": math.inf, "step/d": math.inf, "step/e": 1.0}


def test_another_sender_has_its_label_in_front(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 1)
    finish_steps(loop.labelled("generator"), 1, 2)
    assert steps_of(folder, "step/loss") == [1]
    assert steps_of(folder, "generator/step/loss") == [1, 2]


def test_a_figure_is_a_picture(bus: EventBus, folder: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(2, 1), dpi=50)
    canvas = figure.canvas
    bus.attach(TensorBoard(folder))
    start(bus).emit("figure_drawn", tag="confusion", figure=figure, step=3)
    (image,) = read(folder).Images("confusion")
    assert (image.step, image.width, image.height) == (3, 100, 50)
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert figure.canvas is canvas


def test_what_is_no_figure_is_an_error_that_says_what_came(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder))
    with pytest.raises(TypeError, match=r"matplotlib figure, got ndarray; draw .* axes\.imshow"):
        start(bus).emit("figure_drawn", tag="x", figure=torch.zeros(2).numpy(), step=1)


def test_a_text_is_kept_as_it_is(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder))
    start(bus).emit("text_written", tag="sample", text="# Köln\n\ud800 *1*", step=2)
    (point,) = read(folder).Tensors("sample")
    assert point.tensor_proto.string_val[0].decode() == "# Köln\n\\ud800 *1*"
    assert point.step == 2
    metadata = read(folder).SummaryMetadata("sample")
    assert metadata.plugin_data.plugin_name == "text"


# -- histograms


def test_histograms_show_weights_after_the_step_and_gradients_before_it(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, histograms=every(2)))
    model = torch.nn.Linear(3, 2)
    loop = bus.bind(sender="train", model=model)
    for step in range(1, 5):
        model.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        loop.emit("backward_finished", epoch=1, step=step)
        model.zero_grad()
        loop.emit("batch_finished", epoch=1, step=step)
    found = read(folder)
    tags = ["gradients/bias", "gradients/weight", "weights/bias", "weights/weight"]
    assert sorted(found.Tags()["histograms"]) == tags
    weights = found.Histograms("weights/weight")
    assert [point.step for point in weights] == [2, 4]
    last, values = weights[-1].histogram_value, model.weight.detach()
    assert (last.num, last.min, last.max) == (6, values.min(), values.max())
    assert sum(last.bucket) == 6
    assert last.sum == pytest.approx(values.sum().item(), abs=1e-6)
    assert last.sum_squares == pytest.approx(values.square().sum().item())
    gradients = found.Histograms("gradients/weight")[0].histogram_value
    assert (gradients.num, gradients.min, gradients.max) == (6, 1.0, 1.0)


def test_histograms_of_several_models_have_their_names(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, histograms=every(1)))
    models = {"encoder": torch.nn.Linear(1, 1), "decoder": torch.nn.Linear(1, 1), "rules": object()}
    bus.bind(sender="train", models=models).emit("batch_finished", epoch=1, step=1)
    assert sorted(read(folder).Tags()["histograms"]) == [
        "weights/decoder.bias",
        "weights/decoder.weight",
        "weights/encoder.bias",
        "weights/encoder.weight",
    ]


class Odd(torch.nn.Module):
    """Parameters of every odd kind."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = torch.nn.Parameter(torch.tensor([1.0, math.nan, math.inf, 3.0]))
        self.low = torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
        self.empty = torch.nn.Parameter(torch.zeros(0))
        self.lost = torch.nn.Parameter(torch.full((2,), math.nan))
        self.rotation = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        self.large = torch.nn.Parameter(torch.full((2,), 1e30))


def test_odd_parameters_give_a_histogram_of_what_is_finite_or_none(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, histograms=every(1)))
    model = Odd()
    place, value = torch.tensor([[1]]), torch.tensor([2.0])
    model.mixed.grad = torch.sparse_coo_tensor(place, value, (4,), check_invariants=True)
    loop = bus.bind(sender="train", model=model)
    loop.emit("backward_finished", epoch=1, step=1)
    loop.emit("batch_finished", epoch=1, step=1)
    found = read(folder)
    tags = ["gradients/mixed", "weights/large", "weights/low", "weights/mixed"]
    assert sorted(found.Tags()["histograms"]) == tags
    mixed = found.Histograms("weights/mixed")[0].histogram_value
    assert (mixed.num, mixed.min, mixed.max, mixed.sum) == (2, 1.0, 3.0, 4.0)


class Sharded(torch.Tensor):
    """What a rank knows of a tensor that is spread over several."""

    def to_local(self) -> torch.Tensor:
        return torch.tensor([1.0, 2.0])


def test_of_a_sharded_parameter_the_ranks_own_part_is_shown(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, histograms=every(1)))
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.zeros(1, 1).as_subclass(Sharded)
    bus.bind(sender="train", model=model).emit("backward_finished", epoch=1, step=1)
    (point,) = read(folder).Histograms("gradients/weight")
    assert (point.histogram_value.num, point.histogram_value.max) == (2, 2.0)


def test_no_histogram_is_made_unless_asked_for(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    assert not [each for each in bus.subscriptions if "backward_finished" in str(each)]
    loop = bus.bind(sender="train", model=torch.nn.Linear(1, 1))
    finish_steps(loop, 1, 2)
    assert read(folder).Tags()["histograms"] == []


# -- hyperparameters


def hparams(folder: Path) -> tuple[dict[str, Any], int | None]:
    from tensorboard.plugins.hparams import metadata

    found = read(folder).summary_metadata
    start = found[metadata.SESSION_START_INFO_TAG].plugin_data.content
    told = metadata.parse_session_start_info_plugin_data(start).hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in told.items()}
    if metadata.SESSION_END_INFO_TAG not in found:
        return values, None
    end = found[metadata.SESSION_END_INFO_TAG].plugin_data.content
    return values, metadata.parse_session_end_info_plugin_data(end).status


@pytest.mark.parametrize(("outcome", "status"), [("completed", 1), ("stopped", 1), ("failed", 2)])
def test_the_config_is_hyperparameters_with_the_end_of_the_run(
    bus: EventBus, folder: Path, outcome: str, status: int
) -> None:
    bus.attach(TensorBoard(folder))
    config = {"lr": 0.1, "amp": True, "model": {"kind": "cnn", "widths": [8, 16]}, "seed": None}
    loop = bus.bind(sender="train", config=config)
    loop.emit("run_opened")
    loop.emit("run_started")
    expected = {
        "lr": 0.1,
        "amp": True,
        "model.kind": "cnn",
        "model.widths": "[8, 16]",
        "seed": "None",
    }
    assert hparams(folder) == (expected, None)
    loop.emit("run_closed", outcome=outcome)
    assert hparams(folder) == (expected, status)


# -- folders


def test_each_run_has_a_folder_of_its_own(bus: EventBus, tmp_path: Path) -> None:
    handler = TensorBoard(tmp_path / "{run_id}", when=every(1))
    bus.attach(handler)
    for name in ("a", "b"):
        finish_steps(start(bus, run_id=name), 1, 2)
        assert handler.log_dir == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_new_run_never_writes_into_the_folder_of_another(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    for last in (1, 2, 3):
        finish_steps(start(bus), 1, last)
    assert steps_of(folder, "step/loss") == [1]
    assert steps_of(folder.with_name("one.1"), "step/loss") == [1, 2]
    assert steps_of(folder.with_name("one.2"), "step/loss") == [1, 2, 3]


def test_nothing_is_made_before_something_is_filed(bus: EventBus, folder: Path) -> None:
    handler = TensorBoard(folder)
    bus.attach(handler)
    loop = start(bus)
    finish_steps(loop, 1, 3)
    loop.emit("run_closed", outcome="completed")
    assert handler.log_dir is None
    assert not folder.exists()


def test_other_ranks_write_nothing(
    bus: EventBus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    bus.attach(TensorBoard(folder, when=every(1), histograms=every(1)))
    loop = bus.bind(sender="train", model=torch.nn.Linear(1, 1), config={"lr": 1})
    for name in ("run_opened", "run_started"):
        loop.emit(name)
    finish_steps(loop, 1, 2)
    finish_epochs(loop, 1, 1)
    loop.emit("run_closed", outcome="completed")
    assert state_of(bus)["TensorBoard"]["first_file"] is None
    assert not folder.exists()


# -- resuming


def test_a_resumed_run_goes_on_without_overlap(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 4)
    state = state_of(bus)
    finish_steps(loop, 5, 9)
    again = EventBus(strict=True)
    again.attach(TensorBoard(folder, when=every(1)))
    finish_steps(resume(again, state), 5, 6)
    assert curve(folder, "step/loss") == [(n, round(1 / n, 6)) for n in range(1, 7)]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_run_that_resumes_again_and_again_goes_on_without_overlap(folder: Path) -> None:
    state: Mapping[str, Any] = {}
    for first, saved, last in [(1, 3, 8), (4, 5, 9), (6, 6, 20), (7, 9, 10)]:
        bus = EventBus(strict=True)
        bus.attach(TensorBoard(folder, when=every(1), clock=Clock(1000.0 - first)))
        loop = resume(bus, state) if state else start(bus)
        finish_steps(loop, first, saved)
        state = state_of(bus)
        finish_steps(loop, saved + 1, last)
    assert steps_of(folder, "step/loss") == list(range(1, 11))
    assert steps_shown(folder, "step/loss") == list(range(1, 11))


def test_an_older_checkpoint_may_be_resumed_from_once_more(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 3)
    state = state_of(bus)
    for last in (8, 5):
        again = EventBus(strict=True)
        again.attach(TensorBoard(folder, when=every(1)))
        finish_steps(resume(again, state), 4, last)
    assert steps_of(folder, "step/loss") == [1, 2, 3, 4, 5]


def test_of_the_last_step_only_what_came_after_the_checkpoint_is_dropped(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    done = {"name": "val", "round": 1, "epoch": 1, "step": 4, "metrics": {"val_loss": 0.5}}
    loop = start(bus)
    finish_steps(loop, 1, 4)
    loop.emit("text_written", tag="sample", text="kept", step=4)
    state = state_of(bus)
    loop.emit("validation_done", **done)
    again = EventBus(strict=True)
    again.attach(TensorBoard(folder, when=every(1)))
    loop = resume(again, state)
    loop.emit("validation_done", **done)
    finish_steps(loop, 5, 5)
    assert steps_of(folder, "validation/val_loss") == [4]
    assert steps_of(folder, "step/loss") == [1, 2, 3, 4, 5]
    assert steps_shown(folder, "sample") == [4]
    assert steps_shown(folder, "step/loss") == [1, 2, 3, 4, 5]


def test_a_checkpoint_from_before_anything_was_filed_begins_anew(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    state = state_of(bus)
    finish_steps(loop, 1, 3)
    again = EventBus(strict=True)
    again.attach(TensorBoard(folder, when=every(1)))
    finish_steps(resume(again, state), 1, 2)
    assert steps_of(folder.with_name("one.1"), "step/loss") == [1, 2]


def test_the_folder_is_found_again_under_another_run_id_and_after_other_runs(
    tmp_path: Path,
) -> None:
    template, states = tmp_path / "{run_id}", {}
    for name in ("a", "b"):
        bus = EventBus(strict=True)
        bus.attach(TensorBoard(template, when=every(1)))
        finish_steps(start(bus, run_id=name), 1, 2)
        states[name] = state_of(bus)
    again = EventBus(strict=True)
    again.attach(TensorBoard(template, when=every(1)))
    finish_steps(resume(again, states["a"], run_id="c"), 3, 3)
    assert steps_of(tmp_path / "a", "step/loss") == [1, 2, 3]
    assert steps_of(tmp_path / "b", "step/loss") == [1, 2]


def test_a_folder_that_is_gone_is_begun_anew_and_said_so(
    bus: EventBus, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    finish_steps(start(bus), 1, 3)
    state = state_of(bus)
    folder.rename(folder.with_name("elsewhere"))
    again = EventBus(strict=True)
    again.attach(TensorBoard(folder, when=every(1)))
    finish_steps(resume(again, state), 4, 4)
    assert steps_of(folder, "step/loss") == [3, 4]
    assert "is that of the run" in caplog.text


def test_a_run_that_lost_its_folder_resumes_again_in_the_one_that_it_began(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    finish_steps(start(bus), 1, 2)
    state = state_of(bus)
    folder.rename(folder.with_name("elsewhere"))
    for step in (3, 4):
        again = EventBus(strict=True)
        again.attach(TensorBoard(folder, when=every(1), clock=Clock(1000.0 * step)))
        finish_steps(resume(again, state), step, step)
        state = state_of(again)
    assert steps_of(folder, "step/loss") == [2, 3, 4]
    assert not folder.with_name("one.1").exists()


def test_a_folder_that_goes_away_under_the_run_is_made_again_and_said_so(
    bus: EventBus, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 3)
    folder.rename(folder.with_name("elsewhere"))
    finish_steps(loop, 4, 6)
    assert steps_shown(folder, "step/loss") == [3, 4, 5, 6]
    assert [each.getMessage().partition(" is ")[2] for each in caplog.records] == [
        "gone: a new one is begun"
    ]
    again = EventBus(strict=True)
    again.attach(TensorBoard(folder, when=every(1)))
    finish_steps(resume(again, state_of(bus)), 7, 7)
    assert steps_shown(folder, "step/loss") == [3, 4, 5, 6, 7]


def test_a_file_that_goes_away_after_a_resume_leaves_the_curves_of_before_it(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    finish_steps(start(bus), 1, 3)
    state, before = state_of(bus), set(folder.iterdir())
    again = EventBus(strict=True)
    again.attach(TensorBoard(folder, when=every(1)))
    loop = resume(again, state)
    finish_steps(loop, 4, 5)
    (gone,) = set(folder.iterdir()) - before
    gone.unlink()
    finish_steps(loop, 6, 6)
    assert steps_shown(folder, "step/loss") == [1, 2, 3, 5, 6]


def test_a_folder_that_another_run_has_taken_meanwhile_is_left_to_it(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 2)
    folder.rename(folder.with_name("elsewhere"))
    other = EventBus(strict=True)
    other.attach(TensorBoard(folder, when=every(1), clock=Clock(1000.0)))
    finish_steps(start(other, run_id="other"), 1, 5)
    finish_steps(loop, 3, 3)
    assert steps_of(folder, "step/loss") == [1, 2, 3, 4, 5]
    assert steps_of(folder.with_name("one.1"), "step/loss") == [2, 3]


def test_a_handler_attached_after_the_restore_still_goes_on(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    finish_steps(start(bus), 1, 3)
    state = state_of(bus)
    again = EventBus(strict=True)
    loop = resume(again, state)
    again.attach(TensorBoard(folder, when=every(1)))
    finish_steps(loop, 4, 4)
    assert steps_of(folder, "step/loss") == [1, 2, 3, 4]


class PowerCutError(Exception):
    """The end of a process, as far as the loop is concerned."""


def train(folder: Path, checkpoints: Path, cut_at: int | None = None) -> None:
    torch.manual_seed(7)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    bus = EventBus(strict=True)
    bus.attach(TensorBoard(folder, when=every(1)))
    bus.attach(Checkpoint(checkpoints, best=None, resume="auto"))
    data = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(5)]
    with Run(bus, model=model, optimizer=optimizer, config={"lr": 0.1}) as run:
        for _epoch in run.epochs(3):
            for inputs, targets in run.batches(data):
                if run.step + 1 == cut_at:
                    raise PowerCutError
                loss: Any = torch.nn.functional.mse_loss(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.report(loss=loss)
            for _ in run.validate([1]):
                run.report(loss=model.weight.sum(), batch_size=1)


def test_curves_of_a_training_that_was_cut_twice_are_those_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    train(tmp_path / "whole", tmp_path / "a")
    for cut_at in (7, 12):
        with pytest.raises(PowerCutError):
            train(tmp_path / "cut", tmp_path / "b", cut_at)
    train(tmp_path / "cut", tmp_path / "b")
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert cut.Tags()["scalars"] == whole.Tags()["scalars"]
    for tag in whole.Tags()["scalars"]:
        assert curve(tmp_path / "cut", tag) == curve(tmp_path / "whole", tag), tag
    assert steps_shown(tmp_path / "cut", "step/loss") == list(range(1, 16))


def test_what_comes_before_the_start_is_filed_after_it_is_known_where_to(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder))
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    loop.emit("learning_rate_changed", step=0, learning_rates={"default": 0.5})
    assert not folder.exists()
    loop.emit("run_started")
    assert curve(folder, "learning_rate/default") == [(0, 0.5)]


def test_what_is_filed_of_one_step_does_not_grow_with_how_often(
    bus: EventBus, folder: Path
) -> None:
    bus.attach(TensorBoard(folder))
    loop = start(bus)
    for n in range(50):
        loop.emit("metrics_measured", metrics={"rate": float(n)})
    assert len(state_of(bus)["TensorBoard"]["of_step"]) == 1


# -- failures

DIES = """
import os, sys
from eventbus import EventBus, every
from eventbus.handlers import TensorBoard
bus = EventBus(strict=True)
bus.attach(TensorBoard(sys.argv[1], when=every(1)))
for step in range(1, 4):
    bus.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})
os._exit(9)
"""


def test_a_process_that_leaves_at_once_has_filed_what_it_emitted(folder: Path) -> None:
    assert run_child(DIES, folder).returncode == 9
    assert steps_of(folder, "step/loss") == [1, 2, 3]


def test_a_torn_record_hides_nothing_of_the_run_that_resumes(bus: EventBus, folder: Path) -> None:
    bus.attach(TensorBoard(folder, when=every(1)))
    finish_steps(start(bus), 1, 3)
    state = state_of(bus)
    (path,) = folder.iterdir()
    with path.open("ab") as file:
        file.write(struct.pack("<Q", 1000) + b"torn")
    again = EventBus(strict=True)
    again.attach(TensorBoard(folder, when=every(1)))
    finish_steps(resume(again, state), 4, 5)
    assert steps_of(folder, "step/loss") == [1, 2, 3, 4, 5]


def test_a_failure_to_write_is_told_at_once_and_training_goes_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    bus.attach(TensorBoard(folder, when=every(1)))
    failed: list[tuple[str, str]] = []
    bus.on("handler_failed")(lambda handler, exception: failed.append((handler, str(exception))))
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")
    loop = start(bus)
    finish_steps(loop, 1, 1)
    assert len(failed) == 1
    assert str(folder) in failed[0][1]
    folder.unlink()
    finish_steps(loop, 2, 3)
    assert steps_of(folder, "step/loss") == [2, 3]


FILLS_THE_DISK = """
import resource, signal, sys
from eventbus import EventBus, every
from eventbus.handlers import TensorBoard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
bus = EventBus()
bus.attach(TensorBoard(sys.argv[1], when=every(1)))
bus.on("handler_failed")(lambda exception: print(type(exception).__name__, exception.errno))
for step in range(1, 30):
    bus.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})
"""


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_a_full_disk_is_an_error_that_is_told_and_leaves_whole_records(folder: Path) -> None:
    child = run_child(FILLS_THE_DISK, folder)
    assert child.returncode == 0
    assert child.stdout.split()[0] == "OSError"
    steps = steps_of(folder, "step/loss")
    assert steps == list(range(1, len(steps) + 1)) != []


def test_without_the_library_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['tensorboard'] = None\n"
    code += "from eventbus.handlers import TensorBoard; TensorBoard()"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = child.stderr.splitlines()[-1]
    assert last == (
        "ImportError: TensorBoard needs tensorboard: pip install 'training-eventbus[tensorboard]'"
    )
