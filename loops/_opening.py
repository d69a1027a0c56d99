"""Opening a loader in the middle: at the batch after those that a checkpoint has used up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler

from eventbus.loops._generators import RandomGenerators, put_aside
from eventbus.loops._loader import END, Reader, within_bar
from eventbus.loops._manner import Manner, refuse_other_manner, warn_of_other_manner
from eventbus.loops._own_generators import own_generators
from eventbus.loops._unseen import unseen
from eventbus.loops.resumable_sampler import ResumableSampler

__all__ = [
    "Start",
    "carry_on",
    "check_manner",
    "keeps_its_place",
    "opened",
    "warn_of_accelerates",
    "warn_of_unseen",
]

log = logging.getLogger("eventbus.loops")


@dataclass(frozen=True)
class Start:
    """Where in a pass to start.

    Attributes
    ----------
    used : int
        Batches that come before.
    opening : mapping or None
        The global generators as they were when the pass began, whence its order was drawn.
    loader : mapping or None
        The state of a loader that has one.
    own : sequence or None
        The states of the loader's own generators after those batches.
    """

    used: int
    opening: Mapping[str, Any] | None = None
    loader: Mapping[str, Any] | None = None
    own: Sequence[Any] | None = None

    def state(self) -> dict[str, Any]:
        """Return what it was made from."""
        given = {"opening": self.opening, "loader": self.loader, "own": self.own}
        parts: dict[str, Any] = {"used": self.used, **given}
        return {name: part for name, part in parts.items() if part is not None}


def keeps_its_place(loader: Any) -> bool:
    """Tell whether a loader has a state, as torchdata's.

    Accelerate's has the methods always; around torchdata's its state is that of a batch ahead, and
    does not bring back the order.
    """
    has_state = callable(getattr(loader, "load_state_dict", None))
    return has_state and not hasattr(loader, "base_dataloader")


def warn_of_accelerates(loader: Any) -> None:
    """Warn of a loader whose order is lost: Accelerate's around torchdata's."""
    if hasattr(loader, "base_dataloader") and getattr(loader, "use_stateful_dataloader", False):
        log.warning(
            "Accelerate's loader with use_stateful_dataloader=True does not come back to its "
            "order: the epochs after this one are not those of a run that was never stopped (leave "
            "that option out: a prepared DataLoader goes on exactly)"
        )


def warn_of_unseen(loader: Any) -> None:
    """Warn of a loader whose order goes on from what it was left with, which cannot be seen."""
    if clause := unseen(loader):
        log.warning("the run is resumed, and %s", clause)


def check_manner(
    loader: Any, start: Start | None, carried: Mapping[str, Any] | None, before: Manner
) -> None:
    """Refuse, or warn of, a loader that is not read in the manner of the checkpoint.

    Raises
    ------
    ValueError
        It is to take a state that only a loader of that manner can.
    """
    state = carried if start is None else start.loader
    if state is not None and keeps_its_place(loader):
        refuse_other_manner(loader, before)
    if start is not None and start.used:
        warn_of_other_manner(loader, before)


def opened(loader: Iterable[Any], start: Start | None) -> tuple[Reader, dict[str, Any]]:
    """Return a reader of `loader`, from `start` on, and the generators that give its order.

    The loader draws its order again from the generators of the pass's begin; then those of the
    checkpoint go on. So the batches after `start` are those of an uninterrupted run, and so is what
    the model draws, wherever the order depends on nothing else. The loader's own are to be as at
    the beginning already.
    """
    everywhere = RandomGenerators(devices=False)
    if start is None or start.opening is None:
        opening = {"random": everywhere.state_dict()}
        return _started(loader, start), opening
    own = own_generators(within_bar(loader))
    for generator, state in zip(own, start.opening.get("own", ()), strict=False):
        generator.set_state(state)  # of a checkpoint that kept them there
    with put_aside():
        everywhere.load_state_dict(start.opening["random"])
        reader = _started(loader, start)
    for generator, state in zip(own, start.own or (), strict=False):
        generator.set_state(state)
    return reader, dict(start.opening)


def carry_on(loader: Any, state: Mapping[str, Any]) -> None:
    """Have a loader with a state, at the end of a pass, begin the pass after it."""
    if keeps_its_place(loader):
        given = getattr(loader, "generator", None)  # by a user, and given back already
        with put_aside([] if given is None else [given]):
            loader.load_state_dict(state)
            loader.state_dict()  # torchdata's goes to its place only now, and draws a seed


def _started(loader: Any, start: Start | None) -> Reader:
    if start is None:
        return Reader(loader)
    reader, source = Reader(loader, start.used), within_bar(loader)
    if start.loader is not None and keeps_its_place(source):
        source.load_state_dict(start.loader)
    elif not _starts_at(source, start.used):
        _warn_of_dropping(source, start.used)
        _drop(reader, start.used)
    reader.open()
    if start.opening is not None and start.used == 0:
        reader.look_ahead()  # a shuffling sampler draws its order with the first batch only
    return reader


def _starts_at(loader: Any, used: int) -> bool:
    """Have a `ResumableSampler` begin after `used` batches; say whether there is one."""
    batches = getattr(loader, "batch_sampler", None)
    if type(batches) is BatchSampler and isinstance(batches.sampler, ResumableSampler):
        batches.sampler.start_at(min(used * batches.batch_size, len(batches.sampler)))
        return True
    sampler = getattr(loader, "sampler", None)
    if batches is None and isinstance(sampler, ResumableSampler):
        sampler.start_at(min(used, len(sampler)))
        return True
    return used == 0


def _warn_of_dropping(loader: Any, used: int) -> None:
    clause = unseen(loader)
    log.warning(
        "the loader cannot start in the middle: its first %d batches, as many as were trained on "
        "before, are read again and dropped (a DataLoader with sampler=ResumableSampler(...) from "
        "eventbus.loops, or torchdata's StatefulDataLoader, starts at the next one)%s",
        used,
        clause and f"; {clause}",
    )


def _drop(reader: Reader, used: int) -> None:
    reader.read = 0
    while reader.read < used and reader.next() is not END:
        pass
    reader.take_wait()
