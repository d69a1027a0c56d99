"""What a rank that fails leaves for the others, in the store by which the processes met.

It needs nobody to be there, and is read by whoever waits for the failed rank. Where the store
cannot be reached (the process that kept it has died) nothing is known, and nothing is raised.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch.distributed import distributed_c10d

__all__ = ["Notes"]

_GRACE_S = 2.0
"""So long a rank that has lost another one waits for word of those that are still there."""

_FAILED = "failed"


class Notes:
    """The notes of one run.

    Parameters
    ----------
    prefix
        Of the keys in the store.
    rank, ranks
        This process's rank, and all that take part.
    """

    def __init__(self, prefix: str, rank: int, ranks: Sequence[int]) -> None:
        self._rank, self._ranks = rank, ranks
        # There is no public name for it in the versions of torch that we support.
        store = distributed_c10d._get_default_store()
        self._store: Any = distributed_c10d.PrefixStore(prefix, store)

    def leave(self, text: str) -> None:
        """Say what this rank has failed with, unless another one has failed before."""
        with suppress(RuntimeError):
            self._store.compare_set(_FAILED, "", f"rank {self._rank} failed: {text}")

    def failure(self) -> str | None:
        """Return what the first rank that failed has said."""
        with suppress(RuntimeError):
            if self._store.check([_FAILED]):
                text = str(self._store.get(_FAILED).decode())
                return None if text.startswith(f"rank {self._rank} failed:") else text
        return None

    def raise_failure(self, kind: type[Exception]) -> None:
        """Raise an error of that kind where another rank has failed."""
        failure = self.failure()
        if failure is not None:
            raise kind(failure)

    def missing(self) -> list[int]:
        """Return the ranks that give no sign of life, a moment after an exchange has failed."""
        others = [rank for rank in self._ranks if rank != self._rank]
        with suppress(RuntimeError):
            self._store.set(f"here/{self._rank}", "")
            end = time.monotonic() + _GRACE_S
            while others and time.monotonic() < end:
                others = [rank for rank in others if not self._store.check([f"here/{rank}"])]
                time.sleep(0.02)
            return others
        return []
