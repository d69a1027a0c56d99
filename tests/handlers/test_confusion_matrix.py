"""ConfusionMatrix: what is counted, where, and what is drawn of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eventbus import EventBus, RestoredState, every
from eventbus.handlers import ConfusionMatrix
from eventbus.handlers.confusion_matrix import _fractions
from eventbus.loops import Run
from eventbus.testing import Recording, capture

from .unread import WaitedError, read, unread

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
TARGETS = torch.tensor([0, 1, 1, 2])
COUNTED = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


class Loop:
    """Tells of validations."""

    def __init__(self, handler: ConfusionMatrix) -> None:
        self.handler = handler
        self.bus = EventBus(strict=True)
        self.bus.attach(handler)
        self.emitter = self.bus.bind(sender="train")
        self.round = 0

    def validate(
        self, *batches: tuple[Any, Any], name: str = "val", how: str = "done"
    ) -> Recording:
        """Tell of one validation; return the pictures."""
        self.round += 1
        place = {"name": name, "round": self.round, "epoch": 1, "step": 10}
        with capture(self.bus, "figure_drawn") as recording:
            self.emitter.emit("validation_started", **place)
            for outputs, targets in batches:
                fields = {"outputs": outputs, "targets": targets, **place}
                self.emitter.emit("validation_batch_finished", **fields)
            self.emitter.emit(f"validation_{how}", **place)
        return recording

    @property
    def counted(self) -> list[list[int]] | None:
        matrix = self.handler.matrix
        return None if matrix is None else read(matrix).tolist()


def counted(outputs: Tensor, targets: Tensor, classes: Any = None) -> list[list[int]] | None:
    loop = Loop(ConfusionMatrix(classes))
    loop.validate((outputs, targets))
    return loop.counted


# -- counting


def test_rows_are_true_classes_and_columns_predicted_ones() -> None:
    assert counted(SCORES, TARGETS) == COUNTED


def test_batches_of_a_validation_add_up() -> None:
    loop = Loop(ConfusionMatrix())
    loop.validate((SCORES[:1], TARGETS[:1]), (SCORES[1:], TARGETS[1:]))
    assert loop.counted == COUNTED


def test_each_validation_is_counted_anew() -> None:
    loop = Loop(ConfusionMatrix())
    loop.validate((SCORES, TARGETS), name="test")
    loop.validate((SCORES, TARGETS))
    assert loop.counted == COUNTED


def test_loop_that_tells_of_no_beginning_is_counted_anew_too() -> None:
    loop = Loop(ConfusionMatrix())
    for round in (1, 2):
        place = {"name": "val", "round": round, "epoch": 1, "step": 10}
        fields = {"outputs": SCORES, "targets": TARGETS, **place}
        loop.emitter.emit("validation_batch_finished", **fields)
        loop.emitter.emit("validation_done", **place)
    assert loop.counted == COUNTED


def test_what_an_interrupted_validation_left_is_not_counted() -> None:
    loop = Loop(ConfusionMatrix())
    loop.validate((SCORES, TARGETS), how="interrupted")
    assert loop.counted is None
    loop.validate((SCORES, TARGETS))
    assert loop.counted == COUNTED


def test_counts_agree_with_counting_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(500, 7, generator=generator)
    targets = torch.randint(7, (500,), generator=generator)
    expected = [[0] * 7 for _ in range(7)]
    for true, predicted in zip(targets.tolist(), scores.argmax(1).tolist(), strict=True):
        expected[true][predicted] += 1
    assert counted(scores, targets) == expected


def test_images_are_counted_by_pixel() -> None:
    scores = SCORES.t().reshape(1, 3, 2, 2)
    assert counted(scores, TARGETS.reshape(1, 2, 2)) == COUNTED


def test_class_probabilities_may_be_targets() -> None:
    assert counted(SCORES, torch.eye(3)[TARGETS] * 0.8 + 0.05) == COUNTED


def test_class_numbers_may_be_outputs() -> None:
    assert counted(SCORES.argmax(1), TARGETS, classes=3) == COUNTED


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_logits_of_two_classes_are_told_by_their_sign(shape: tuple[int, ...]) -> None:
    logits = torch.tensor([-1.0, 2.0, 0.5, -0.1]).reshape(shape)
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(shape)
    assert counted(logits, targets) == [[1, 1], [1, 1]]


def test_threshold_tells_probabilities_of_two_classes_apart() -> None:
    loop = Loop(ConfusionMatrix(threshold=0.5))
    loop.validate((torch.tensor([0.4, 0.9, 0.6, 0.1]), torch.tensor([0, 1, 0, 1])))
    assert loop.counted == [[1, 1], [1, 1]]


def test_targets_that_are_no_class_are_not_counted() -> None:
    assert counted(SCORES, torch.tensor([0, -100, 255, 2])) == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_absent_classes_have_rows_too() -> None:
    assert counted(SCORES[:1], TARGETS[:1]) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_more_than_16_million_samples_lose_nothing() -> None:
    loop = Loop(ConfusionMatrix(2))
    loop.validate((SCORES[:1, :2], TARGETS[:1]))
    assert loop.handler.matrix is not None
    assert loop.handler.matrix.dtype == torch.int64  # float32 would stop counting at 2**24


def test_fresh_run_forgets_the_matrix() -> None:
    loop = Loop(ConfusionMatrix())
    loop.validate((SCORES, TARGETS))
    loop.emitter.emit("run_started", resumed_from="x")
    assert loop.counted == COUNTED
    loop.emitter.emit("run_started")
    assert loop.counted is None


# -- drawing


def test_picture_is_drawn_once_for_each_validation() -> None:
    loop = Loop(ConfusionMatrix())
    (picture,) = loop.validate((SCORES, TARGETS), (SCORES, TARGETS)).emissions
    assert (picture["tag"], picture["epoch"], picture["step"]) == ("val_confusion_matrix", 1, 10)
    (picture,) = loop.validate((SCORES, TARGETS), name="test").emissions
    assert picture["tag"] == "test_confusion_matrix"


def test_picture_is_only_drawn_when_due() -> None:
    loop = Loop(ConfusionMatrix(when=every(2)))
    drawn = [len(loop.validate((SCORES, TARGETS)).emissions) for _ in range(4)]
    assert drawn == [0, 1, 0, 1]
    assert loop.counted == COUNTED


def test_picture_is_drawn_on_rank_0_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    loop = Loop(ConfusionMatrix())
    assert loop.validate((SCORES, TARGETS)).emissions == []
    assert loop.counted == COUNTED


def test_validation_without_batches_draws_nothing() -> None:
    loop = Loop(ConfusionMatrix())
    loop.validate((SCORES, TARGETS))
    assert loop.validate().emissions == []
    assert loop.counted is None


def test_picture_is_one_that_can_be_saved(tmp_path: Path) -> None:
    (picture,) = Loop(ConfusionMatrix()).validate((SCORES, TARGETS)).emissions
    picture["figure"].savefig(tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").read_bytes()[1:4] == b"PNG"


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_picture_shows_counts_and_names() -> None:
    loop = Loop(ConfusionMatrix(["cat", "dog", "$x_1$"]))
    (picture,) = loop.validate((SCORES, TARGETS)).emissions
    axes = picture["figure"].axes[0]
    assert texts(picture["figure"]) == ["1", "0", "0", "1", "1", "0", "0", "0", "1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", r"\$x_1\$"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted", "true", "val")


def test_colour_is_the_fraction_of_the_true_class_unless_counts_are_asked_for() -> None:
    def colours(handler: ConfusionMatrix) -> Any:
        (picture,) = Loop(handler).validate((SCORES, TARGETS)).emissions
        return picture["figure"].axes[0].images[0].get_array().tolist()

    assert colours(ConfusionMatrix()) == [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]
    assert colours(ConfusionMatrix(normalize=False)) == COUNTED


def test_classes_that_are_absent_have_no_fraction() -> None:
    assert _fractions([[0, 0], [1, 3]]) == [[0.0, 0.0], [0.25, 0.75]]


def test_many_classes_are_drawn_without_numbers() -> None:
    handler = ConfusionMatrix(200)
    figure = handler.figure(torch.eye(200, dtype=torch.int64).tolist())
    assert texts(figure) == []
    assert max(figure.get_size_inches()) <= 12
    figure.draw_without_rendering()


def test_picture_of_nothing_but_zeros_can_be_drawn() -> None:
    ConfusionMatrix(normalize=False).figure([[0, 0], [0, 0]]).draw_without_rendering()


def test_pyplot_is_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    assert len(Loop(ConfusionMatrix()).validate((SCORES, TARGETS)).emissions) == 1
    assert "matplotlib.pyplot" not in sys.modules


# -- errors and absences


def test_mistake_is_isolated_and_told() -> None:
    bus = EventBus()
    bus.attach(ConfusionMatrix())
    place = {"name": "val", "round": 1, "epoch": 1, "step": 1}
    with capture(bus, "handler_failed") as recording:
        fields = {"outputs": SCORES.argmax(1), "targets": TARGETS, **place}
        bus.bind(sender="train").emit("validation_batch_finished", **fields)
    (failure,) = recording.emissions
    assert "cannot tell how many classes there are" in str(failure["exception"])


def test_validation_that_reports_no_outputs_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(ConfusionMatrix())
    loop.emitter.emit("run_started")
    assert loop.validate((None, TARGETS), (SCORES, None)).emissions == []
    loop.emitter.emit("run_finished", reason="completed")
    (record,) = caplog.records
    assert "counted nothing of validation 'val'" in record.getMessage()


def test_what_an_earlier_run_lacked_is_not_told_of_a_resumed_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(ConfusionMatrix())
    loop.emitter.emit("run_started")
    loop.validate((None, None), name="test")
    loop.emitter.emit("run_closed", outcome="failed")
    state = RestoredState({"loop": {"epoch": 1}})
    loop.emitter.emit("state_restored", state=state, path="checkpoint")
    loop.emitter.emit("run_started", resumed_from="checkpoint")
    loop.emitter.emit("run_finished", reason="completed")
    assert caplog.records == []


BINARY_TARGETS = torch.tensor([0, 1])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_probabilities_that_are_taken_for_logits_are_warned_of_once(
    caplog: pytest.LogCaptureFixture, kind: torch.dtype
) -> None:
    loop = Loop(ConfusionMatrix())
    outputs = torch.tensor([[0.25, 0.5], [0.125, 1.0]], dtype=kind)
    for _ in range(2):
        loop.validate(*((batch, BINARY_TARGETS) for batch in outputs))
    (record,) = caplog.records
    assert record.getMessage() == (
        "ConfusionMatrix took the outputs of validation 'val' for logits, of which those above 0 "
        "are class 1, and all were from 0.125 to 1; for probabilities write threshold=0.5"
    )


@pytest.mark.parametrize(
    ("batches", "threshold"),
    [
        ([[0.25, 0.75], [-0.5, 0.5]], 0.0),
        ([[0.25, 1.5], [0.25, 0.5]], 0.0),
        ([[0.25, float("nan")]], 0.0),
        ([[0.0, 0.0]], 0.0),  # a last layer that begins with zeros
        ([[]], 0.0),
        ([[0.25, 0.75]], 0.5),
    ],
)
def test_what_may_be_logits_is_not_warned_of(
    caplog: pytest.LogCaptureFixture, batches: list[list[float]], threshold: float
) -> None:
    loop = Loop(ConfusionMatrix(threshold=threshold))
    loop.validate(*((torch.tensor(one), BINARY_TARGETS[: len(one)]) for one in batches))
    assert caplog.records == []


def test_each_validation_is_judged_by_its_own_outputs(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(ConfusionMatrix())
    loop.validate((torch.tensor([-2.0, 2.0]), BINARY_TARGETS))
    loop.validate((torch.tensor([0.25, 0.5]), BINARY_TARGETS), name="test")
    (record,) = caplog.records
    assert "validation 'test'" in record.getMessage()


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), "0.5", True, None])
def test_wrong_threshold_is_refused_when_it_is_made(threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold is a finite number"):
        ConfusionMatrix(threshold=threshold)


@pytest.mark.parametrize("classes", [0, [], True, "cat", 2.5])
def test_wrong_classes_are_refused_when_it_is_made(classes: Any) -> None:
    with pytest.raises(ValueError, match="the number of classes, or their names; got"):
        ConfusionMatrix(classes)


def test_absence_of_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'training-eventbus\[plot\]'"):
        ConfusionMatrix()


# -- in a run, and on a device


def test_run_brings_the_outputs_and_targets() -> None:
    bus, handler = EventBus(strict=True), ConfusionMatrix()
    bus.attach(handler)
    with capture(bus, "figure_drawn") as recording, Run(bus) as run:
        for _ in run.epochs(2):
            for _ in run.validate([1, 2]):
                run.report(outputs=SCORES, targets=TARGETS)
    assert len(recording.emissions) == 2
    assert handler.matrix is not None
    assert handler.matrix.tolist() == [[2 * count for count in row] for row in COUNTED]


def test_failing_validation_draws_nothing() -> None:
    bus = EventBus(strict=True)
    bus.attach(ConfusionMatrix())

    def validate() -> None:
        with Run(bus) as run:
            for _ in run.validate([1, 2]):
                run.report(outputs=SCORES, targets=TARGETS)
                raise KeyboardInterrupt

    with capture(bus, "figure_drawn") as recording, pytest.raises(KeyboardInterrupt):
        validate()
    assert recording.emissions == []


def test_nobody_waits_for_the_device_until_a_picture_is_due() -> None:
    loop = Loop(ConfusionMatrix(when=every(2)))
    batch = (unread(SCORES), unread(TARGETS))
    loop.validate(batch, batch)
    assert loop.counted == [[2 * count for count in row] for row in COUNTED]
    with pytest.raises(WaitedError):
        read_when_drawn(loop)


def test_nobody_waits_for_the_range_of_binary_outputs() -> None:
    loop = Loop(ConfusionMatrix(when=every(2)))
    batch = (unread([-1.0, 2.0]), unread([0, 1]))
    loop.validate(batch, batch)
    assert loop.counted == [[2, 0], [0, 2]]


def read_when_drawn(loop: Loop) -> None:
    """Have a picture be drawn of counts that nobody may read."""
    place = {"name": "val", "round": 2, "epoch": 1, "step": 1}
    fields = {"outputs": unread(SCORES), "targets": unread(TARGETS), **place}
    loop.emitter.emit("validation_batch_finished", **fields)
    loop.handler.end()
    assert loop.handler.matrix is not None
    loop.handler.matrix = unread(loop.handler.matrix)
    loop.handler.draw(loop.bus, "val")


@pytest.mark.gpu
def test_cuda_is_not_waited_for() -> None:
    loop = Loop(ConfusionMatrix(when=every(2)))
    batch = (SCORES.cuda(), TARGETS.cuda())
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.validate(batch, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loop.handler.matrix is not None
    assert loop.handler.matrix.is_cuda
