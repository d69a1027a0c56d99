"""`check_loop` and `watch_loop`: right runs pass, and each mistake is told in words."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import EventBus
from eventbus.testing import check_loop, play, scripted_run, watch_loop

from .transcribing import (
    Change,
    full_run,
    inserted,
    moved,
    validation_of,
    watched,
    with_fields,
    without,
)

STEP_1 = {"epoch": 1, "step": 1}


def test_a_right_run_has_no_violations() -> None:
    report = watched(full_run())
    assert report.violations == ()
    assert str(report).startswith("no violations in 52 emissions of 1 run\n")


@pytest.mark.parametrize("validation", [[], [{"val_loss": 1.0}, {"val_loss": 0.5}]])
def test_a_scripted_run_has_no_violations(validation: list[dict[str, float]]) -> None:
    script = scripted_run(epochs=2, steps=3, losses=[3, 2, 1], validation=validation)
    assert watched(script).violations == ()


BROKEN: list[tuple[str, Change, str, str]] = [
    # the run
    ("it is not opened", without("run_opened"), "run_started", "came before run_opened"),
    ("it is opened twice", inserted([("run_opened", {})], "run_opened"), "run_opened", "twice"),
    ("it is not started", without("run_started"), "epoch_started", "came before run_started"),
    (
        "it is started twice",
        inserted([("run_started", {})], "epoch_started"),
        "run_started",
        "came twice or too late",
    ),
    ("it is not closed", without("run_closed"), "run_finished", "run_closed is always the last"),
    (
        "it does not say how it ended",
        without("run_finished"),
        "run_closed",
        "came without run_finished or run_failed",
    ),
    (
        "it ends in two ways",
        inserted(
            [("run_failed", {"exception": ValueError(), "epoch": 2, "step": 6})], "run_finished"
        ),
        "run_failed",
        "came after run_finished: a run ends once",
    ),
    (
        "it goes on after its end",
        inserted([("metrics_measured", {"metrics": {}})], "run_closed"),
        "metrics_measured",
        "came after run_closed",
    ),
    (
        "it trains after run_finished",
        inserted([("validation_started", {**STEP_1, "name": "val", "round": 3})], "run_finished"),
        "validation_started",
        "came after run_finished: run_closed alone may follow",
    ),
    (
        "its outcome is not its end",
        with_fields("run_closed", outcome="stopped"),
        "run_closed",
        "says outcome 'stopped' after run_finished; 'completed' was expected",
    ),
    # epochs
    (
        "epochs count from 0",
        with_fields("epoch_started", epoch=0),
        "epoch_started",
        "epoch 0 begins, and 1 is next: epochs go up by one from 1",
    ),
    (
        "an epoch is left out",
        with_fields("epoch_started", nth=2, epoch=3),
        "epoch_started",
        "epoch 3 begins, and 2 is next",
    ),
    (
        "an epoch does not begin",
        without("epoch_started", 2),
        "loader_opened",
        "says epoch 2 outside of any epoch: no epoch_started came before",
    ),
    (
        "an epoch does not end",
        without("epoch_finished"),
        "epoch_started",
        "epoch 1 is still open: epoch_finished or epoch_interrupted comes first",
    ),
    (
        "an epoch ends twice",
        inserted(
            [("epoch_interrupted", {"epoch": 1, "step": 3, "reason": "why", "metrics": {}})],
            "epoch_finished",
        ),
        "epoch_interrupted",
        "ends epoch 1, and none is under way: epoch 1 is over already",
    ),
    (
        "an epoch is interrupted by nothing",
        lambda script: [
            ("epoch_interrupted", {"epoch": 2, "step": 6, "reason": "why", "metrics": {}})
            if (name, fields.get("epoch")) == ("epoch_finished", 2)
            else (name, fields)
            for name, fields in script
        ],
        "run_finished",
        "an epoch was interrupted, which only a Stop or a failure does",
    ),
    (
        "an epoch does not say whether it is complete",
        with_fields("epoch_finished", complete=...),
        "epoch_finished",
        "came without 'complete'",
    ),
    # steps
    (
        "a batch comes before its loader",
        without("loader_opened"),
        "batch_loaded",
        "a batch was loaded before loader_opened told of its loader",
    ),
    (
        "a step repeats",
        with_fields("batch_started", nth=3, step=1),
        "batch_started",
        "says step 1; step 2 is under way",
    ),
    (
        "a step is left out",
        with_fields("batch_loaded", nth=4, step=3),
        "batch_loaded",
        "says step 3; 2 is next: steps go up by one, and a skipped one keeps its number",
    ),
    (
        "a finished step comes again",
        with_fields("batch_loaded", nth=4, step=1),
        "batch_loaded",
        "says step 1; that one is finished: 2 is next",
    ),
    (
        "a batch index repeats",
        with_fields("batch_loaded", nth=3, batch_index=2),
        "batch_loaded",
        "says batch_index 2; 3 was expected",
    ),
    (
        "a step finishes twice",
        inserted(
            [("batch_finished", {**STEP_1, "loss": 1.0, "metrics": {"loss": 1.0}})],
            "batch_finished",
        ),
        "batch_finished",
        "step 1 is finished already: batch_started comes first",
    ),
    (
        "a step is started twice",
        inserted([("batch_started", STEP_1)], "batch_started"),
        "batch_started",
        "step 1 was started already",
    ),
    (
        "a step is not started",
        without("batch_started", 2),
        "backward_finished",
        "step 1 was loaded and not started: batch_started comes first",
    ),
    (
        "a step has no batch",
        lambda script: without("batch_loaded", 4)(without("batch_loaded", 4)(script)),
        "batch_started",
        "step 2 starts without batch_loaded before it",
    ),
    (
        "a step is not finished",
        without("batch_finished", 3),
        "epoch_finished",
        "step 3 is still open: batch_finished or batch_skipped comes first",
    ),
    (
        "the gradients come after the step",
        moved("backward_finished", 1, "batch_finished", 1),
        "backward_finished",
        "step 1 is finished already: batch_started comes first",
    ),
    (
        "the gradients come twice",
        inserted([("backward_finished", {**STEP_1, "loss": 1.0})], "backward_finished"),
        "backward_finished",
        "came twice in step 1",
    ),
    (
        "the gradients come in some steps",
        without("backward_finished", 2),
        "batch_finished",
        "step 2 came without backward_finished, unlike the steps before: once per step, or never",
    ),
    (
        "a step of another epoch",
        with_fields("batch_finished", epoch=2),
        "batch_finished",
        "says epoch 2, but epoch 1 is under way",
    ),
    (
        "nothing is skipped",
        inserted([("batch_skipped", {**STEP_1, "step": 2, "reason": "why"})], "batch_finished"),
        "batch_skipped",
        "nothing is there to skip",
    ),
    # validations
    (
        "a validation does not begin",
        without("validation_started"),
        "validation_batch_finished",
        "is of validation 'val', round 1, which is not open: validation_started first",
    ),
    (
        "a validation does not end",
        without("validation_done"),
        "epoch_finished",
        "validation 'val', round 1, is still open: validation_done or validation_interrupted",
    ),
    (
        "a round repeats",
        with_fields("validation_started", nth=2, round=1),
        "validation_started",
        "validation 'val' begins round 1, and round 2 is next",
    ),
    (
        "the rounds differ within a validation",
        with_fields("validation_done", round=2),
        "validation_done",
        "is of validation 'val', round 2, but validation 'val', round 1, is under way",
    ),
    (
        "a validation is of another step",
        with_fields("validation_started", step=4),
        "validation_started",
        "says step 4, but step 3 is the last one finished",
    ),
    (
        "training goes on within a validation",
        moved("validation_done", 1, "epoch_started", 2),
        "epoch_finished",
        "is still open",
    ),
    # metrics
    (
        "an epoch has no metrics",
        with_fields("epoch_finished", metrics=...),
        "epoch_finished",
        "came without 'metrics'",
    ),
    (
        "an epoch lacks what its steps reported",
        with_fields("epoch_finished", metrics={"val_loss": 0.25}),
        "epoch_finished",
        "metrics lacks 'loss', which the steps of the epoch reported",
    ),
    (
        "an epoch lacks its validation",
        with_fields("epoch_finished", metrics={"loss": 0.5}),
        "epoch_finished",
        "metrics lacks 'val_loss', which was validated in this epoch",
    ),
    (
        "an epoch tells of an older validation",
        lambda script: [
            emitted
            for emitted in script
            if not (emitted[0].startswith("validation") and emitted[1]["round"] == 2)
        ],
        "epoch_finished",
        "metrics has 'val_loss', which is of an earlier epoch's validation",
    ),
    (
        "an epoch gives another value than its validation",
        with_fields("epoch_finished", metrics={"loss": 0.5, "val_loss": 0.75}),
        "epoch_finished",
        "says 'val_loss' 0.75; its validation has said 0.25",
    ),
    (
        "a validation's metrics have no prefix",
        with_fields("validation_done", metrics={"loss": 0.25}),
        "validation_done",
        "metrics has 'loss'; the metrics of a validation are <name>_<key>: 'val_loss'",
    ),
    (
        "the loss is in the metrics alone",
        with_fields("batch_finished", loss=...),
        "batch_finished",
        "metrics has a loss, and the field 'loss' was not sent",
    ),
    (
        "the loss is in the field alone",
        with_fields("batch_finished", metrics={}),
        "batch_finished",
        "carries a loss that its metrics lack",
    ),
    (
        "a metric is a text",
        with_fields("batch_finished", metrics={"loss": "0.5"}),
        "batch_finished",
        "metrics['loss'] is to be one number; got a str",
    ),
    # fields
    (
        "a required field is missing",
        with_fields("batch_started", step=...),
        "batch_started",
        "came without 'step'",
    ),
    (
        "a count is a float",
        with_fields("epoch_started", epoch=1.0),
        "epoch_started",
        "'epoch' is to be an int from 0; got 1.0",
    ),
    (
        "a batch is empty",
        with_fields("batch_finished", batch_size=0),
        "batch_finished",
        "'batch_size' is to be an int from 1; got 0",
    ),
    (
        "time goes backward",
        with_fields("batch_finished", duration_s=-0.5),
        "batch_finished",
        "'duration_s' is to be seconds, a float from 0; got -0.5",
    ),
    (
        "a reason is empty",
        with_fields("batch_skipped", reason=""),
        "batch_skipped",
        "'reason' is to be a str that is not empty; got ''",
    ),
]


@pytest.mark.parametrize(
    ("change", "signal", "message"), [each[1:] for each in BROKEN], ids=[e[0] for e in BROKEN]
)
def test_a_broken_run_is_told_what_is_wrong(change: Change, signal: str, message: str) -> None:
    first, *_ = watched(change(full_run())).violations
    assert first.signal == signal
    assert message in first.message
    assert first.run == "train"


def test_a_bus_on_which_nothing_happens_has_no_run() -> None:
    (violation,) = check_loop(lambda bus: None).violations
    assert violation.message == "no run was opened on the bus: run_opened comes first of all"


def test_the_trials_are_made_with_a_bus_of_their_own() -> None:
    buses: list[EventBus] = []

    def train(bus: EventBus) -> Any:
        buses.append(bus)
        play(bus, scripted_run())

    report = check_loop(train)
    assert len(set(map(id, buses))) == report.runs > 1


def test_a_watch_ends_with_its_block() -> None:
    bus = EventBus()
    with watch_loop(bus) as report:
        play(bus, scripted_run(1, 1))
    play(bus, validation_of(1, 1))
    assert (report.violations, report.emissions) == ((), 9)
    assert bus.subscriptions == ()
