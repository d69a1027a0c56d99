"""`ResumableSampler`: an order of the data that a resumed run enters in the middle."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from eventbus.loops._untold import note_told, note_untold

__all__ = ["ResumableSampler"]


class ResumableSampler(Sampler[int]):
    """A sampler whose order depends on seed and epoch alone, and that starts anywhere in it.

    Give it to torch's `DataLoader`; a `Run` sets its epoch and, where it goes on in the middle of
    one, its start, so that no batch is loaded twice. A DataLoader's workers read ahead of the loop:
    the place that is saved is the Run's, what the loop has used up, not what was handed out here.

    What the workers draw by themselves (augmentation in the dataset, with `num_workers` above 0)
    follows the workers, which begin anew: the order is exact, their random numbers are others.

    A `Run` sees it in the loader that `run.batches` is given, through tqdm too, but not in a `zip`,
    `enumerate` or `islice` of loaders: there its epochs have one order, of which the Run warns.

    Parameters
    ----------
    data
        The dataset, or its length.
    shuffle
        A new order in each epoch; otherwise 0, 1, 2 and so on.
    seed
        Of the order; the same on all ranks.
    rank, ranks
        This process hands out each `ranks`-th index, from `rank` on; the first ones again at the
        end, where needed to give each rank as many.

    Examples
    --------
    >>> sampler = ResumableSampler(6, seed=1)
    >>> sampler.set_epoch(3)
    >>> whole = list(sampler)
    >>> sampler.start_at(4)
    >>> list(sampler) == whole[4:], list(sampler) == whole
    (True, True)
    """

    _is_told = _has_begun = False  # here for those that were pickled without

    def __init__(
        self,
        data: Sized | int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.length = data if isinstance(data, int) else len(data)
        if self.length < 0:
            raise ValueError(f"a dataset has at least 0 samples; got {self.length!r}")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is from 0 to ranks - 1; got rank={rank!r}, ranks={ranks!r}")
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.ranks = rank, ranks
        self.epoch = 0
        self._start = 0
        self._given = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`, from 0; the next pass begins at its first sample.

        Called again for the same epoch it keeps the place that `start_at` gave: Accelerate's
        loaders call it at the beginning of each pass.
        """
        self._is_told = True
        note_told(self)
        if epoch != self.epoch:
            self.epoch = epoch
            self._start = self._given = 0

    def start_at(self, position: int) -> None:
        """Have the next pass, and no later one, begin after `position` samples."""
        if not 0 <= position <= len(self):
            raise ValueError(f"position is from 0 to {len(self)}; got {position!r}")
        self._start = self._given = position

    def __iter__(self) -> Iterator[int]:
        if self._has_begun and self.shuffle and not self._is_told:
            note_untold(self)
        self._has_begun = True
        start, self._start = self._start, 0
        self._given = start
        for index in self._order()[start:]:
            self._given += 1
            yield index

    def __len__(self) -> int:
        """The samples of a whole pass on this rank, wherever the next one begins."""
        return (self.length + self.ranks - 1) // self.ranks

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and how many of its samples were handed out.

        Not how many the loop has used: a DataLoader's workers read ahead of it.
        """
        names = ("seed", "shuffle", "length", "ranks", "epoch")
        return {name: getattr(self, name) for name in names} | {"position": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next pass where `state` was taken.

        Raises
        ------
        ValueError
            The state is of another order: other data, seed or number of ranks.
        """
        for name in ("seed", "shuffle", "length", "ranks"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the state is of a ResumableSampler with {name}={state[name]!r}; "
                    f"this one has {getattr(self, name)!r}"
                )
        self._is_told = True
        self.epoch = state["epoch"]
        self.start_at(state["position"])

    def _order(self) -> list[int]:
        order = list(range(self.length))
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(_mixed(self.seed, self.epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
        order += order[: len(self) * self.ranks - self.length]
        return order[self.rank :: self.ranks]


def _mixed(seed: int, epoch: int) -> int:
    """One seed of 32 bits, all that torch's generator uses; a sum would repeat."""
    return random.Random(f"{seed}/{epoch}").getrandbits(32)
