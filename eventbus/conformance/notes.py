"""What is no mistake of a loop, but what handlers will miss in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eventbus.conformance.limits import Limits
from eventbus.conformance.report import Report
from eventbus.conformance.run_rules import RunRules

__all__ = ["note_what_is_missing"]

MISSED_SIGNALS = {
    "loader_opened": "handlers cannot replace the loader",
    "batch_loaded": "handlers cannot change the batches (MixUp, CutMix, AlterBatch)",
    "backward_finished": "handlers cannot see or change the gradients (GradientClipping)",
}
MISSED_CONTEXT = {
    "model": "handlers that name it will fail (EMA, checkpoints of the weights)",
    "optimizer": "handlers that name it will fail (schedules, checkpoints)",
}


def note_what_is_missing(runs: Sequence[RunRules], limits: Limits, report: Report) -> None:
    """Note what handlers will miss in each of the runs."""
    for name in sorted(limits.names):
        report.note(f"{name} is not possible in this loop, as was said")
    for run in runs:
        for text in (
            *_missed_signals(run, limits),
            *_missed_fields(run),
            *_missed_results(run),
            *_missed_context(run),
        ):
            report.note(text)


def _missed_signals(run: RunRules, limits: Limits) -> Iterator[str]:
    if not run.names["batch_finished"]:
        yield "never emits batch_finished: nothing was trained, or handlers do not learn of it"
        return
    for name, consequence in MISSED_SIGNALS.items():
        if not run.names[name] and limits.serves(name):
            yield f"never emits {name}: {consequence}"


def _missed_fields(run: RunRules) -> Iterator[str]:
    for signal, name, consequence in (
        ("batch_finished", "loss", "handlers that name it will fail"),
        ("batch_finished", "batch_size", "handlers cannot tell how many samples were seen"),
    ):
        if run.names[signal] and (signal, name) not in run.fields_sent:
            yield f"{signal} never carries {name}: {consequence}"
    started = {("run_started", "epochs"), ("run_started", "steps")}
    if run.names["run_started"] and not started & run.fields_sent:
        yield "run_started says neither epochs nor steps: progress has no known end"


def _missed_results(run: RunRules) -> Iterator[str]:
    for name in run.between_epochs:
        yield f"validation {name!r} came between epochs: no epoch_finished holds its results"


def _missed_context(run: RunRules) -> Iterator[str]:
    for name, consequence in MISSED_CONTEXT.items():
        if name not in run.context and f"{name}s" not in run.context:
            yield f"the run's context has no {name}: {consequence}"
