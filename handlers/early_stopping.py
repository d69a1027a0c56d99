"""Stop a run when a metric has stopped improving."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal
from weakref import WeakKeyDictionary

from eventbus import Emitter, Event, Priority, Stop, handles
from eventbus.handlers._arguments import On, When, signals_given

from ._monitor import Mode, Monitor
from ._one_run import OfOneRun

__all__ = ["EarlyStopping"]

NonFinite = Literal["count", "ignore", "stop"]

logger = logging.getLogger("eventbus.handlers.early_stopping")
_restored_by: WeakKeyDictionary[Emitter, str] = WeakKeyDictionary()
"""By which metric the weights were put back at the end of a run."""


class EarlyStopping(OfOneRun):
    """Stop the run when a metric has not improved for `patience` observations.

    ==================  =====================================================================
    signals consumed    those of `on` that carry `metrics`; `run_started`, `run_finished`
    values produced     the answer `Stop`
    cost                each step: nothing. Each observation: reading one metric, a transfer from
                        the device; with `restore_best` a copy of the weights to the CPU at each
                        improvement
    state               best, best_epoch, best_step, last, count, observations, the best weights;
                        starts anew with a run that does not resume
    band, errors        DECIDE, and ALTER where it puts the best weights back; raised
    ==================  =====================================================================

    Parameters
    ----------
    metric
        The key in `metrics`. An emission without it is passed over, so several can watch several
        validations (`val_loss`, `test_loss`), each attached under its own `name=`.
    on
        The signal, or signals, on which the metric is observed. Where an epoch has several
        validations, "epoch_finished" lets all of them be done before it decides.
    patience
        Stop at this many observations in a row without improvement, at least 1; None for never,
        where only `stop_at` should stop.
    mode
        "min" where lower is better, "max" where higher is.
    min_delta
        By how much a value must beat the best to be an improvement; progress in smaller steps
        adds up, as the best stays where it was.
    when
        A filter on the observations.
    relative
        Take `min_delta` as a fraction of ``abs(best)``; right for negative scores too.
    stop_at
        Stop as soon as the metric is at least this good, whatever the patience.
    warmup
        The first so many observations never count against the patience; they may set the best.
    non_finite
        What NaN and the infinities do. None of them ever becomes the best. "count" takes them
        for an observation without improvement: one bad validation is forgiven, and a run that
        gives nothing else ends when the patience is spent. It is the default, since it ends
        the diverged run that "ignore" would let run on, without ending at once, as "stop"
        does, a run that recovers.
    restore_best
        Keep a copy of the weights at each improvement, and load it when the run has finished,
        before the handlers that you subscribe to `run_finished`, so that they save the best. What
        `Checkpoint` saves at the end are the last ones, to go on from. It changes the model; where
        it is off, nothing does. The copy is of what the model has on the signal of `on`: under
        ``EMA(validate=True)`` the averaged weights, which the metric is of, on `validation_done`,
        and the trained ones on any other.

    Attributes
    ----------
    best : float or None
        The last value that was an improvement; None before the first.
    best_epoch, best_step : int or None
        Where that was, counted from 1, where the signal tells.
    last : float or None
        The value of the last observation; None before the first.
    count : int
        Observations since the best one that count against the patience.
    observations : int
        All observations of this run.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import EarlyStopping
    >>> bus = EventBus()
    >>> stopping = EarlyStopping("val_loss", on="epoch_finished", patience=2)
    >>> _ = bus.attach(stopping)
    >>> loop = bus.bind(sender="train")
    >>> for epoch, loss in enumerate([0.9, 0.5, 0.6, 0.7], start=1):
    ...     answers = loop.emit("epoch_finished", epoch=epoch, step=10 * epoch,
    ...                         metrics={"val_loss": loss})
    >>> print(answers.stop.reason)
    val_loss has not improved on 0.5 (epoch 2, step 20) for 2 observations (patience 2)
    """

    def __init__(
        self,
        metric: str = "val_loss",
        *,
        on: On = "validation_done",
        patience: int | None = 3,
        mode: Mode = "min",
        min_delta: float = 0.0,
        when: When | None = None,
        relative: bool = False,
        stop_at: float | None = None,
        warmup: int = 0,
        non_finite: NonFinite = "count",
        restore_best: bool = False,
    ) -> None:
        _check(patience, stop_at, warmup, non_finite)
        signals = signals_given(on)
        self.monitor = Monitor("EarlyStopping", metric, mode, min_delta, relative, signals)
        self.patience, self.stop_at, self.warmup = patience, stop_at, warmup
        self.non_finite, self.restore_best = non_finite, restore_best
        self._start_over()
        thread = False if restore_best else None  # the weights change beside another thread
        marked = handles(*signals, when=when, priority=Priority.DECIDE, background=thread)
        self.decide = marked(self.decide)  # type: ignore[method-assign]  # stands in for it, for `attach` to find

    def _start_over(self) -> None:
        self.monitor.reset()
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.best_step: int | None = None
        self.last: float | None = None
        self.count = 0
        self.observations = 0
        self._best_weights: dict[str, Any] | None = None

    @handles("run_started", priority=Priority.DECIDE)
    def reset(self, event: Event) -> Stop | None:
        """Forget all of an earlier run, unless this one goes on from a checkpoint.

        A run that was stopped here is stopped again at once, not an observation later; more
        patience, or another `stop_at` or `non_finite`, lets it go on.
        """
        self._begin_run(event)
        _restored_by.pop(event.emitter, None)
        if not self.observations:
            return None
        last, best = (math.nan if value is None else value for value in (self.last, self.best))
        # The best too: it may reach a `stop_at` that the run was given only now.
        return self._verdict(last) or self._verdict(best)

    def decide(self, event: Event) -> Stop | None:
        """Take one observation, and say whether the run should stop."""
        value = self.monitor.read(event.fields.get("metrics"))
        if value is None:
            return None
        if not math.isfinite(value) and self.non_finite == "ignore":
            return None
        self.observations += 1
        self.last = value
        if self.monitor.improves(value, self.best):
            self._improve(value, event)
        elif self.observations > self.warmup:
            self.count += 1
        return self._verdict(value)

    def _improve(self, value: float, event: Event) -> None:
        self.best, self.count = value, 0
        self.best_epoch = event.fields.get("epoch")
        self.best_step = event.fields.get("step")
        if self.restore_best:
            self._best_weights = _copy_of_weights(event)

    def _verdict(self, value: float) -> Stop | None:
        name = self.monitor.metric
        if self.stop_at is not None and self.monitor.reaches(value, self.stop_at):
            return Stop(f"{name} reached {value:.6g} (stop_at {self.stop_at:.6g})")
        if not math.isfinite(value) and self.non_finite == "stop":
            return Stop(f"{name} is {value}; the best was {self._best_in_words()}")
        if self.patience is not None and self.count >= self.patience:
            observed = f"{self.count} observation{'' if self.count == 1 else 's'}"
            return Stop(
                f"{name} has not improved on {self._best_in_words()} for {observed} "
                f"(patience {self.patience})"
            )
        return None

    def _best_in_words(self) -> str:
        if self.best is None:
            return "anything finite"
        epoch = self.best_epoch or None  # 0: a loop without epochs
        places = {"epoch": epoch, "step": self.best_step}
        told = ", ".join(f"{name} {count}" for name, count in places.items() if count is not None)
        return f"{self.best:.6g} ({told})" if told else f"{self.best:.6g}"

    @handles("run_finished", priority=Priority.ALTER)
    def finish(self, event: Event) -> None:
        """Put the best weights back; warn where the metric never came."""
        if self.restore_best and self._best_weights is not None:
            self._put_back(self._best_weights, event)
        elif self.restore_best and self.best is not None:
            logger.warning(
                "the weights are the last ones: of the best %s none were kept, as the run had "
                "restore_best=False until then",
                self._best_in_words(),
            )
        if not self.monitor.seen and self.best is None:
            self.monitor.warn_never_seen("it could not stop the run", event)

    def _put_back(self, weights: dict[str, Any], event: Event) -> None:
        _load(weights, event)
        name = self.monitor.metric
        other = _restored_by.get(event.emitter)
        if other is not None:
            logger.warning(
                "the weights of the best %s take the place of those of the best %s: of two "
                "EarlyStopping in a run, restore_best=True is for one",
                name,
                other,
            )
        _restored_by[event.emitter] = name
        logger.info("the weights are those of the best %s", self._best_in_words())

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs in order to decide alike: plain Python and tensors."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_step": self.best_step,
            "last": self.last,
            "count": self.count,
            "observations": self.observations,
            "best_weights": self._best_weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._note_given()
        self.best = state["best"]
        self.best_epoch, self.best_step = state["best_epoch"], state["best_step"]
        self.count, self.observations = state["count"], state["observations"]
        self.last = state.get("last", self.best)  # states that are older have none
        self._best_weights = state["best_weights"]


def _check(patience: int | None, stop_at: float | None, warmup: int, non_finite: NonFinite) -> None:
    for name, count in (("patience", 1 if patience is None else patience), ("warmup", warmup)):
        if isinstance(count, bool) or not isinstance(count, Integral):
            raise TypeError(f"EarlyStopping: {name} is a whole number; got {count!r}")
    if stop_at is not None and not isinstance(stop_at, Real):
        raise TypeError(f"EarlyStopping: stop_at is a number or None; got {stop_at!r}")
    if patience is not None and patience < 1:
        raise ValueError(
            f"EarlyStopping: patience is at least 1 (stop at the first observation without "
            f"improvement) or None, got {patience!r}"
        )
    if stop_at is not None and not math.isfinite(stop_at):
        raise ValueError(f"EarlyStopping: stop_at is finite, got {stop_at!r}")
    if patience is None and stop_at is None:
        raise ValueError("EarlyStopping: with patience=None it needs a stop_at, or never stops")
    if warmup < 0:
        raise ValueError(f"EarlyStopping: warmup is at least 0, got {warmup!r}")
    if non_finite not in ("count", "ignore", "stop"):
        raise ValueError(
            f"EarlyStopping: non_finite is 'count', 'ignore' or 'stop', got {non_finite!r}"
        )


def _models(event: Event) -> dict[str, Any]:
    several = event.context.get("models")
    return dict(several) if several else {"": event.from_context("model")}


def _copy_of_weights(event: Event) -> dict[str, Any]:
    """Copy all weights to the CPU (a device synchronisation), by model, then by name."""
    return {
        name: {key: _copied(value) for key, value in model.state_dict().items()}
        for name, model in _models(event).items()
    }


def _copied(value: Any) -> Any:
    # A CPU tensor must be cloned: training goes on in place.
    return value.detach().to("cpu", copy=True) if hasattr(value, "detach") else value


def _load(weights: dict[str, Any], event: Event) -> None:
    models = _models(event)
    for name, state in weights.items():
        models[name].load_state_dict(state)
