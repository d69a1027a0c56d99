"""Move the learning rate by any scheduler of torch, after a warm-up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from eventbus import Event, Priority, handles

from ._arguments import On, When, count_given, signals_given
from ._monitor import Monitor
from ._one_run import OfOneRun
from ._parameter_groups import assign, rates_of, restore_rates, settings_of
from ._parts import Parts
from ._schedulers import check_scheduler, step_first
from ._waits_for_epochs import WaitsForEpochs

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["LRSchedule"]

_SIGNALS = {"step": "batch_finished", "epoch": "epoch_finished"}
_PRIORITY = Priority.PERSIST + 100  # after all who read the rate that the step was taken with


class LRSchedule(OfOneRun):
    """Step a scheduler of `torch.optim.lr_scheduler`, per step or per epoch.

    ==================  =====================================================================
    signals consumed    `batch_finished` (per step, while warming up, or with `metric`) or
                        `epoch_finished`, or that of `on`; `run_started`, `epoch_started`,
                        `run_finished`, `run_closed`
    values produced     `learning_rate_changed`: floats by parameter group (its "name", else its
                        number from 0; `head_2` where group 2 is a second "head"; `g.0` with
                        `optimizer="g"` where there are several), weight change per gradient; the
                        optimizer's rates
    cost                that of the scheduler, when it is stepped: some tens of µs. With `metric`,
                        reading it. No synchronisation, unless a learning rate is itself a tensor on
                        a device
    state               the scheduler's, the rates, those told last, the steps of warm-up done,
                        whether the metric came; starts anew with a run that does not resume
    band, errors        just before PERSIST, so that whoever logs the rate logs the one that the
                        step was taken with, and a checkpoint holds the next one; raised
    ==================  =====================================================================

    A rate that is told with step 100 is the one in force after step 100: step 101 is taken with it.
    A resumed run tells none again that was told before its checkpoint.

    Parameters
    ----------
    factory
        Makes the scheduler, once in each run: ``lambda optimizer: StepLR(optimizer, 30)``.
    per
        Whether the scheduler counts steps or epochs. An epoch that was interrupted is not counted:
        a resumed run does it again.
    metric
        The key in `metrics` that a `ReduceLROnPlateau` is fed with. An emission without it is
        passed over.
    warmup_steps
        So many optimizer steps with a rate that grows in a straight line: step s is taken with
        s / `warmup_steps` of the scheduler's first rate. The scheduler stands still meanwhile: step
        `warmup_steps` + k is taken with the rate that step k would have had without.
    optimizer
        Which one, where the run has several. Its rates are told with its name ahead: `g.0`.
    on
        The signal, or signals, to step the scheduler on in place of the one that `per` says:
        "validation_done".
    when
        A filter on stepping the scheduler.

    Attributes
    ----------
    scheduler : object or None
        The scheduler of the run under way.
    learning_rates : dict of str to float
        As told last; empty before the first.

    Raises
    ------
    TypeError
        When the scheduler is made: it is none.
    ValueError
        Likewise: it wants a metric and none was named, or the reverse.

    Examples
    --------
    >>> import torch
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import LRSchedule
    >>> bus = EventBus()
    >>> halve = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    >>> _ = bus.attach(LRSchedule(halve, per="epoch"))
    >>> @bus.on("learning_rate_changed")
    ... def show(step, learning_rates): print(step, learning_rates)
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    >>> loop = bus.bind(sender="train", optimizer=optimizer)
    >>> _ = loop.emit("run_started")
    0 {'0': 0.4}
    >>> optimizer.step()
    >>> _ = loop.emit("epoch_finished", epoch=1, step=10)
    10 {'0': 0.2}
    """

    def __init__(
        self,
        factory: Callable[[Optimizer], Any],
        *,
        per: Literal["step", "epoch"] = "epoch",
        metric: str | None = None,
        warmup_steps: int = 0,
        optimizer: str | None = None,
        on: On | None = None,
        when: When | None = None,
    ) -> None:
        _check(factory, per, warmup_steps)
        self.factory, self.warmup_steps = factory, warmup_steps
        signals = (_SIGNALS[per],) if on is None else signals_given(on)
        self.monitor = None if metric is None else Monitor("LRSchedule", metric, on=signals)
        self._optimizers = Parts("LRSchedule", "optimizer", optimizer)
        self._ahead = ""
        instead = 'per="step"' if on is None else 'on="batch_finished"'
        self._waits = WaitsForEpochs("LRSchedule", signals, instead)
        self._start_over()
        stepped = handles(*signals, when=when, priority=_PRIORITY)(self.advance)
        self.advance = stepped  # type: ignore[method-assign]  # marked with what was asked for
        if warmup_steps:
            # After `advance`, for which the warm-up still goes on in its own last step.
            warmed = handles("batch_finished", priority=_PRIORITY - 1)(self.warm_up)
            self.warm_up = warmed  # type: ignore[method-assign]  # likewise
        if metric is not None:
            noted = handles("batch_finished", priority=_PRIORITY)(self.note_step)
            self.note_step = noted  # type: ignore[method-assign]  # likewise

    def _start_over(self) -> None:
        self.scheduler: Any = None
        self.learning_rates: dict[str, float] = {}
        self._restored: dict[str, Any] = {}
        self._has_stepped = False
        self._has_trained = False
        self._warmed = 0
        self._step = 0
        if self.monitor is not None:
            self.monitor.reset()

    # -- the run

    @handles("run_started", priority=Priority.ALTER, background=False)
    def start(
        self,
        event: Event,
        resumed_from: str | None = None,
        optimizers: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the scheduler; forget that of an earlier run, unless this one resumes."""
        self._begin_run(event)
        self._has_trained = False
        self._waits.start(resumed_from)
        self.prepare(event, optimizers)

    @handles("epoch_started", priority=Priority.ALTER)
    def prepare(self, event: Event, optimizers: Mapping[str, Any] | None = None) -> None:
        """Make the scheduler, where there is none yet, and set the first rates."""
        optimizer = None if self.scheduler else self._optimizers.one(optimizers)
        if optimizer is None:
            return
        self._ahead = self._optimizers.ahead(optimizers or {})
        before = settings_of(optimizer)
        scheduler = self.factory(optimizer)
        check_scheduler(scheduler, self.monitor)
        self.scheduler = scheduler
        if self._restored:
            self._go_on(optimizer, before)
        elif self.warmup_steps:
            self._warm_to(1)
        if not self.learning_rates:  # else a resumed run goes on, and tells when they change
            self._tell(event)

    def _go_on(self, optimizer: Optimizer, before: list[dict[str, Any]]) -> None:
        """Undo what making a scheduler does to an optimizer, and give both their state."""
        state, self._restored = self._restored, {}
        for group, settings in zip(optimizer.param_groups, before, strict=True):
            for key, value in settings.items():
                assign(group, key, value)
        # The optimizer has its rates back, unless nobody saved it.
        restore_rates(optimizer, state["learning_rates"])
        self.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))

    def advance(self, event: Event, optimizers: Mapping[str, Any] | None = None) -> None:
        """Step the scheduler, unless the warm-up goes on."""
        if self.scheduler is None:
            self.prepare(event, optimizers)  # its first rate is for the next step
        elif self._warmed >= self.warmup_steps:
            self._step_scheduler(event)

    def _step_scheduler(self, event: Event) -> None:
        values: tuple[float, ...] = ()
        if self.monitor is not None:
            value = self.monitor.read(event.fields.get("metrics"))
            if value is None:
                return
            values = (value,)
        if self._has_stepped:
            self.scheduler.step(*values)
        else:
            step_first(self.scheduler, values)
        self._has_stepped = True
        self._tell(event)

    def warm_up(self, event: Event, optimizers: Mapping[str, Any] | None = None) -> None:
        """Count a step of the warm-up, and set the rate of the next one."""
        if self.scheduler is None:
            self.prepare(event, optimizers)
        elif self._warmed < self.warmup_steps:
            self._warmed += 1
            self._warm_to(min(self._warmed + 1, self.warmup_steps))
            self._tell(event)

    def note_step(self) -> None:
        """Note that a step was trained which the metric could have come after."""
        self._has_trained = self._warmed >= self.warmup_steps

    def _warm_to(self, step: int) -> None:
        fraction = step / self.warmup_steps
        groups = self.scheduler.optimizer.param_groups
        for group, rate in zip(groups, self.scheduler.get_last_lr(), strict=True):
            assign(group, "lr", rate * fraction)

    def _tell(self, event: Event) -> None:
        """Emit the rates, where they are not what was told last."""
        self._step = event.fields.get("step", self._step)
        rates = rates_of(self.scheduler.optimizer, self._ahead)
        if rates != self.learning_rates:
            self.learning_rates = rates
            event.bus.emit("learning_rate_changed", step=self._step, learning_rates=dict(rates))

    @handles("run_finished", priority=_PRIORITY)
    def finish(
        self, event: Event, reason: str, epoch: int | None = None, step: int | None = None
    ) -> None:
        """Warn where the signal, or the metric, never came, though it could have."""
        if (
            self._waits.warn(epoch, step)
            or self.monitor is None
            or self.monitor.seen
            or self.scheduler is None
        ):
            return
        # A run that was stopped may have had it still to come.
        if self.monitor.keys or (self._has_trained and reason == "completed"):
            self.monitor.warn_never_seen("the learning rate was never changed by it", event)

    @handles("run_closed", priority=Priority.PERSIST - 1)
    def release(self) -> None:
        """Let go of the optimizer; the state stays."""
        self._restored, self.scheduler = self.state_dict(), None

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state, the rates, and where the warm-up is."""
        if self.scheduler is None:
            return self._restored
        return {
            "scheduler": self.scheduler.state_dict(),
            "learning_rates": list(rates_of(self.scheduler.optimizer).values()),
            "told": dict(self.learning_rates),
            "warmed": self._warmed,
            "step": self._step,
            "seen": self.monitor is not None and self.monitor.seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; the scheduler is made when the run starts."""
        self._note_given()
        self._start_over()
        self._restored = dict(state)
        self.learning_rates = dict(state.get("told", {}))
        self._warmed, self._step = state.get("warmed", 0), state.get("step", 0)
        if self.monitor is not None:
            self.monitor.seen = state.get("seen", False)


def _check(factory: Any, per: str, warmup_steps: Any) -> None:
    if not callable(factory):
        kind = type(factory).__name__
        raise TypeError(
            f"LRSchedule takes what makes a scheduler, lambda optimizer: ...; got a {kind}"
        )
    if per not in _SIGNALS:
        raise ValueError(f"LRSchedule: per is 'step' or 'epoch', got {per!r}")
    count_given("LRSchedule", "warmup_steps", warmup_steps, least=0)
