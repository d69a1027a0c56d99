"""What a handler may want of the loop, and what `emit` hands back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

from eventbus.arguments import called_as
from eventbus.errors import AttachError
from eventbus.frozen import Frozen

__all__ = ["Answer", "Answers", "Restored", "SkipBatch", "State", "Stop", "StopEpoch"]


class Answer(Frozen):
    """The root of what a handler may return to be heard; use one of its children.

    Examples
    --------
    >>> from eventbus import Answer, Stop
    >>> isinstance(Stop("enough"), Answer)
    True
    """


class Request(Answer):
    """An answer that stays pending until the loop's span that it is about has ended."""

    _ASIDE = frozenset({"by"})
    __match_args__ = ("reason",)
    reason: str
    by: str

    @called_as()
    def __init__(self, reason: str, *, by: str = "") -> None:
        if not isinstance(reason, str) or not reason:
            kind = type(self).__name__
            raise TypeError(f"{kind} takes a reason, a non-empty string; got {reason!r}")
        self._set(reason=reason, by=by)

    def signed(self, by: str) -> Self:
        """Return the same answer with the name of who gave it, unless it has one."""
        return self if self.by else self.but(by=by)


class Stop(Request):
    """End the run at the next safe point; pending until the run is closed.

    Parameters
    ----------
    reason
        One line for people: it rides on `run_finished`.
    exit_code
        A `Run` raises `SystemExit(exit_code)` after it is closed, where this is given.
    by
        Who gave it; filled in by the bus.

    Examples
    --------
    >>> from eventbus import EventBus, Stop
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def enough(epoch): return Stop("enough") if epoch >= 3 else None
    >>> loop = bus.bind(sender="train")
    >>> loop.emit("epoch_finished", epoch=2, step=20).stop
    >>> loop.emit("epoch_finished", epoch=3, step=30).stop
    Stop(reason='enough', by='enough', exit_code=None)
    """

    __match_args__ = ("reason", "exit_code")
    exit_code: int | None

    @called_as()
    def __init__(self, reason: str, exit_code: int | None = None, *, by: str = "") -> None:
        super().__init__(reason, by=by)
        is_code = isinstance(exit_code, int) and not isinstance(exit_code, bool)
        if exit_code is not None and not is_code:
            raise TypeError(f"Stop: exit_code is a whole number or None; got {exit_code!r}")
        self._set(exit_code=exit_code)


class StopEpoch(Request):
    """End this epoch at the next safe point; pending until the epoch has ended.

    Examples
    --------
    >>> from eventbus import StopEpoch
    >>> StopEpoch("seen enough data").reason
    'seen enough data'
    """


class SkipBatch(Request):
    """Take no optimizer step on this batch; pending until the batch has ended.

    Examples
    --------
    >>> from eventbus import EventBus, SkipBatch
    >>> bus = EventBus()
    >>> @bus.on("backward_finished")
    ... def guard(loss): return SkipBatch("loss is not finite") if loss != loss else None
    >>> bus.bind().emit("backward_finished", epoch=1, step=7, loss=float("nan")).skip.reason
    'loss is not finite'
    """


class State(Answer):
    """One part of the state of a run, in answer to `state_requested`.

    Parameters
    ----------
    key
        The name under which the part is kept and comes back with `state_restored`.
    value
        Tensors and plain Python only (what `torch.load(weights_only=True)` accepts).
    exact
        False where a run that went on from this part would not go on as this one does, as in the
        middle of a step: who saves, and can wait for a later signal, does.

    Examples
    --------
    >>> from eventbus import EventBus, State
    >>> bus = EventBus()
    >>> @bus.on("state_requested")
    ... def give(): return State("seen", 12)
    >>> bus.emit("state_requested").state
    {'seen': 12}
    """

    __match_args__ = ("key", "value")
    key: str
    value: Any
    exact: bool = True

    def __init__(self, key: str, value: Any, *, exact: bool = True) -> None:
        if not isinstance(key, str) or not key:
            raise TypeError(f"State takes a key, a non-empty string; got {key!r}")
        self._set(key=key, value=value)
        if not exact:
            self._set(exact=False)


class Restored(Answer):
    """The run goes on from the checkpoint at `path`, in answer to `run_opened`.

    Examples
    --------
    >>> from eventbus import EventBus, Restored
    >>> bus = EventBus()
    >>> @bus.on("run_opened")
    ... def resume(): return Restored("runs/digits/step-120")
    >>> bus.emit("run_opened").restored.path
    'runs/digits/step-120'
    """

    __match_args__ = ("path",)
    path: str

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or not path:
            raise TypeError(f"Restored takes the path of the checkpoint; got {path!r}")
        self._set(path=os.fspath(path))


R = TypeVar("R", bound=Answer)


class Answers(Frozen):
    """What `emit` returns: all pending answers of the run, and those of this very emission.

    Attributes
    ----------
    pending : tuple of Request
        In the order they were given; none can be taken back.
    given : tuple of (str, Answer)
        What was given in this emission, with the name of who gave it.

    Examples
    --------
    >>> from eventbus import Answers, Stop, StopEpoch
    >>> answers = Answers(pending=(StopEpoch("first"), Stop("second"), Stop("third")))
    >>> answers.stop.reason, answers.stop_epoch.reason, answers.skip
    ('second', 'first', None)
    >>> [answer.reason for answer in answers]
    ['first', 'second', 'third']
    """

    NONE: ClassVar[Answers]
    pending: tuple[Request, ...]
    given: tuple[tuple[str, Answer], ...]

    def __init__(
        self,
        pending: tuple[Request, ...] = (),
        given: tuple[tuple[str, Answer], ...] = (),
    ) -> None:
        self._set(pending=pending, given=given)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.pending)

    def __len__(self) -> int:
        return len(self.pending)

    @property
    def stop(self) -> Stop | None:
        """The first pending `Stop`, or None."""
        return first(Stop, self.pending)

    @property
    def stop_epoch(self) -> StopEpoch | None:
        """The first pending `StopEpoch`, or None."""
        return first(StopEpoch, self.pending)

    @property
    def skip(self) -> SkipBatch | None:
        """The first pending `SkipBatch`, or None."""
        return first(SkipBatch, self.pending)

    @property
    def restored(self) -> Restored | None:
        """The first `Restored` of this emission, or None."""
        return first(Restored, tuple(answer for _, answer in self.given))

    @property
    def state(self) -> Mapping[str, Any]:
        """The parts of state given in this emission, by key.

        Raises
        ------
        AttachError
            Two gave the same key.
        """
        parts: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for by, answer in self.given:
            if isinstance(answer, State):
                if answer.key in parts:
                    raise AttachError(_clash(answer.key, owners[answer.key], by), handler=by)
                parts[answer.key], owners[answer.key] = answer.value, by
        return parts

    @property
    def exact(self) -> bool:
        """True where each part of the state given in this emission is one to go on from exactly."""
        return all(answer.exact for _, answer in self.given if isinstance(answer, State))


Answers.NONE = Answers()


def first(kind: type[R], answers: tuple[Answer, ...]) -> R | None:
    """Return the first answer of that kind, or None."""
    for answer in answers:
        if isinstance(answer, kind):
            return answer
    return None


def _clash(key: str, one: str, other: str) -> str:
    return f"{one!r} and {other!r} both gave state under {key!r}: attach one with another name="
