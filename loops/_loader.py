"""Reading a loader: when it ends, how long it keeps the loop waiting, and its samplers' epoch.

A loader is seen through a progress bar of tqdm around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, Final

from eventbus.loops._own_generators import samplers_of
from eventbus.loops.resumable_sampler import ResumableSampler

__all__ = ["END", "Reader", "keep_order", "length_of", "tell_samplers", "within_bar"]

END: Final = object()
"""What a reader gives after the last batch. Not StopIteration, which may come from elsewhere."""


class Reader:
    """One pass over a loader.

    Nothing is read ahead unless asked for, or `is_last` is asked of a loader without a length.

    Attributes
    ----------
    read : int
        Batches given so far, those of an earlier life too.
    """

    def __init__(self, loader: Iterable[Any], read: int = 0) -> None:
        self.read = read
        self._loader = loader
        self._iterator: Iterator[Any] | None = None
        self._ahead: list[Any] = []
        self._waited_s = 0.0
        self._size: int | None = None
        self._is_sized: bool | None = None

    def next(self) -> Any:
        """Return the next batch, or `END`."""
        batch = self._ahead.pop() if self._ahead else self._wait()
        if batch is not END:
            self.read += 1
        return batch

    def is_last(self) -> bool:
        """Tell whether the batch given last was the last one; may read one batch ahead."""
        if self.size is not None:
            return self.read == self.size
        self.look_ahead()
        return self._ahead[0] is END

    def look_ahead(self) -> None:
        """Read the batch that comes next now."""
        if not self._ahead:
            self._ahead.append(self._wait())

    def is_known_to_have_ended(self) -> bool:
        """Tell whether all batches were given, as far as can be told without reading on."""
        return self.size is not None and self.read >= self.size

    def is_at_its_end(self) -> bool:
        """Tell whether nothing is left, of a loader without a length where that was read."""
        has_read_end = bool(self._ahead) and self._ahead[0] is END
        return has_read_end or self.is_known_to_have_ended()

    def open(self) -> None:
        """Begin the iteration now, within a bar too; else the first batch does."""
        if self._iterator is None:
            _begin_within_bar(self._loader)
            self._iterator = iter(self._loader)

    @property
    def size(self) -> int | None:
        """The number of batches, where the loader knows it."""
        if self._is_sized is None:
            self._size = length_of(self._loader)
            self._is_sized = True
        return self._size

    def take_wait(self) -> float:
        """Return the host seconds spent waiting for batches since the last call."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s

    def _wait(self) -> Any:
        began = perf_counter()
        if self._iterator is None:
            self._iterator = iter(self._loader)  # starts a DataLoader's workers: waiting, too
        try:
            return next(self._iterator)
        except StopIteration:
            return END
        finally:
            self._waited_s += perf_counter() - began


def within_bar(loader: Any) -> Any:
    """Return the loader that a bar of tqdm goes over; any other as it is."""
    while _is_bar(loader):
        loader = loader.iterable
    return loader


def _is_bar(loader: Any) -> bool:
    is_tqdms = any(kind.__module__.partition(".")[0] == "tqdm" for kind in type(loader).__mro__)
    return is_tqdms and getattr(loader, "iterable", None) is not None


def _begin_within_bar(loader: Any) -> None:
    """Begin the iteration that a bar of tqdm is to go over, which it does with the first batch."""
    while _is_bar(loader):
        bar, loader = loader, loader.iterable
        if not _is_bar(loader):
            bar.iterable = _Begun(bar)


class _Begun:
    """An iteration that has begun, for a bar to go over once in place of its loader."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._loader = bar, bar.iterable
        self._iterator: Iterator[Any] = iter(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._bar.iterable = self._loader
        return self._iterator

    def __len__(self) -> int:
        return len(self._loader)


def tell_samplers(loader: Any, epoch: int) -> None:
    """Call `set_epoch(epoch - 1)` on the samplers that have it.

    torch's convention for `DistributedSampler`, whose epochs count from 0: without it every epoch
    has the order of the first. Looked for in `loader.sampler`, `loader.batch_sampler` and
    `loader.batch_sampler.sampler`, and in `loader` itself: Accelerate's counts its passes.
    """
    if epoch == 0:
        return
    for sampler in {id(one): one for one in (loader, *samplers_of(loader))}.values():
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch - 1)


def keep_order(loader: Any) -> None:
    """Tell a `ResumableSampler` that the order it has is the one that is wanted again."""
    for sampler in samplers_of(loader):
        if isinstance(sampler, ResumableSampler):
            sampler.set_epoch(sampler.epoch)


def length_of(loader: Any) -> int | None:
    """Return a length, of what knows it."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
