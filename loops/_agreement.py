"""Which answers all ranks of a run have agreed on: those take effect, at the same safe point.

An answer is pending on the rank where a handler gave it. It is sent with that rank's next exchange,
and once all ranks have read that one it is agreed: pending on each of them, with the name of the
rank in its `by`. Until then the loop heeds it nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus import Answers, SkipBatch, Stop, StopEpoch

if TYPE_CHECKING:
    from eventbus import Emitter
    from eventbus.loops._spans import Spans

__all__ = ["Agreement"]

Request = Stop | StopEpoch | SkipBatch

_KINDS = {kind.__name__: kind for kind in (Stop, StopEpoch, SkipBatch)}


class _Agreed(NamedTuple):
    """An answer as it is pending here, and as all ranks know it."""

    here: Request
    everywhere: Request


class Agreement:
    """The agreed answers of one run; it stands where a process alone has its pending ones.

    Parameters
    ----------
    spans
        Where the run is, and its emitter.
    outer
        The emitter of the run around it, whose stops end this one too.

    Attributes
    ----------
    quiet : bool
        True only where nothing is agreed.
    """

    def __init__(self, spans: Spans, outer: Emitter | None) -> None:
        self._spans, self._emitter, self._outer = spans, spans.emitter, outer
        self._agreed: list[_Agreed] = []
        self._told: list[Request] = []  # sent or received
        self._under_way: list[Request] = []
        self.quiet = True

    @property
    def answers(self) -> Answers:
        """All that are agreed and still pending, in the same order on all ranks."""
        pending = self._emitter.answers.pending
        self._agreed = [one for one in self._agreed if _holds(pending, one.here)]
        self.quiet = not self._agreed
        return Answers(tuple(one.everywhere for one in self._agreed))

    # -- what is sent and received

    def take_new(self, kinds: tuple[type[Request], ...], rank: int) -> list[dict[str, Any]]:
        """Return what was answered here and not sent yet, in plain Python."""
        pending = self._emitter.answers.pending
        self._told = [one for one in self._told if _holds(pending, one)]
        self._under_way = [
            one for one in pending if isinstance(one, kinds) and not _holds(self._told, one)
        ]
        self._told += self._under_way
        return [self._packed(one, rank) for one in self._under_way]

    def _packed(self, answer: Request, rank: int) -> dict[str, Any]:
        packed: dict[str, Any] = {
            "kind": type(answer).__name__,
            "reason": answer.reason,
            "by": _by_rank(answer.by, rank),
        }
        if isinstance(answer, Stop):
            packed["exit_code"] = answer.exit_code
            packed["outer"] = self._outer is not None and _holds(self._outer.answers, answer)
        return packed

    def accept(self, received: Iterable[Mapping[str, Any]], is_own: bool) -> None:
        """Agree on what one rank has sent: its answers come in the order in which it sent them."""
        for index, packed in enumerate(received):
            everywhere = _unpacked(packed)
            here = self._under_way[index] if is_own else self._make_pending(everywhere, packed)
            self._agreed.append(_Agreed(here, everywhere))
            self.quiet = False

    def _make_pending(self, answer: Request, packed: Mapping[str, Any]) -> Request:
        emitter = self._outer if packed.get("outer") and self._outer else self._emitter
        is_known = answer in self._emitter.answers.pending  # given here as well, and told of
        emitter.pending.accept(answer)
        self._told.append(answer)
        if isinstance(answer, Stop) and not is_known:
            epoch, step = self._spans.counts.epoch, self._spans.step
            told = {"reason": answer.reason, "handler": answer.by}
            self._emitter.emit("stop_requested", epoch=epoch, step=step, **told)
        return answer


def _holds(answers: Iterable[object], answer: object) -> bool:
    return any(one is answer for one in answers)


def _by_rank(by: str, rank: int) -> str:
    return by if " on rank " in by else f"{by} on rank {rank}"


def _unpacked(packed: Mapping[str, Any]) -> Request:
    kind = _KINDS[packed["kind"]]
    if kind is Stop:
        return Stop(packed["reason"], packed["exit_code"], by=packed["by"])
    return kind(packed["reason"], by=packed["by"])


def encoded(facts: Mapping[str, Any]) -> bytes:
    """Return facts as bytes, none for none."""
    return json.dumps(facts).encode() if any(facts.values()) else b""
