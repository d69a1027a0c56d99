"""Hears every emission on a bus, and gives each run rules of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus.answers import Request
from eventbus.conformance.field_rules import check_fields
from eventbus.conformance.limits import Limits
from eventbus.conformance.place import Seen
from eventbus.conformance.report import Report, Rule, Violation
from eventbus.conformance.run_rules import LOOP_SIGNALS, RunRules
from eventbus.signal_names import NEVER_IN_PATTERNS
from eventbus.subscription import Options

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.event import Event
    from eventbus.pending import Pending

__all__ = ["Watch"]

EVERY = ("*", *sorted(NEVER_IN_PATTERNS))
FIRST, LAST = 10**9, -(10**9)


class Watch:
    """The eyes and ears of a check, on one bus.

    Parameters
    ----------
    report
        Where violations go.
    limits
        What the loop is known not to serve.
    given
        What a handler does in this trial, for the report.

    Attributes
    ----------
    runs : list of RunRules
        In the order in which they were opened.
    """

    def __init__(self, report: Report, limits: Limits, given: str = "") -> None:
        self.report = report
        self.runs: list[RunRules] = []
        self.limits = limits
        self.given = given
        self._by_id: dict[str, RunRules] = {}
        self._known: dict[str, tuple[Request, ...]] = {}
        self._at_begin: dict[str, tuple[tuple[Request, ...], int]] = {}
        self._before: frozenset[str] = frozenset()

    # -- on the bus

    def attach(self, bus: EventBus) -> None:
        """Hear all that is emitted from now on, by runs inside others too."""
        self._before = frozenset(emitter.run_id for emitter in bus.open_runs)
        self._subscriptions = [
            bus.registry.subscribe(
                handler, EVERY, label, Options(priority=place, everywhere=True, label=label)
            )
            for handler, place, label in (
                (self.see, FIRST, "check_loop"),
                (self.know, LAST, "check_loop.answers"),
            )
        ]

    def detach(self) -> None:
        """Hear no more."""
        for subscription in self._subscriptions:
            subscription.detach()

    def finish(self) -> None:
        """Tell of runs that were not closed, and of a loop that never opened one."""
        self.report.runs += len(self.runs)
        for run in self.runs:
            run.end_watch()
        if not self.runs and not self._before:
            message = "no run was opened on the bus: run_opened comes first of all"
            self.report.tell(Violation("run_opened", "run", message, 0, given=self.given))

    # -- what it hears

    def see(self, event: Event) -> None:
        """Hold an emission against the rules of its run, before any handler sees it."""
        self.report.emissions += 1
        run_id = event.emitter.run_id
        if run_id in self._before:
            return
        pending = event.emitter.answers.pending
        self._at_begin[run_id] = pending, event.emitter.pending.answered
        known = self._known.get(run_id, ())
        seen = Seen(
            name=event.name,
            sender=event.sender,
            fields=event.fields,
            context=event.emitter.context,
            pending=pending,
            known=tuple(a for a in pending if any(a is one for one in known)),
            is_inside=event.outer is not None,
            at=self.report.emissions,
        )
        self._see(seen, event)

    def _see(self, seen: Seen, event: Event) -> None:
        run = self._run_of(seen, event)
        if run is not None:
            check_fields(seen, event.signal.declaration, self.tell)
            run.see(seen)

    def know(self, event: Event) -> None:
        """Remember the answers that the loop can know of once this emission is over."""
        run_id, pending = event.emitter.run_id, event.emitter.answers.pending
        self._known[run_id] = pending
        run = self._by_id.get(run_id)
        if run is not None and pending:
            run.know(event.name, pending, self._from_elsewhere(run_id, event.emitter.pending))

    def _from_elsewhere(self, run_id: str, pending: Pending) -> tuple[Request, ...]:
        """Return what came during an emission, unless a handler of it has answered, too."""
        before, answered = self._at_begin.get(run_id, ((), 0))
        if pending.answered != answered:
            return ()
        now = pending.answers.pending
        return tuple(a for a in now if not any(a is one for one in before))

    def _run_of(self, seen: Seen, event: Event) -> RunRules | None:
        run = self._by_id.get(event.emitter.run_id)
        if seen.name == "run_opened" and (run is None or run.is_closed):
            run = self._open(seen, event)
            self._check_alone(seen, event)
        elif run is None and seen.name in LOOP_SIGNALS:
            run = self._open(seen, event)
            self.tell(seen, "run", f"came before run_opened: {self._whose(event)}")
            run.names["run_opened"] += 1  # told once
        return run

    def _open(self, seen: Seen, event: Event) -> RunRules:
        run = RunRules(seen, event.emitter.run_id, self.tell, self.limits)
        self._by_id[event.emitter.run_id] = run
        self.runs.append(run)
        return run

    def _whose(self, event: Event) -> str:
        if event.emitter.context is event.bus.root.context:
            return "it was emitted by the bus itself, and not through bus.bind(sender=...)"
        open_runs = [held for held in self.runs[:-1] if not held.is_closed]
        if open_runs:
            return "it has another run_id than the run that is open; bind one emitter for a run"
        return "that is the first signal of a run"

    def _check_alone(self, seen: Seen, event: Event) -> None:
        if seen.sender is None:
            self.tell(seen, "run", "the run has no sender: bus.bind(sender='train', ...)")
        outer = [run for run in self.runs[:-1] if not run.is_closed]
        if outer and not event.emitter.inner:
            message = f"opens a run while that of {outer[-1].label!r} is open: close that one first"
            self.tell(seen, "run", f"{message}, or bind with parent= for a run inside it")

    def tell(self, seen: Seen, rule: Rule, message: str) -> None:
        """Put a violation at an emission into the report."""
        label = seen.sender or ""
        self.report.tell(Violation(seen.name, rule, message, seen.at, label, self.given))
