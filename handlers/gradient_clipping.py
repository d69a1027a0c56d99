"""Keep gradients from becoming too large."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus import EventBus, Priority, handles

from ._arguments import When, number_given
from ._parts import Parts

if TYPE_CHECKING:
    from torch.nn import Parameter

__all__ = ["GradientClipping"]

logger = logging.getLogger("eventbus.handlers.gradient_clipping")


class GradientClipping:
    """Clip the gradients by their norm, or by value, before the optimizer steps.

    ==================  =====================================================================
    signals consumed    `backward_finished`; `batch_finished`, `run_started`, `run_finished`
    values produced     `metrics_measured` with `gradient_norm`: the norm over all gradients before
                        clipping, a scalar tensor on its device, unread; only when clipping by norm
                        (`g.gradient_norm` with `model="g"` where there are several). The
                        gradients, in place
    cost                two passes over the gradients by norm, one by value; no synchronisation
    state               none
    band, errors        ALTER; raised
    ==================  =====================================================================

    The loop has to emit `backward_finished`, with gradients that are unscaled. Where it trained
    steps and emitted none, or never had a gradient there, a line at the end of the run says that
    nothing was clipped.

    Parameters
    ----------
    max_norm
        Scale all gradients down together so that their norm is at most this, above 0 (Pascanu et
        al., 2013, "On the difficulty of training recurrent neural networks", algorithm 1).
        ``math.inf`` clips nothing, and only measures.
    max_value
        Clamp each element to between -`max_value` and `max_value`, above 0. Give one of the two.
    norm_type
        Which p-norm; ``math.inf`` for the largest magnitude.
    model
        Whose gradients, where the run has several models; its name is ahead of the norm's then:
        `g.gradient_norm`. Unless given those of all, as one vector, in which a parameter that
        models share counts once.
    when
        A filter on the steps.

    Examples
    --------
    >>> import torch
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import GradientClipping
    >>> bus = EventBus()
    >>> _ = bus.attach(GradientClipping(max_norm=1.0))
    >>> @bus.on("metrics_measured")
    ... def show(metrics): print(metrics)
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.grad = torch.tensor([[3.0, 4.0]])
    >>> _ = bus.bind(sender="train", model=model).emit("backward_finished", epoch=1, step=1)
    {'gradient_norm': tensor(5.)}
    >>> model.weight.grad
    tensor([[0.6000, 0.8000]])
    """

    def __init__(
        self,
        max_norm: float | None = None,
        *,
        max_value: float | None = None,
        norm_type: float = 2.0,
        model: str | None = None,
        when: When | None = None,
    ) -> None:
        _check(max_norm, max_value, norm_type)
        self.max_norm, self.max_value, self.norm_type = max_norm, max_value, norm_type
        self._models = Parts("GradientClipping", "model", model)
        self.start()
        clipping = handles(
            "backward_finished", when=when, priority=Priority.ALTER, background=False
        )
        self.clip = clipping(self.clip)  # type: ignore[method-assign]  # marked with what was asked for

    def clip(self, bus: EventBus, models: Mapping[str, Any] | None = None) -> None:
        """Clip the gradients of a step; the norm is passed on without being read."""
        from torch.nn.utils import clip_grad_norm_, clip_grad_value_

        with_gradient = _with_gradient(self._models.all(models))
        if not with_gradient:
            self._lacked_gradients = True
            return
        self._had_gradients = True
        if self.max_value is not None:
            clip_grad_value_(with_gradient, self.max_value)
        if self.max_norm is not None:
            norm = clip_grad_norm_(with_gradient, self.max_norm, self.norm_type)
            name = f"{self._models.ahead(models or {})}gradient_norm"
            bus.emit("metrics_measured", metrics={name: norm})

    # -- whether it could

    @handles("run_started", priority=Priority.ALTER)
    def start(self) -> None:
        """Forget what an earlier run has emitted."""
        self._has_heard_backward = self._has_heard_step = False
        self._had_gradients = self._lacked_gradients = False  # where it was due

    @handles("backward_finished", priority=Priority.ALTER)
    def hear_gradients(self) -> None:
        """Note that gradients may be clipped, where the filter lets them."""
        self._has_heard_backward = True

    @handles("batch_finished", priority=Priority.ALTER)
    def hear_step(self) -> None:
        """Note that a step was trained."""
        self._has_heard_step = True

    @handles("run_finished", priority=Priority.ALTER)
    def finish(self) -> None:
        """Warn where steps were trained, and nothing could be clipped."""
        if not self._has_heard_step:
            return
        if not self._has_heard_backward:
            logger.warning(
                "GradientClipping could clip nothing: the loop emits no backward_finished"
            )
        elif self._lacked_gradients and not self._had_gradients:
            logger.warning(
                "GradientClipping could clip nothing: no parameter had a gradient when "
                "backward_finished was emitted; emit it between loss.backward() and the step"
            )


def _with_gradient(models: Mapping[str, Any]) -> list[Parameter]:
    """Return the parameters that have a gradient; one that several models share counts once."""
    each = (parameter for model in models.values() for parameter in model.parameters())
    return [parameter for parameter in dict.fromkeys(each) if parameter.grad is not None]


def _check(max_norm: float | None, max_value: float | None, norm_type: float) -> None:
    if (max_norm is None) == (max_value is None):
        raise ValueError(
            "GradientClipping takes one of max_norm and max_value; "
            f"got max_norm={max_norm!r}, max_value={max_value!r}"
        )
    limits = {"max_norm": max_norm, "max_value": max_value, "norm_type": norm_type}
    for name, limit in limits.items():
        if limit is not None:
            number_given("GradientClipping", name, limit)
        if limit is not None and (math.isnan(limit) or limit <= 0):
            raise ValueError(f"GradientClipping: {name} is above 0, got {limit!r}")
