"""`docs/signals.md`: the standard vocabulary as a page, made from the stubs.

Only the annotated run is kept by hand; a test checks that each standard signal occurs in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventbus.cli.markdown import cell, table
from eventbus.cli.vocabulary import FieldFacts, SignalFacts, signal_facts
from eventbus.signals import STANDARD

RUN = """\
run_opened                                   first of all
    state_restored                           a restorer emits it, and answers Restored(path)
run_started                                  epochs, steps, resumed_from

for epoch in 1, 2, …:
    epoch_started
    loader = loader_opened(loader)           a transform: curricula, samplers
    for batch in loader:
        batch = batch_loaded(batch)          a transform: mixup, cutmix; may answer SkipBatch
        batch_started                        once per step, at its first micro-batch
        loss = loss_of(model(inputs), targets)
        loss.backward()
        backward_finished                    may alter gradients, or answer SkipBatch
        if skipped:
            batch_skipped                    the next step has the same number
        else:
            optimizer.step()
            batch_finished                   metrics, loss, batch, outputs, targets, times
        learning_rate_changed                when a scheduler or a handler changed it

    validation_started                       anywhere: each epoch, each 1000 steps, before training
    for batch in validation_loader:
        validation_batch_finished
    validation_done                          metrics
    validation_interrupted                   in its place, when cut short

    epoch_finished                           training means and this epoch's validations
    epoch_interrupted                        in its place, when a Stop or a failure ended it

run_finished                                 reason: "completed", or the Stop's
run_failed                                   in its place: exception, Ctrl-C too
run_closed                                   always the last one: flush and close

at any time
    metrics_measured                         a handler measured something: for loggers
    figure_drawn, text_written               a handler made something to see: for every tracker
    state_requested                          a checkpoint is being made: who has state answers
    checkpoint_saved                         … and is on disk
    stop_requested                           a Stop was accepted; the loop ends at a safe point
    handler_failed                           an isolated handler raised; training goes on
"""

HEAD = """\
# Signals

The standard vocabulary: what a training loop says, when, and what rides on it. Written by
`eventbus docs` from `eventbus/signals.py` and `eventbus/fields.py`; edit those.

* **Counts** start at 1 and number what is under way or done. All signals of one optimizer step
  carry its number; it is 0 before the first.
* The **clock** is the field that `every(n)`, `at(n)`, `from_(n)` and `until(n)` read. On a signal
  without one they count its emissions.
* An **optional** field may be left out by a loop that does not know it. A handler that names it
  without a default fails at the first emission that lacks it; `def log(step, loss=None)` does not.
* The field of a **transform** is replaced by what a handler returns, for the handlers after it and
  for the loop.
* Each signal of a run carries its **context** too, for any handler that names it: `run_id`, `run`,
  and what the loop gave of `model`, `optimizer`, `scheduler`, `models`, `optimizers` and `config`.
  Give the parameter a default where it may be missing. The bus itself gives `event`, `sender` and
  `bus`.
* **Metrics** are read-only mappings to `float`; the first read moves all pending device values in
  one transfer, for all handlers.
"""


def signals_page() -> str:
    """Write the whole page, as Markdown.

    Examples
    --------
    >>> from eventbus.cli.signals_page import signals_page
    >>> signals_page().splitlines()[0]
    '# Signals'
    """
    facts = [signal_facts(declaration) for declaration in STANDARD.values()]
    parts = [HEAD, "## A run\n", f"```text\n{RUN}```\n", "## At a glance\n", _overview(facts)]
    parts += ["## Each signal\n", *(_section(one) for one in facts)]
    return "\n".join(parts)


def _overview(facts: Iterable[SignalFacts]) -> str:
    rows = [
        (
            f"[`{one.name}`](#{one.name})",
            one.clock or "–",
            cell(one.when),
            cell(one.often),
            ", ".join(_short(field) for field in one.fields) or "–",
        )
        for one in facts
    ]
    glance = table(("signal", "clock", "when", "how often", "fields"), rows)
    return f"{glance}\n`?` marks an optional field, **bold** one that handlers may replace.\n"


def _short(field: FieldFacts) -> str:
    name = f"**{field.name}**" if field.is_value else field.name
    return f"{name}?" if field.is_optional else name


def _section(facts: SignalFacts) -> str:
    kind = "transform" if any(field.is_value for field in facts.fields) else "signal"
    head = f"### {facts.name}\n\n{facts.when} {facts.often}\n"
    notes = f"\n{facts.notes}\n" if facts.notes else ""
    clock = f"\nA {kind}; clock: {facts.clock or 'none'}.\n"
    return "".join((head, notes, clock, "\n" if facts.fields else "", _fields(facts.fields)))


def _fields(fields: tuple[FieldFacts, ...]) -> str:
    if not fields:
        return "\nNo fields.\n"
    rows = [
        (
            f"`{field.name}`",
            f"`{cell(field.type)}`",
            field.unit or "–",
            "optional" if field.is_optional else "always",
            cell(field.meaning),
        )
        for field in fields
    ]
    return table(("field", "type", "unit", "sent", "meaning"), rows)
