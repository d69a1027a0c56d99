"""Hugging Face's Trainer from the inside: it tells its callbacks neither the loss nor a failure."""

from __future__ import annotations

import atexit
import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from transformers import Trainer, TrainerCallback

from eventbus.loops._closing import told_to

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from eventbus.loops._relay import Relay

__all__ = ["Guest", "bare", "load_luggage", "save_luggage", "unscale", "within_run"]

P = ParamSpec("P")


class Guest(TrainerCallback):
    """A callback that finds the Trainer it is in, steps between its methods, and sees it fail.

    Parameters
    ----------
    relay
        Ended by a failure of the Trainer.
    methods
        What to call in the place of a Trainer's, by name, while a run is open: with the Trainer and
        its own method put first.
    """

    def __init__(self, relay: Relay, methods: Mapping[str, Callable[..., Any]]) -> None:
        self._relay = relay
        self._methods = methods
        self._joined: weakref.WeakSet[Trainer] = weakref.WeakSet()
        self._trainer: Any = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Join the Trainer."""
        self._join(calling_trainer()[0])

    def _join(self, trainer: Trainer) -> None:
        self._trainer = trainer
        if trainer not in self._joined:
            self._joined.add(trainer)
            Detour(trainer, "train", functools.partial(self._train, trainer))
            for name, method in self._methods.items():
                Detour(trainer, name, functools.partial(self._around, method, trainer))

    def _around(
        self, method: Callable[..., Any], trainer: Trainer, call: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not self._relay.is_open or self._trainer is not trainer:
            return call(*args, **kwargs)
        with told_to(self._fail):
            return method(trainer, call, *args, **kwargs)

    def _train(self, trainer: Trainer, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except BaseException as error:
            if self._trainer is trainer:
                self._fail(error)
            raise

    def _arrive(self) -> str | None:
        """Begin a training; return the path of the checkpoint that it goes on from."""
        trainer, variables = calling_trainer()
        self._fail(RuntimeError("the Trainer began to train again"))
        self._join(trainer)
        atexit.register(self._fail_at_exit)
        path: str | None = variables.get("resume_from_checkpoint")
        return path

    # -- failures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._fail(error or RuntimeError("the Trainer left its training without a word"))

    def _fail(self, error: BaseException) -> None:
        self._let_go()
        self._relay.fail(error)

    def _fail_at_exit(self) -> None:
        self._fail(RuntimeError("the process ended within a training"))

    def _let_go(self) -> None:
        """The run is about to be closed."""
        atexit.unregister(self._fail_at_exit)
        self._trainer = None  # nor its model, however long this is kept


def within_run(method: Callable[P, None]) -> Callable[P, None]:
    """Call the hook while a run is open; have a failure in it end the run."""

    @functools.wraps(method)
    def hook(*args: P.args, **kwargs: P.kwargs) -> None:
        guest = args[0]
        assert isinstance(guest, Guest)
        if guest._relay.is_open:
            with told_to(guest._fail):
                method(*args, **kwargs)

    return hook


def calling_trainer() -> tuple[Trainer, Mapping[str, Any]]:
    """Return the Trainer that is calling its callbacks, and the variables it does so with.

    It is found up the stack: what callbacks are given holds no way to it.

    Raises
    ------
    RuntimeError
        Something else is calling.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer):
            return owner, frame.f_locals
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    raise RuntimeError("eventbus.loops.huggingface.Emitter is for a transformers.Trainer to call")


class Detour:
    """Stands in the place of a method of one Trainer and calls `around`, that method put first.

    A copy of the Trainer, in another process too, has its own method there.
    """

    def __init__(self, trainer: Trainer, name: str, around: Callable[..., Any]) -> None:
        call = getattr(trainer, name)
        functools.update_wrapper(self, call)
        self._place, self._around, self._call = (trainer, name), around, call
        setattr(trainer, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._around(self._call, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self._place


def unscale(trainer: Trainer, optimizer: Any) -> None:
    """Undo the scaling of float16 gradients, which the Trainer itself does only when it clips."""
    scaler = getattr(trainer.accelerator, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return
    if not scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"]:  # not done so far
        scaler.unscale_(optimizer)


def bare(optimizer: Any) -> Any:
    """Return the optimizer that Accelerate has wrapped."""
    return getattr(optimizer, "optimizer", optimizer)


def save_luggage(luggage: Mapping[str, Any], file: Path) -> None:
    """Write what is to ride in a checkpoint, whole or not at all."""
    part = file.with_suffix(".part")
    torch.save(luggage, part)
    part.replace(file)


def load_luggage(file: Path) -> Mapping[str, Any] | None:
    """Return what rode in a checkpoint; None where nothing did."""
    if not file.exists():
        return None
    luggage: Mapping[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return luggage
