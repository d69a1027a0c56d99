"""The standard vocabulary: one stub per signal, in the order of a run.

A stub's signature is the fields (a default makes one optional), its docstring says when and how
often the signal fires. `docs/signals.md` shows the same as a page, with a run annotated.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from eventbus.declaration import Declaration, signal
from eventbus.fields import (
    Batch,
    BatchIndex,
    BatchMetrics,
    BatchSize,
    CheckpointPath,
    Complete,
    DataWait,
    Duration,
    EndReason,
    Epoch,
    EpochMetrics,
    Epochs,
    Failure,
    Figure,
    HandlerName,
    LastMetrics,
    LearningRates,
    Loader,
    Loss,
    MeasuredMetrics,
    Outcome,
    Outputs,
    Reason,
    RestoredParts,
    ResumedFrom,
    Round,
    RoundMetrics,
    SignalName,
    Step,
    StepMetrics,
    Steps,
    Tag,
    Targets,
    Text,
    ValidationName,
)

__all__ = [
    "STANDARD",
    "backward_finished",
    "batch_finished",
    "batch_loaded",
    "batch_skipped",
    "batch_started",
    "checkpoint_saved",
    "epoch_finished",
    "epoch_interrupted",
    "epoch_started",
    "figure_drawn",
    "handler_failed",
    "learning_rate_changed",
    "loader_opened",
    "metrics_measured",
    "run_closed",
    "run_failed",
    "run_finished",
    "run_opened",
    "run_started",
    "state_requested",
    "state_restored",
    "stop_requested",
    "text_written",
    "validation_batch_finished",
    "validation_done",
    "validation_interrupted",
    "validation_started",
]

# -- a run begins


@signal()
def run_opened() -> None:
    """A run exists and its state may be restored. Once, first of all.

    A restorer emits `state_restored` here and answers `Restored(path)`.
    """


@signal()
def state_restored(*, state: RestoredParts, path: CheckpointPath | None = None) -> None:
    """A checkpoint was read: take your part. Once, inside `run_opened`, if the run is resumed."""


@signal()
def run_started(
    *,
    epochs: Epochs | None = None,
    steps: Steps | None = None,
    resumed_from: ResumedFrom | None = None,
) -> None:
    """Training is about to begin. Once, after `run_opened` and before the first epoch or step.

    What has state resets here if and only if `resumed_from` is None.
    """


@signal(clock="epoch")
def epoch_started(*, epoch: Epoch, step: Step) -> None:
    """An epoch begins. Once per epoch, before its loader is opened.

    Not again where a run is resumed within an epoch: that goes on, and its loader is opened again.
    """


@signal(clock="epoch", value="loader")
def loader_opened(loader: Loader, *, epoch: Epoch, step: Step | None = None) -> None:
    """The loader of this epoch is about to be iterated. Once per pass over training data.

    A transform: what a handler returns is iterated instead (curricula, samplers).
    """


# -- a step


@signal(value="batch")
def batch_loaded(
    batch: Batch, *, epoch: Epoch, step: Step, batch_index: BatchIndex | None = None
) -> None:
    """A batch came out of the loader. Once per micro-batch, before `batch_started`.

    A transform: what a handler returns is trained on instead (mixup, cutmix).
    """


@signal(clock="step")
def batch_started(*, epoch: Epoch, step: Step) -> None:
    """Work on an optimizer step begins. Once per step, before its first forward pass."""


@signal(clock="step")
def backward_finished(*, epoch: Epoch, step: Step, loss: Loss | None = None) -> None:
    """The gradients are there, unscaled. Once per step, before the optimizer steps.

    Only from loops that emit it. A `SkipBatch` given here keeps the optimizer from stepping.
    """


@signal(clock="step")
def batch_finished(
    *,
    epoch: Epoch,
    step: Step,
    metrics: StepMetrics | None = None,
    loss: Loss | None = None,
    batch: Batch | None = None,
    outputs: Outputs | None = None,
    targets: Targets | None = None,
    batch_size: BatchSize | None = None,
    duration_s: Duration | None = None,
    data_wait_s: DataWait | None = None,
) -> None:
    """One optimizer step is complete. Once per step, after the step."""


@signal(clock="step")
def batch_skipped(*, epoch: Epoch, step: Step, reason: Reason | None = None) -> None:
    """No optimizer step was taken. Once per skipped step, in place of `batch_finished`.

    The next step has the same number: a skipped one does not use it up.
    """


@signal(clock="step")
def learning_rate_changed(
    *, step: Step, learning_rates: LearningRates, epoch: Epoch | None = None
) -> None:
    """A learning rate differs from what was told last. Once per change, the first one included.

    Told by who changes it: `LRSchedule`, or a loop that emits this where it steps a scheduler.
    """


# -- a validation


@signal(clock="round")
def validation_started(*, name: ValidationName, round: Round, epoch: Epoch, step: Step) -> None:
    """A validation begins. Once per validation, before its first batch."""


@signal(clock="round")
def validation_batch_finished(
    *,
    name: ValidationName,
    round: Round,
    epoch: Epoch,
    step: Step,
    metrics: BatchMetrics | None = None,
    loss: Loss | None = None,
    batch: Batch | None = None,
    outputs: Outputs | None = None,
    targets: Targets | None = None,
    batch_size: BatchSize | None = None,
    duration_s: Duration | None = None,
    data_wait_s: DataWait | None = None,
) -> None:
    """One batch was validated. Once per validation batch; all of a validation share its round."""


@signal(clock="round")
def validation_done(
    *,
    name: ValidationName,
    round: Round,
    epoch: Epoch,
    step: Step,
    metrics: RoundMetrics | None = None,
) -> None:
    """A validation is complete. Once per validation, after its last batch or its `break`."""


@signal(clock="round")
def validation_interrupted(
    *,
    name: ValidationName,
    round: Round,
    epoch: Epoch,
    step: Step,
    reason: Reason | None = None,
    metrics: RoundMetrics | None = None,
) -> None:
    """A `Stop` or a failure cut a validation short. In place of `validation_done`."""


# -- an epoch ends


@signal(clock="epoch")
def epoch_finished(
    *,
    epoch: Epoch,
    step: Step,
    metrics: EpochMetrics | None = None,
    complete: Complete | None = None,
) -> None:
    """An epoch is over, its validations too. Once per epoch, `StopEpoch` and `break` included."""


@signal(clock="epoch")
def epoch_interrupted(
    *,
    epoch: Epoch,
    step: Step,
    reason: Reason | None = None,
    metrics: EpochMetrics | None = None,
) -> None:
    """A `Stop` or a failure ended an epoch midway. In place of `epoch_finished`."""


# -- at any time, by the loop or by handlers


@signal()
def metrics_measured(
    *, metrics: MeasuredMetrics, epoch: Epoch | None = None, step: Step | None = None
) -> None:
    """A handler measured something. Whenever it does; `JSONLLog` and trackers record it.

    `epoch_finished` does not have it. `CSVLog`, `History`, and handlers that watch a metric hear it
    where their `on` names this signal.
    """


@signal()
def figure_drawn(
    *, tag: Tag, figure: Figure, epoch: Epoch | None = None, step: Step | None = None
) -> None:
    """A handler drew a picture. Whenever it does; trackers record it.

    An image, or a grid of them, is drawn into the figure: `axes.imshow(image)`, (H, W, 3).
    """


@signal()
def text_written(
    *, tag: Tag, text: Text, epoch: Epoch | None = None, step: Step | None = None
) -> None:
    """A handler wrote a text. Whenever it does; trackers record it."""


@signal()
def state_requested(*, epoch: Epoch | None = None, step: Step | None = None) -> None:
    """A checkpoint is being made: answer `State(key, value)`. Once per checkpoint, on every rank.

    What has `state_dict` and `load_state_dict` answers by itself once it is attached.
    """


@signal()
def checkpoint_saved(
    *,
    path: CheckpointPath,
    epoch: Epoch | None = None,
    step: Step | None = None,
    metrics: LastMetrics | None = None,
) -> None:
    """A checkpoint is complete on disk. Once per checkpoint, by the rank that wrote it."""


@signal()
def stop_requested(
    *,
    reason: Reason,
    handler: HandlerName | None = None,
    epoch: Epoch | None = None,
    step: Step | None = None,
) -> None:
    """A `Stop` was accepted. Once for each, by the bus, when it is given."""


@signal()
def handler_failed(
    *,
    handler: HandlerName,
    signal: SignalName,
    exception: Failure,
    epoch: Epoch | None = None,
    step: Step | None = None,
) -> None:
    """An isolated handler raised, and training goes on. Once per failure, by the bus."""


# -- a run ends


@signal()
def run_finished(
    *,
    reason: EndReason,
    epoch: Epoch | None = None,
    step: Step | None = None,
    metrics: LastMetrics | None = None,
) -> None:
    """Training ended as it should, by itself or by a `Stop`. Once, unless the run failed."""


@signal()
def run_failed(*, exception: Failure, epoch: Epoch | None = None, step: Step | None = None) -> None:
    """An exception ended training, Ctrl-C and `SystemExit` too. In place of `run_finished`."""


@signal()
def run_closed(*, outcome: Outcome) -> None:
    """The run is over. Once, always the last one, whatever happened: flush and close here."""


STANDARD: Mapping[str, Declaration[...]] = MappingProxyType(
    {one.name: one for one in tuple(globals().values()) if isinstance(one, Declaration)}
)
"""Every standard signal by name, in the order of a run."""
