"""Ignite's evaluators: their runs within a training are its validations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from eventbus.loops._metrics import scalars

if TYPE_CHECKING:
    from ignite.engine import Engine
    from torch import nn

    from eventbus.loops._relay import Relay

__all__ = ["Evaluation"]


class Evaluation:
    """The runs of one evaluator, as validations.

    Parameters
    ----------
    prepare
        Called before each: the run may be about to begin.
    """

    def __init__(
        self,
        relay: Relay,
        name: str,
        evaluator: Engine,
        loss_fn: nn.Module | None,
        prepare: Callable[[], None],
    ) -> None:
        self._relay = relay
        self._prepare = prepare
        self._name = name
        self._evaluator = evaluator
        self._loss_fn = loss_fn
        self._is_cut = False

    def start(self, evaluator: Engine) -> None:
        """Begin, where a training is under way."""
        self._is_cut = False
        self._prepare()
        if self._relay.is_open:
            self._relay.begin_validation(self._name)
            self._obey()

    def start_batch(self, evaluator: Engine) -> None:
        """Begin a batch."""
        self._relay.begin_validation_batch(evaluator.state.batch)

    def end_batch(self, evaluator: Engine) -> None:
        """End a batch."""
        self._relay.end_validation_batch(**self._read(evaluator.state.output))
        if evaluator.state.iteration != evaluator.state.epoch_length:
            self._obey()

    def _read(self, output: Any) -> dict[str, Any]:
        # By default an evaluator's output is what its metrics take: outputs and targets.
        if not _is_pair(output):
            return {}
        named = {"outputs": output[0], "targets": output[1]}
        if self._loss_fn is None or not self._relay.is_heard("validation_batch_finished"):
            return named
        return {**named, "loss": self._loss_fn(*output)}

    def finish(self, evaluator: Engine) -> None:
        """Take the metrics that it has computed."""
        results = {} if self._is_cut else scalars(evaluator.state.metrics)
        self._relay.end_validation(results, complete=not self._is_cut)

    def _obey(self) -> None:
        if self._relay.stop is not None:
            self._is_cut = True
            self._evaluator.terminate()


def _is_pair(output: Any) -> bool:
    is_tuple = isinstance(output, tuple) and len(output) == 2
    return is_tuple and all(isinstance(one, Tensor) for one in output)
