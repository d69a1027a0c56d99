"""Work that a run must not wait for: done in order, off the loop's thread, and bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], object]


class Outbox:
    """A bounded queue of jobs, and a daemon thread that is there while there is work.

    Nobody needs to close it: the thread ends with the last job. What fails is kept until somebody
    asks. Waiting is bounded, by a monotonic clock.

    Parameters
    ----------
    name
        Of the thread.
    capacity
        How many jobs may wait.

    Attributes
    ----------
    dropped : int
        How many jobs there was no room for, in all.

    Examples
    --------
    >>> from eventbus.handlers._outbox import Outbox
    >>> outbox, done = Outbox("example", capacity=10), []
    >>> for number in (1, 2, 3): _ = outbox.put(lambda number=number: done.append(number))
    >>> outbox.close(timeout_s=10.0), done
    (0, [1, 2, 3])
    """

    def __init__(self, name: str, capacity: int) -> None:
        self._name = name
        self._capacity = capacity
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._errors: deque[BaseException] = deque(maxlen=capacity)
        self._worker: threading.Thread | None = None
        self.dropped = 0

    def put(self, job: Job, *, make_room: bool = False) -> bool:
        """Have a job done; where there is no room, drop it, or with `make_room` the oldest one.

        Returns
        -------
        bool
            Whether nothing was dropped.
        """
        with self._changed:
            is_full = len(self._jobs) >= self._capacity
            self.dropped += is_full
            if is_full and not make_room:
                return False
            if is_full:
                self._jobs.popleft()
            self._jobs.append(job)
            self._start()
            return not is_full

    def close(self, timeout_s: float) -> int:
        """Wait until all is done, or for so long; return how many jobs are not.

        Those are forgotten. One that hangs is left to its thread, and the next job gets another.
        """
        with self._changed:
            worker = self._worker
            if worker is None:
                return 0
            if not self._changed.wait_for(lambda: self._worker is not worker, timeout_s):
                left = len(self._jobs) + 1
                self._jobs.clear()
                self._worker = None
                return left
        worker.join()  # it has nothing left to do
        return 0

    def take_errors(self) -> list[BaseException]:
        """Return what the jobs have raised since the last time."""
        with self._changed:
            errors = list(self._errors)
            self._errors.clear()
            return errors

    def _start(self) -> None:
        if self._worker is None:
            worker = threading.Thread(target=self._work, name=self._name, daemon=True)
            worker.start()  # it waits for the lock that this thread holds
            self._worker = worker

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
                with self._changed:
                    self._errors.append(error)

    def _next(self) -> Job | None:
        with self._changed:
            if threading.current_thread() is not self._worker:
                return None  # it hung, and was given up
            if self._jobs:
                return self._jobs.popleft()
            self._worker = None
            self._changed.notify_all()
            return None
