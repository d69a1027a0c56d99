"""What the ranks of a run tell each other: a place and a few bytes each, over a group of gloo.

Each exchange says where in the run it is, and all ranks compare: a rank that takes fewer steps than
the others, or saves where they do not, is an error that names both places, on every rank, instead
of a wait without end. Nothing here touches a device: what is sent is in the CPU's memory.

A rank that fails leaves a note (see `_notes`) and takes part in nothing more: a process in which a
collective waits for others does not end before they come. Whoever waits looks for such notes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroupGloo

from eventbus.loops._notes import Notes, store_for

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Exchange", "RanksError", "Wish", "check_wish", "exchange_for"]

Receive: TypeAlias = Callable[[list[bytes]], None]

Wish: TypeAlias = "Literal['agree', 'alone'] | ProcessGroup"

_ROW = 256
"""Bytes of the first part of an exchange: the length of the second part, and the place."""

_LENGTH = 8
"""Bytes of that length."""

_SLICE = timedelta(seconds=0.2)
"""So long a wait lasts before it looks for notes, and before Python hears of Ctrl-C."""


_TIMEOUT = timedelta(minutes=30)
"""So long an exchange waits, as in torch; a group that the user gives has its own timeout."""


class RanksError(RuntimeError):
    """The ranks do not go on together: one has failed, is gone, or is at another place.

    Examples
    --------
    >>> from eventbus.loops import RanksError
    >>> issubclass(RanksError, RuntimeError)
    True
    """


class Exchange:
    """The exchanges of one run, of which one at a time is under way.

    Parameters
    ----------
    group
        What they go over.
    ranks
        All that take part, in the order of what is received.
    notes
        Those of this run.

    Attributes
    ----------
    rank : int
        Of this process, in the whole job.
    """

    def __init__(self, group: Any, ranks: Sequence[int], notes: Notes) -> None:
        self.rank = dist.get_rank()
        self.ranks = tuple(ranks)
        self._group: Any = group
        self._notes = notes
        self._own, self._all = bytearray(_ROW), bytearray(_ROW * len(self.ranks))
        self._sent = torch.frombuffer(self._own, dtype=torch.uint8)  # both share the memory
        self._received = torch.frombuffer(self._all, dtype=torch.uint8).view(-1, _ROW).unbind()
        self._payload = b""
        self._work: Any = None
        self._receive: Receive = _ignore

    def start(self, place: str, payload: bytes, receive: Receive) -> None:
        """Begin an exchange; only for the one before, if it is still under way, is waited here.

        Parameters
        ----------
        place
            Where in the run this rank is: the same on all of them.
        payload
            What the others are to know.
        receive
            Called by `settle` with the payloads of all ranks; with none, where nobody sent one.
        """
        self.settle()
        text = place.encode()[: _ROW - _LENGTH]
        self._payload, self._receive = payload, receive
        self._own[:] = len(payload).to_bytes(_LENGTH) + text.ljust(_ROW - _LENGTH, b"\0")
        self._work = self._gather(self._received, self._sent)

    def settle(self) -> None:
        """Wait for all ranks, if an exchange is under way.

        Raises
        ------
        RanksError
            A rank has failed, is gone, or is at another place.
        """
        if self._work is not None:
            work, self._work = self._work, None
            self._wait(work)
            self._receive(self._finish())

    def _finish(self) -> list[bytes]:
        rows = [bytes(row) for row in _cut(self._all, _ROW)]
        sizes = [int.from_bytes(row[:_LENGTH]) for row in rows]
        self._compare([row[_LENGTH:] for row in rows])
        return self._payloads(sizes) if any(sizes) else []

    def _payloads(self, sizes: Sequence[int]) -> list[bytes]:
        longest = max(sizes)
        sent = torch.frombuffer(bytearray(self._payload.ljust(longest, b"\0")), dtype=torch.uint8)
        everything = bytearray(longest * len(self.ranks))
        received = torch.frombuffer(everything, dtype=torch.uint8).view(-1, longest).unbind()
        self._wait(self._gather(received, sent))
        parts = _cut(everything, longest)
        return [bytes(part[:size]) for part, size in zip(parts, sizes, strict=True)]

    def _gather(self, received: Sequence[torch.Tensor], sent: torch.Tensor) -> Any:
        try:
            return self._group.allgather([list(received)], [sent])
        except RuntimeError as error:
            raise self._lost(error) from error

    def _wait(self, work: Any) -> None:
        while not _is_over(work):
            self._notes.raise_failure(RanksError)
        try:
            work.wait()
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> RanksError:
        self._notes.raise_failure(RanksError)
        missing = ", ".join(f"rank {rank}" for rank in self._notes.missing())
        place = self._own[_LENGTH:].rstrip(b"\0").decode(errors="replace")
        return RanksError(
            f"rank {self.rank} at {place}: {missing or 'another rank'} has gone or does not "
            f"answer ({str(error).splitlines()[0]})"
        )

    def _compare(self, places: Sequence[bytes]) -> None:
        if len(set(places)) == 1:
            return
        ranks = defaultdict(list)
        for rank, place in zip(self.ranks, places, strict=True):
            ranks[place.rstrip(b"\0").decode(errors="replace")].append(str(rank))
        where = "; ".join(f"rank {', '.join(each)} at {place}" for place, each in ranks.items())
        raise RanksError(
            f"the ranks are not at the same place: {where}. All take as many steps, and what saves "
            "(Checkpoint) is attached on all, with the same on= and when=; a Run that one rank "
            "alone opens says ranks='alone'"
        )

    # -- the end

    def leave_note(self, text: str) -> None:
        """Tell whoever waits, now or later, that this rank has failed."""
        self._notes.leave(text)

    def failure(self) -> str | None:
        """Return what another rank has failed with, where that is known."""
        return self._notes.failure()

    def close(self) -> None:
        """Let go of the group: one that was made here ends, and with it what waits for us."""
        self._group = None


def exchange_for(wish: Wish) -> Exchange | None:
    """Return what the ranks of a run exchange over; None for a process that goes alone.

    To make the group is collective: all ranks have to come here.
    """
    if wish == "alone" or not (dist.is_available() and dist.is_initialized()):
        return None
    rank = dist.get_rank()
    if wish != "agree":
        ranks = dist.get_process_group_ranks(wish)
        return Exchange(wish, ranks, Notes(store_for(wish.group_name), rank, ranks))
    return None if dist.get_world_size() == 1 else _among_all(rank)


def _among_all(rank: int) -> Exchange:
    """Meet all ranks.

    Not over a `dist.new_group`: after a restart by torchrun that one may find the addresses of
    processes that are gone, in the store that outlives them (torch 2.13).
    """
    ranks = range(dist.get_world_size())
    store = store_for("all")
    notes = Notes(store, rank, ranks)
    notes.await_all()
    group = ProcessGroupGloo(store, rank, len(ranks), timeout=_TIMEOUT)
    return Exchange(group, ranks, notes)


def check_wish(wish: Wish) -> None:
    """Refuse what `Run(ranks=...)` does not take."""
    if wish in ("agree", "alone"):
        return
    if not (dist.is_available() and isinstance(wish, dist.ProcessGroup)):
        raise TypeError(f"ranks= takes 'agree', 'alone' or a group of processes; got {wish!r}")
    if dist.get_backend(wish) != "gloo":
        raise ValueError(
            f"ranks= takes a group of gloo, dist.new_group(backend='gloo'); got one of "
            f"{dist.get_backend(wish)}"
        )


def _ignore(payloads: list[bytes]) -> None:
    """Receive nothing: what an exchange does before its first."""


def _is_over(work: Any) -> bool:
    if not work.is_completed():
        try:
            work.wait(_SLICE)
        except RuntimeError:
            return bool(work.is_completed())  # else only this slice of time is over
    return True


def _cut(data: bytearray, size: int) -> list[bytearray]:
    return [data[start : start + size] for start in range(0, len(data), size)]
