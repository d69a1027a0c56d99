"""The glossary: what each field of the standard signals is, its unit and its base, said once.

Every alias is `Annotated[type, Field(meaning, unit)]`. To a type checker it is the bare type, so a
handler or a signal of yours may use it too::

    def log_loss(step: Step, loss: Loss) -> None: ...

Counts start at 1 and number what is under way or done. Tensors ride detached, on their device;
reading one synchronises, passing it on does not. torch is named for type checkers only: nothing
here imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from eventbus.declaration import Field

if TYPE_CHECKING:
    from torch import Tensor

    from eventbus.state import RestoredState

__all__ = [
    "Batch",
    "BatchIndex",
    "BatchMetrics",
    "BatchSize",
    "CheckpointPath",
    "Complete",
    "DataWait",
    "Duration",
    "EndReason",
    "Epoch",
    "EpochMetrics",
    "Epochs",
    "Failure",
    "Figure",
    "HandlerName",
    "LastMetrics",
    "LearningRates",
    "Loader",
    "Loss",
    "MeasuredMetrics",
    "Outcome",
    "Outputs",
    "Reason",
    "RestoredParts",
    "ResumedFrom",
    "Round",
    "RoundMetrics",
    "SignalName",
    "Step",
    "StepMetrics",
    "Steps",
    "Tag",
    "Targets",
    "Text",
    "ValidationName",
]

Numbers: TypeAlias = "Mapping[str, Tensor | float]"

# -- where the run is

Epoch: TypeAlias = Annotated[
    int, Field("the epoch under way, or just done", "epochs, from 1; 0 outside of epochs")
]
Step: TypeAlias = Annotated[
    int,
    Field(
        "the optimizer step under way; between steps the last one done",
        "optimizer steps, from 1; 0 before the first",
    ),
]
BatchIndex: TypeAlias = Annotated[
    int, Field("which micro-batch of the epoch this is", "micro-batches, from 1")
]
Round: TypeAlias = Annotated[
    int, Field("which validation of that name this is", "validations, from 1")
]
ValidationName: TypeAlias = Annotated[
    str, Field('the name of the validation, "val" unless chosen; its metrics are `<name>_<key>`')
]

# -- what the run is going to be, and what became of it

Epochs: TypeAlias = Annotated[
    int, Field("how many epochs the run is to have in all, where that is known", "epochs")
]
Steps: TypeAlias = Annotated[
    int, Field("how many steps the run is to have in all, where that is known", "optimizer steps")
]
ResumedFrom: TypeAlias = Annotated[
    "str | None", Field("path of the checkpoint that the run goes on from; None: it starts anew")
]
Complete: TypeAlias = Annotated[
    bool, Field("False if the epoch was cut short by `StopEpoch` or `break`")
]
Reason: TypeAlias = Annotated[str, Field("why, in one line for people")]
EndReason: TypeAlias = Annotated[str, Field('"completed", or the reason of the `Stop`')]
Outcome: TypeAlias = Annotated[
    Literal["completed", "stopped", "failed"], Field("how the run ended")
]
Failure: TypeAlias = Annotated[BaseException, Field("what was raised, with its traceback")]

# -- numbers

StepMetrics: TypeAlias = Annotated[Numbers, Field("what was reported in this step, by key")]
BatchMetrics: TypeAlias = Annotated[
    Numbers, Field("what was reported for this batch; keys are `<name>_<key>`")
]
RoundMetrics: TypeAlias = Annotated[
    Numbers,
    Field("means over this validation, weighted by batch size; keys are `<name>_<key>`"),
]
EpochMetrics: TypeAlias = Annotated[
    Numbers, Field("training means over this epoch, and its validations; never older values")
]
LastMetrics: TypeAlias = Annotated[Numbers, Field("the last value of each metric of the run")]
MeasuredMetrics: TypeAlias = Annotated[
    Numbers, Field("what a handler measured (gradient norm, throughput), by key")
]
Loss: TypeAlias = Annotated[
    "Tensor | float",
    Field("the loss; a tensor is a detached scalar on its device", "of the loss function"),
]
LearningRates: TypeAlias = Annotated[
    Mapping[str, float],
    Field(
        "the learning rate now, by parameter group; of one of several optimizers with its name "
        "ahead (`g.0`)",
        "weight change per gradient",
    ),
]
Duration: TypeAlias = Annotated[
    float, Field("host time from the batch's start to its end; CUDA is asynchronous", "s")
]
DataWait: TypeAlias = Annotated[float, Field("host time that the loop waited for the batch", "s")]

# -- data

Loader: TypeAlias = Annotated[
    Any, Field("the loader of this epoch; a handler may return another in its place")
]
Batch: TypeAlias = Annotated[Any, Field("the batch, as the loader gave it or a handler made it")]
BatchSize: TypeAlias = Annotated[int, Field("how many samples the batch has", "samples")]
Outputs: TypeAlias = Annotated[
    Any, Field("what the model made of the batch, detached; for this emission only")
]
Targets: TypeAlias = Annotated[Any, Field("what it should have made of it; for this emission only")]

# -- what handlers tell each other

Tag: TypeAlias = Annotated[str, Field("what it shows; trackers file it under this name")]
Figure: TypeAlias = Annotated[Any, Field("a `matplotlib.figure.Figure`")]
Text: TypeAlias = Annotated[str, Field("the text itself; trackers may render it as Markdown")]
CheckpointPath: TypeAlias = Annotated[str, Field("where the checkpoint is")]
HandlerName: TypeAlias = Annotated[str, Field("the name of the handler's subscription")]
SignalName: TypeAlias = Annotated[str, Field("the signal that it was handling")]
RestoredParts: TypeAlias = Annotated[
    "RestoredState", Field("what was saved: each takes its own part by `state.take(key)`")
]
