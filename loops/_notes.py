"""What a rank leaves for the others in the store by which the processes met.

It needs nobody to be there, and is read by whoever waits. Where the store cannot be reached (the
process that kept it has died) nothing is known, and nothing is raised.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from torch.distributed import distributed_c10d

__all__ = ["Notes", "store_for"]

log = logging.getLogger("eventbus.loops")

_FAILED = "failed"

_GRACE_S = 2.0
"""So long a rank that has lost another one waits for word of those that are still there."""

_SILENCE_S = 30.0
"""After so long it is said for whom a Run waits that is being opened."""

_PATIENCE_S = 600.0
"""After so long it is an error."""

_PAUSE_S = 0.02


def store_for(prefix: str) -> Any:
    """Return the store of torch.distributed, with keys of our own."""
    # There is no public name for it in the versions of torch that we support.
    return distributed_c10d.PrefixStore(prefix, distributed_c10d._get_default_store())


class Notes:
    """The notes of one run.

    Parameters
    ----------
    store
        Where they are left.
    rank, ranks
        This process's rank, and all that take part.
    monotonic, pause
        A clock, in seconds, and what lets that many pass.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        ranks: Sequence[int],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._store, self._rank, self._ranks = store, rank, ranks
        self._monotonic, self._pause = monotonic, pause

    # -- failures

    def leave(self, text: str) -> None:
        """Say what this rank has failed with, unless another one has failed before."""
        with suppress(RuntimeError):
            self._store.compare_set(_FAILED, "", f"rank {self._rank} failed: {text}")

    def failure(self) -> str | None:
        """Return what the first rank that failed has said, if it was another one."""
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

    # -- who is there

    def missing(self) -> list[int]:
        """Return the ranks that give no sign of life, a moment after an exchange has failed."""
        with suppress(RuntimeError):
            return self._await("lost", until=self._monotonic() + _GRACE_S)
        return []

    def await_all(self) -> None:
        """Wait until all ranks have come here; say for whom, where that takes long.

        Raises
        ------
        TimeoutError
            Some have not come within ten minutes.
        """
        began = self._monotonic()
        missing = self._await("here", until=began + _SILENCE_S)
        if missing:
            log.warning("%s", self._waits_for(missing))
            missing = self._await("here", until=began + _PATIENCE_S)
        if missing:
            raise TimeoutError(f"{self._waits_for(missing)} ({_PATIENCE_S:g} s have passed)")

    def _waits_for(self, missing: Iterable[int]) -> str:
        return (
            f"rank {self._rank} opens a Run and waits for rank {', '.join(map(str, missing))}: "
            "all ranks open the same runs; one of a single rank says ranks='alone'"
        )

    def _await(self, key: str, until: float) -> list[int]:
        self._store.set(f"{key}/{self._rank}", "")
        missing = list(self._ranks)
        while True:
            missing = [rank for rank in missing if not self._store.check([f"{key}/{rank}"])]
            if not missing or self._monotonic() >= until:
                return missing
            self._pause(_PAUSE_S)
