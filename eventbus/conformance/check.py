"""`check_loop` runs a loop and `watch_loop` watches one; both say which rules it breaks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from eventbus.bus import EventBus
from eventbus.conformance.limits import Limits
from eventbus.conformance.notes import note_what_is_missing
from eventbus.conformance.report import Report, Violation
from eventbus.conformance.trials import TRIALS, PlannedError, Trial
from eventbus.conformance.watch import Watch

__all__ = ["check_loop", "watch_loop"]

Train = Callable[[EventBus], Any]
Kinds = type[BaseException] | tuple[type[BaseException], ...]


def check_loop(
    train: Train,
    *,
    answers: bool = True,
    cannot: Collection[str] = (),
    expect: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> Report:
    """Run a loop and hold all that it emits against the rules of the vocabulary.

    Parameters
    ----------
    train
        Makes a loop on the bus that it is given and runs it, to the end. Two epochs of three steps
        are enough to see most mistakes. It is called several times, each time with a new bus, so
        it makes its model and its data itself.
    answers
        Run it again with a handler that answers `Stop`, `StopEpoch` and `SkipBatch`, once each, and
        with one that fails: whether the loop heeds them shows only then. False runs it once.
    cannot
        What this loop is known not to serve, where its framework sets limits: answers ("StopEpoch",
        or at one signal, "SkipBatch at batch_loaded"), signals that it cannot emit
        ("loader_opened"), and "run_failed" where it does not see failures. That is noted, and not
        asked for.
    expect
        What the loop is going to raise: kept in `report.error`. The rules for a run that fails
        hold; nothing else is tried.

    Returns
    -------
    Report
        Its `violations` and `notes`; `print` it, or have it `raise_if_any()`.

    Raises
    ------
    BaseException
        Whatever the loop raises and was not expected, with what was found as a note.

    Examples
    --------
    >>> from eventbus.testing import check_loop
    >>> def train(bus):
    ...     loop = bus.bind(sender="train", model="a model", optimizer="an optimizer")
    ...     loop.emit("run_opened")
    ...     loop.emit("run_started", epochs=1)
    ...     loop.emit("epoch_started", epoch=0, step=0)
    ...     loop.emit("epoch_finished", epoch=0, step=0, metrics={}, complete=True)
    ...     loop.emit("run_closed", outcome="completed")
    >>> report = check_loop(train, answers=False)
    >>> for violation in report.violations: print(violation)
    emission 3, epoch_started: epoch 0 begins, and 1 is next: epochs go up by one from 1
    emission 5, run_closed: came without run_finished or run_failed, one of which tells how it ended
    """
    limits = Limits(cannot)
    report = Report()
    plain = _run(train, report, limits, expect=expect)
    note_what_is_missing(plain.runs, limits, report)
    if answers and expect == () and plain.runs:
        for trial in TRIALS:
            _try(trial, train, plain)
    return report


@contextmanager
def watch_loop(bus: EventBus, *, cannot: Collection[str] = ()) -> Iterator[Report]:
    """Hold what is emitted on a bus against the rules, for the length of a `with` block.

    The report is complete once the block has ended. Runs that were open before it are left alone.

    Parameters
    ----------
    cannot
        As for `check_loop`.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.testing import play, scripted_run, watch_loop
    >>> bus = EventBus()
    >>> with watch_loop(bus) as report:
    ...     answers = play(bus, scripted_run(epochs=2, steps=3))
    >>> print(report.violations)
    ()
    """
    limits = Limits(cannot)
    report = Report()
    watch = Watch(report, limits)
    with _watching(watch, bus):
        yield report
    note_what_is_missing(watch.runs, limits, report)


@contextmanager
def _watching(watch: Watch, bus: EventBus) -> Iterator[None]:
    watch.attach(bus)
    try:
        yield
    except BaseException as error:
        _finish(watch, failed=True)
        if watch.report.violations:
            error.add_note(f"the loop on the bus was being checked:\n{watch.report}")
        raise
    else:
        _finish(watch, failed=False)
    finally:
        watch.detach()


def _finish(watch: Watch, failed: bool) -> None:
    if not failed or watch.limits.serves("run_failed"):  # else it cannot tell of its end
        watch.finish()


def _run(
    train: Train,
    report: Report,
    limits: Limits,
    *,
    expect: Kinds = (),
) -> Watch:
    watch, bus = Watch(report, limits), EventBus()
    report.error = _outcome(train, watch, bus, expect)
    if report.error is None and expect != ():
        _tell_after(watch, f"the loop raised nothing; {_named(expect)} was expected")
    return watch


def _try(trial: Trial, train: Train, plain: Watch) -> None:
    """Run the loop with a handler that answers or fails; or note why that is not tried."""
    if not plain.limits.serves(trial.needs, trial.signal):
        return
    reasons = [trial.not_possible(run) for run in plain.runs]
    if all(reasons):
        plain.report.note(f"{trial} was not tried: {reasons[0]}")
        return
    watch, bus = Watch(plain.report, plain.limits, given=str(trial)), EventBus()
    cue = trial.attach(bus)
    error = _outcome(train, watch, bus, Exception)  # raised again, unless it was planned
    if cue.run_id is None and error is None:
        plain.report.note(f"{trial} was not tried: no handler without sender= hears of that")
        return
    if trial.needs == "run_failed":
        if not _is_planned(error):
            _tell_after(watch, "a handler's exception did not come out of the loop")
    elif error is not None:
        error.add_note(f"raised while check_loop ran the loop with {trial}")
        raise error
    _judge(trial, watch, plain, cue.run_id)


def _outcome(train: Train, watch: Watch, bus: EventBus, caught: Kinds) -> BaseException | None:
    try:
        with _watching(watch, bus):
            train(bus)
    except caught as error:
        return error
    return None


def _judge(trial: Trial, watch: Watch, plain: Watch, run_id: str | None) -> None:
    pairs = zip(watch.runs, plain.runs, strict=False)
    for run, undisturbed in pairs:
        if run.run_id == run_id:
            message = trial.judge(run, undisturbed)
            if message is not None:
                watch.tell(run.last, "answers", message)


def _tell_after(watch: Watch, message: str) -> None:
    last = watch.runs[-1].last.name if watch.runs else "run_opened"
    at = watch.report.emissions
    watch.report.tell(Violation(last, "run", message, at, given=watch.given))


def _is_planned(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, PlannedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _named(expect: Kinds) -> str:
    kinds = expect if isinstance(expect, tuple) else (expect,)
    return " or ".join(kind.__name__ for kind in kinds)
