"""An exponential moving average of the weights, and validation with it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from eventbus import Event, EventBus, Priority, handles

from ._arguments import On, When, number_given, signals_given
from ._one_run import OfOneRun
from ._parts import Parts, bare

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim.swa_utils import AveragedModel

__all__ = ["EMA"]

logger = logging.getLogger("eventbus.handlers.ema")

_trained: weakref.WeakKeyDictionary[Module, list[Tensor]] = weakref.WeakKeyDictionary()
"""The own weights of models that an EMA has lent its average."""

_CAST_AT_ONCE = 8  # tensors; all at once would take another copy of the model

_CUT_SHORT = ("validation_interrupted", "batch_started", "run_failed", "run_closed")
"""What ends a validation otherwise; a step, where the loop has caught what failed in a handler."""

_DECIDED = Priority.DECIDE - 1  # after those that keep what was measured, before those that save


class EMA(OfOneRun):
    """Average the weights exponentially: ``average = decay * average + (1 - decay) * weights``.

    The average is a `torch.optim.swa_utils.AveragedModel`, with `get_ema_multi_avg_fn` and buffers;
    it begins as a copy of the weights after the first step. Buffers of whole numbers or truth
    values are copied, since averaging would round them. Weights narrower than 32 bits (bfloat16,
    float16) are averaged in float32, since an average in their own type would lose what a step adds
    to it; they are rounded only in the model that has the average for a validation.

    ==================  =====================================================================
    signals consumed    that of `on`; `run_started`; with `validate` also `validation_started`,
                        and during one `validation_done`, `validation_interrupted`,
                        `batch_started`, `run_failed`, `run_closed`, `state_requested`
    values produced     `averaged`; with `validate` the model's weights during a validation
    cost                each step: one pass over the weights, no synchronisation. Memory: one copy
                        of the model, of weights narrower than 32 bits in float32; a second one, as
                        they are, during a validation with it
    state               the averaged weights and how often they were updated; starts anew with a
                        run that does not resume
    band, errors        MEASURE for the average; for the weights of a validation ALTER, and just
                        after DECIDE where it is done; raised
    ==================  =====================================================================

    Parameters
    ----------
    decay
        From 0 to below 1; about ``1 / (1 - decay)`` steps are averaged.
    validate
        Have validations see the averaged weights, and the handlers of `validation_done` down to
        those that decide: what `EarlyStopping(restore_best=True)` keeps is what was measured. The
        trained ones are put back, bit for bit, before those that report and save; where a
        validation was interrupted or the run failed, before anybody else hears of that; at once
        where this is detached meanwhile. So what your own handlers of `validation_done` do to the
        weights is lost, unless their priority is below DECIDE. A second one that would lend the
        same model its average warns, and does not.
    model
        Which one, where the run has several.
    on
        The signal, or signals, to update on.
    when
        A filter on it: ``every(10)`` steps, ``from_(1000)``.

    Attributes
    ----------
    averaged : torch.optim.swa_utils.AveragedModel or None
        Call it, or save `averaged.module`; None before the first update, but there as soon as a
        resumed run has started. It is on the model's device, in evaluation mode, and in float32
        where the model is narrower: it takes inputs of float32, or
        ``copy.deepcopy(ema.averaged.module).to(torch.bfloat16)`` is as the model is.
    updates : int
        How often it was updated.

    Examples
    --------
    >>> import torch
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import EMA
    >>> bus, ema = EventBus(), EMA(decay=0.5)
    >>> _ = bus.attach(ema)
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> loop = bus.bind(sender="train", model=model)
    >>> for step, weight in enumerate([1.0, 3.0, 5.0], start=1):
    ...     _ = model.weight.data.fill_(weight)
    ...     _ = loop.emit("batch_finished", epoch=1, step=step)
    >>> ema.averaged.module.weight.item()       # (1 + 3) / 2 = 2, then (2 + 5) / 2
    3.5

    In a checkpoint the part `model` holds the trained weights, to go on from, also in the best one
    of a run that validates with the average. The averaged ones are in the part `EMA`, and load into
    a plain model:

    >>> import tempfile
    >>> from eventbus.handlers import Checkpoint
    >>> checkpoint = Checkpoint(tempfile.mkdtemp())
    >>> _ = bus.attach(checkpoint)
    >>> _ = loop.emit("epoch_finished", epoch=1, step=3, metrics={"val_loss": 0.1})
    >>> best = torch.nn.Linear(1, 1, bias=False)
    >>> best.load_state_dict(Checkpoint.weights(checkpoint.best_path, part="EMA.averaged"))
    <All keys matched successfully>
    >>> best.weight.item()
    3.5

    `Checkpoint.export` writes them likewise, with ``part="EMA.averaged"``. For a model that is
    narrower than float32 they are float32.
    """

    def __init__(
        self,
        decay: float = 0.999,
        *,
        validate: bool = False,
        model: str | None = None,
        on: On = "batch_finished",
        when: When | None = None,
    ) -> None:
        number_given("EMA", "decay", decay)
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA: decay is from 0 to below 1, got {decay!r}")
        self.decay, self.validate = decay, validate
        self._models = Parts("EMA", "model", model)
        self._lent: tuple[Module, EventBus] | None = None  # to which, and on which bus
        self._start_over()
        signals = signals_given(on)
        updating = handles(*signals, when=when, priority=Priority.MEASURE, background=False)
        self.update = updating(self.update)  # type: ignore[method-assign]  # marked with what was asked for
        if validate:
            self._mark_exchange()

    def _mark_exchange(self) -> None:
        began = handles("validation_started", priority=Priority.ALTER)(self.lend)
        self.lend = began  # type: ignore[method-assign]  # likewise

    def _start_over(self) -> None:
        self.averaged: AveragedModel | None = None
        self.updates = 0
        self._restored: dict[str, Tensor] = {}

    @handles("run_started", priority=Priority.MEASURE)
    def start(self, event: Event) -> None:
        """Forget the average of an earlier run, unless this one resumes: then have it ready."""
        self._begin_run(event)
        if self._restored:  # nothing may be left to train, and to update it on
            model = self._model(event)
            if model is not None:
                self._averaged_of(model)

    # -- the average

    def update(self, models: Mapping[str, Any] | None = None) -> None:
        """Count the weights as they are now."""
        model = self._bare_one(models)  # asked for by name: not to be had in the background
        if model is None:
            return
        average = self._averaged_of(model)
        self._count_in(_tensors(average.module), _trained.get(model) or _tensors(model))
        self.updates += 1
        average.n_averaged += 1  # on the CPU: AveragedModel's own update would wait for the device

    def _model(self, event: Event) -> Module | None:
        return self._bare_one(event.context.get("models"))

    def _bare_one(self, models: Mapping[str, Any] | None) -> Module | None:
        model = self._models.one(models)
        return None if model is None else bare(model)

    def _averaged_of(self, model: Module) -> AveragedModel:
        """Return the average; made here at first, where the weights are on their device."""
        if self.averaged is None:
            with _plain_tensors():
                self.averaged = _made_for(model)
                if self._restored:
                    self.averaged.load_state_dict(self._restored)
            self._restored = {}
        return self.averaged

    def _count_in(self, average: list[Tensor], weights: list[Tensor]) -> None:
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        blend = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]  # torch's
        with _plain_tensors():
            for averages, values in _grouped(average, weights):
                if self.updates and _can_blend(averages[0]):
                    blend(averages, _as_those(averages, values), self.updates)
                else:
                    _copy(values, averages)

    # -- validation with it

    def lend(self, event: Event) -> None:
        """Give the model the averaged weights, where there are some."""
        model = self._model(event)
        if model is None or self._lent is not None or not self.updates:
            return
        if model in _trained:
            logger.warning("this EMA lends no average: the model has that of another EMA")
            return
        averaged = self._averaged_of(model)
        self._hear_the_end(event)
        self._lent = model, event.bus
        with _plain_tensors():
            # All are kept before the first is changed: Ctrl-C in between loses nothing.
            _trained[model] = [tensor.clone() for tensor in _tensors(model)]
            _copy(_tensors(averaged.module), _tensors(model))

    def _hear_the_end(self, event: Event) -> None:
        """Subscribe here to what ends it: no filter that this is attached with keeps it out."""
        sender = event.sender if event.emitter.inner else None
        hear = partial(event.bus.on, sender=sender, name="EMA")
        hear("validation_done", priority=_DECIDED)(self.put_back)
        hear(*_CUT_SHORT, priority=Priority.ALTER)(self.put_back)
        hear("state_requested", priority=Priority.ALTER)(self.protect)

    def put_back(self, event: Event) -> None:
        """Give the model its own weights again, where it has not got them."""
        self.on_detach(event.bus)

    def on_detach(self, bus: EventBus) -> None:
        """Give the model its own weights again, where it was on this bus that it lost them."""
        if self._lent is None or self._lent[1] is not bus:
            return
        model, _ = self._lent
        if model in _trained:
            with _plain_tensors():
                _copy(_trained[model], _tensors(model))
            del _trained[model]  # not before: Ctrl-C in the copy is made up for as the run fails
        self._lent = None
        bus.detach(self.put_back)
        bus.detach(self.protect)

    def protect(self, event: Event) -> None:
        """Keep the averaged weights out of a checkpoint that is made during a validation."""
        if self._lent is not None:
            self.put_back(event)
            logger.warning(
                "a checkpoint is made during a validation: what is left of it is validated with "
                "the trained weights, not with the averaged ones"
            )

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights, as they are on their device, and the number of updates.

        Those that are averaged in float32 are float32 here, so that a resumed run goes on exactly.
        """
        averaged = self._restored if self.averaged is None else self.averaged.state_dict()
        return {"averaged": dict(averaged), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; it goes to the model's device when the run starts.

        Weights saved in a narrower type go on in the one that they are averaged in.
        """
        self._note_given()
        self.averaged = None
        self._restored, self.updates = dict(state["averaged"]), state["updates"]


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Work on weights without a graph, also inside `torch.inference_mode`.

    A tensor that is made there could not be changed outside again.
    """
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


def _made_for(model: Module) -> AveragedModel:
    from torch.optim.swa_utils import AveragedModel

    averaged = AveragedModel(model, use_buffers=True)
    averaged.n_averaged = averaged.n_averaged.cpu()  # `torch.set_default_device` may lead elsewhere
    averaged.requires_grad_(False)
    for tensor in (*averaged.parameters(), *averaged.buffers()):
        if tensor.is_floating_point() and tensor.itemsize < 4:
            tensor.data = tensor.data.float()
    return averaged.eval()


def _tensors(model: Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def _grouped(
    averages: list[Tensor], values: list[Tensor]
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Pair the tensors of two models, by device and type, as one kernel takes them.

    Those that have to be cast for it are in groups of a few.
    """
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for number, (averaged, value) in enumerate(zip(averages, values, strict=True)):
        part = 0 if averaged.dtype == value.dtype else number // _CAST_AT_ONCE
        key = averaged.device, averaged.dtype, value.dtype, part
        group = groups.setdefault(key, ([], []))
        group[0].append(averaged)
        group[1].append(value)
    return list(groups.values())


def _as_those(averages: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    return [v.to(a.device, a.dtype) for a, v in zip(averages, values, strict=True)]


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _can_blend(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
