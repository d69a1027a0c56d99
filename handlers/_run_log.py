"""What a log file of a run has in common, whatever its lines look like."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from eventbus import AttachError, Event, EventBus, Filter, Priority, handles, on_rank
from eventbus.handlers._arguments import On, Signal, When, signals_given
from eventbus.handlers._one_run import OfOneRun
from eventbus.handlers._paths import RunNames
from eventbus.handlers._run_file import Format, RunFile
from eventbus.handlers._waits_for_epochs import WaitsForEpochs

OnEach = On | Mapping[Signal, When | None]
"""One signal, several, or several with a filter for each."""

Row = dict[str, Any]


class RunLog(OfOneRun):
    """Turns emissions into rows and rows into records of a `RunFile`.

    Only `run_started` tells whether a run resumes, so rows that come between `run_opened` and that
    are held in memory.
    """

    def __init__(self, path: str, form: Format, on: OnEach, when: When | None) -> None:
        self._file = RunFile(type(self).__name__, path, form)
        self._held: list[tuple[RunNames, Row]] | None = None
        self._schedule = schedule(on, when)
        instead = 'on="batch_finished", when=every(100)'
        self._waits = WaitsForEpochs(type(self).__name__, self._schedule, instead)
        for signal, due in self._schedule.items():
            mark = handles(signal, when=due, priority=Priority.REPORT, on_error="isolate")
            self.write = mark(self.write)  # type: ignore[method-assign]  # marked with what was asked for

    @abstractmethod
    def _row(self, event: Event) -> Row:
        """Return what is to be logged of an emission."""

    @abstractmethod
    def _add(self, row: Row) -> None:
        """Add a row to the settled file."""

    def write(self, event: Event) -> None:
        """Log an emission. Reads its metrics, which synchronises with their device."""
        names, row = RunNames.of(event), self._row(event)
        if self._held is None:
            self._settle_and_add(names, row)
        else:
            self._held.append((names, row))

    def on_attach(self, bus: EventBus) -> None:
        """Refuse the file of another log of the same runs: each would find the other's lines."""
        logs = _logs_on(bus)
        hears = {sender for log, sender in logs if log is self}
        for log, sender in logs:
            if log is not self and sender in hears and _is_one_file(log._file, self._file):
                raise AttachError(
                    f"{type(self).__name__} is to write {self._file.template}, which another "
                    f"{type(log).__name__} on this bus writes: give each a file of its own"
                )
        super().on_attach(bus)

    # Before whoever may emit there, or fail: what that leads to is not of the run before.
    @handles("run_opened", priority=Priority.ALTER + 50, on_error="isolate")
    def hold(self) -> None:
        """Keep rows until it is known whether the run resumes."""
        self._held = []

    @handles("run_started", priority=Priority.REPORT + 2, on_error="isolate")
    def start(self, event: Event, resumed_from: str | None = None) -> None:
        """Begin a new file, unless the run resumes."""
        self._waits.start(resumed_from)
        self._begin_run(event)

    def _start_over(self) -> None:
        self._file.renew()

    @handles("run_started", when=on_rank(0), priority=Priority.REPORT + 1, on_error="isolate")
    def settle(self, event: Event) -> None:
        """Drop what came after the checkpoint, and write the rows that were held."""
        if self._file.resumes:
            self._file.settle(RunNames.of(event))
        self.release()

    @handles("run_finished", when=on_rank(0), priority=Priority.REPORT, on_error="isolate")
    def finish(self, epoch: int | None = None, step: int | None = None) -> None:
        """Warn where there was nothing to log, since the loop has no epochs."""
        self._waits.warn(epoch, step)

    @handles("run_closed", when=on_rank(0), priority=Priority.REPORT + 1, on_error="isolate")
    def close(self) -> None:
        """Write what a run that failed before it started has told, into a file of its own."""
        if self._held and not self._file.resumes:
            self._file.renew()
        self.release()

    def release(self) -> None:
        """Write the rows that were held."""
        held, self._held = self._held or [], None
        for names, row in held:
            self._settle_and_add(names, row)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the file, which is on the disk up to there."""
        return self._file.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position; later rows are dropped."""
        self._note_given()
        self._file.resume(state)

    def _settle_and_add(self, names: RunNames, row: Row) -> None:
        self._file.settle(names)
        self._add(row)


def _logs_on(bus: EventBus) -> list[tuple[RunLog, str | None]]:
    """Return the logs whose methods are subscribed, each with the sender that it hears."""
    owners = ((getattr(one.handler, "__self__", None), one.sender) for one in bus.subscriptions)
    return [(owner, sender) for owner, sender in owners if isinstance(owner, RunLog)]


def _is_one_file(one: RunFile, other: RunFile) -> bool:
    return os.path.normpath(one.template) == os.path.normpath(other.template)


def schedule(on: OnEach, when: When | None) -> dict[str, Filter]:
    """Give each signal its filter; each is for rank 0 alone, as one file takes one writer."""
    if isinstance(on, Mapping):
        if when is not None:
            raise ValueError(f"give the filters in on={{...}} or as when=, not both; got {when!r}")
        chosen = dict(zip(signals_given(on), on.values(), strict=True))
    else:
        chosen = dict.fromkeys(signals_given(on), when)
    rank_0 = on_rank(0)
    return {signal: rank_0 if due is None else due & rank_0 for signal, due in chosen.items()}
