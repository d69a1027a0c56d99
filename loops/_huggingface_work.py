"""What Hugging Face's Trainer does between the hooks of its callbacks: batches and evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from time import perf_counter
from typing import Any

from torch import Tensor
from transformers import Trainer

from eventbus.loops._gradients import hold_gradients
from eventbus.loops._metrics import scalars
from eventbus.loops._nested import first_size
from eventbus.loops._relay import Relay

__all__ = ["Work"]

SPEED = ("model_preparation_time", "jit_compilation_time")
"""Among the results of an evaluation: no metrics."""

Call = Callable[..., Any]


class Work:
    """Tells a relay of the batches that a Trainer trains and evaluates.

    Its methods are called in the place of the Trainer's, which they are given first.

    Attributes
    ----------
    METHODS : tuple of str
        Of the Trainer, and of this.
    batches : int
        That were trained on in this epoch.
    loss : Tensor or None
        Of the last micro-batch.
    """

    METHODS = ("get_batch_samples", "training_step", "evaluation_loop", "prediction_step")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.batches = 0
        self.loss: Any = None
        self._sizes: list[int] = []  # of the micro-batches of this step
        self._wait_s: float | None = None
        self._outputs: Any = None
        self._is_cut = False

    def see_outputs(self, module: Any, args: Any, outputs: Any) -> None:
        """Keep what the model made of the batch under way: a forward hook."""
        self._outputs = outputs

    def forget(self) -> None:
        """Hold no tensor any longer."""
        self.loss = self._outputs = None

    # -- training

    def get_batch_samples(self, trainer: Trainer, call: Call, *args: Any, **kwargs: Any) -> Any:
        """Load the micro-batches of a step."""
        began_s = perf_counter()
        samples, items = call(*args, **kwargs)
        self._wait_s = perf_counter() - began_s
        self._sizes = [first_size(one) or 1 for one in samples]
        return samples, items

    def training_step(
        self, trainer: Trainer, call: Call, model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Compute loss and gradients of a micro-batch."""
        self.batches += 1
        wait_s, self._wait_s = self._wait_s, None
        batch = self._relay.load_batch(inputs, wait_s)
        if self._relay.passes_over:
            return self._passed_over(trainer, call, model, batch, *args, **kwargs)
        loss = call(model, batch, *args, **kwargs)
        self.loss = self._as_mean(loss, batch)
        self._relay.record(loss=self.loss, **self._read(trainer, batch))
        return loss

    def _passed_over(self, trainer: Trainer, call: Call, *args: Any, **kwargs: Any) -> Any:
        assert trainer.optimizer is not None
        hooks = hold_gradients([trainer.optimizer])
        try:
            return call(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def _as_mean(self, loss: Any, batch: Any) -> Any:
        # A Trainer's losses of micro-batches add up to that of the step; those of a relay have it
        # for their mean, weighted by size.
        if len(self._sizes) <= 1:
            return loss
        return loss * (sum(self._sizes) / (first_size(batch) or 1))

    def _read(self, trainer: Trainer, batch: Any) -> dict[str, Any]:
        outputs, self._outputs = self._outputs, None
        told = {
            "outputs": read_outputs(outputs),
            "targets": read_labels(batch, trainer.label_names),
        }
        return {key: value for key, value in told.items() if value is not None}

    # -- evaluation

    def evaluation_loop(self, trainer: Trainer, call: Call, *args: Any, **kwargs: Any) -> Any:
        """Evaluate on one data set, or predict, of which nothing is told."""
        given = signature(call).bind(*args, **kwargs).arguments
        if given["description"] != "Evaluation":
            return call(*args, **kwargs)
        prefix = given.get("metric_key_prefix", "eval")
        self._is_cut = False
        self._relay.begin_validation(name_of(prefix))
        output = call(*args, **kwargs)
        results = {} if self._is_cut else _results(output.metrics, prefix)
        self._relay.end_validation(results, complete=not self._is_cut)
        return output

    def prediction_step(
        self, trainer: Trainer, call: Call, model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Evaluate a batch."""
        relay = self._relay
        if relay.in_validation and relay.stop is not None:
            self._is_cut = True
            relay.say(f"{relay.framework} evaluates to the end after a Stop, which is not told of")
        if not relay.in_validation or self._is_cut:
            return call(model, inputs, *args, **kwargs)
        relay.begin_validation_batch(inputs)
        loss, logits, labels = call(model, inputs, *args, **kwargs)
        told = {} if loss is None else {"loss": loss}
        relay.end_validation_batch(**told, **self._read(trainer, inputs))
        return loss, logits, labels


def name_of(prefix: str) -> str:
    """Return the name of the validation whose metrics a Trainer gives this prefix.

    Examples
    --------
    >>> name_of("eval"), name_of("eval_french"), name_of("test")
    ('val', 'val_french', 'test')
    """
    if prefix == "eval" or prefix.startswith("eval_"):
        return f"val{prefix.removeprefix('eval')}"
    return prefix


def _results(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    named = {key.removeprefix(f"{prefix}_"): value for key, value in metrics.items()}
    return {key: value for key, value in scalars(named).items() if key not in SPEED}


def read_outputs(outputs: Any) -> Any:
    """Return what a model made of a batch, without the loss that it returns beside.

    Examples
    --------
    >>> import torch
    >>> read_outputs({"loss": torch.tensor(0.5), "logits": torch.ones(1), "hidden_states": ()})
    tensor([1.])
    >>> read_outputs((torch.tensor(0.5), torch.ones(1)))
    tensor([1.])
    """
    if isinstance(outputs, Mapping):
        if "logits" in outputs:
            return outputs["logits"]
        return {key: value for key, value in outputs.items() if key != "loss"}
    if isinstance(outputs, tuple) and outputs and _is_loss(outputs[0]):
        return outputs[1] if len(outputs) == 2 else outputs[1:]
    return outputs


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


def read_labels(batch: Any, names: list[str]) -> Any:
    """Return the targets in a batch: the only one, or all by name; None where there are none."""
    if not isinstance(batch, Mapping):
        return None
    found = {name: batch[name] for name in names if batch.get(name) is not None}
    return next(iter(found.values())) if len(found) == 1 else found or None
