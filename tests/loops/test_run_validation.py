"""Validations: their rounds, their means, and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import EventBus, Stop, StopEpoch
from eventbus.loops import Run

from .transcripts import Transcript, answer_on, caught, fail_on


def validations(transcript: Transcript) -> list[str]:
    return [line for line in transcript.lines if line.startswith("validation_")]


def test_validation_metrics_are_means_by_batch_size_under_the_name(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for size, loss in run.validate([(3, 1.0), (1, 5.0)], name="test"):
                run.report(loss=loss, batch_size=size)
    first, _ = transcript.of("validation_batch_finished")
    assert (first["name"], first["round"], first["batch_size"], first["loss"]) == (
        "test",
        1,
        3,
        1.0,
    )
    assert dict(first["metrics"]) == {"test_loss": 1.0}
    assert dict(transcript.of("validation_done")[0]["metrics"]) == {"test_loss": 2.0}
    assert dict(transcript.of("epoch_finished")[0]["metrics"]) == {"test_loss": 2.0}


def test_rounds_count_the_validations_of_each_name(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.epochs(2):
            for name in ("val", "test"):
                for _ in run.validate([1], name=name):
                    run.report(loss=1.0)
    rounds = [(fields["name"], fields["round"]) for fields in transcript.of("validation_done")]
    assert rounds == [("val", 1), ("test", 1), ("val", 2), ("test", 2)]


def test_an_empty_validation_is_done_without_metrics(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.validate([]):
            pass
    assert validations(transcript) == ["validation_started 0.0", "validation_done 0.0"]


def test_the_second_validation_of_an_epoch_replaces_the_first(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for loss in (2.0, 1.0):
                for _ in run.validate([1]):
                    run.report(loss=loss)
    assert dict(transcript.of("epoch_finished")[0]["metrics"]) == {"val_loss": 1.0}


def test_break_leaves_a_validation_done_with_what_was_reported(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for batch in run.validate([1, 2, 3]):
                if batch == 3:
                    break
                run.report(loss=float(batch))
    assert validations(transcript) == [
        "validation_started 1.0",
        "validation_batch_finished 1.0",
        "validation_batch_finished 1.0",
        "validation_done 1.0",
    ]
    assert dict(transcript.of("validation_done")[0]["metrics"]) == {"val_loss": 1.5}
    assert transcript.of("epoch_finished")[0]["complete"] is True


def test_break_after_the_report_counts_the_batch(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for batch in run.validate([1, 2]):
            run.report(loss=float(batch))
            break
    assert dict(transcript.of("validation_done")[0]["metrics"]) == {"val_loss": 1.0}


def test_stop_between_validation_batches_interrupts_it(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "validation_batch_finished", Stop("enough"))
    with Run(bus) as run:
        for _ in run.epochs(2):
            for batch in run.validate([1, 2]):
                run.report(loss=float(batch))
    assert transcript.after("validation_batch_finished")[1:] == [
        "validation_interrupted 1.0 (enough)",
        "epoch_interrupted 1.0 (enough)",
        "run_finished 1.0 (enough)",
        "run_closed (stopped)",
    ]
    assert dict(transcript.of("validation_interrupted")[0]["metrics"]) == {"val_loss": 1.0}
    assert dict(run.metrics) == {}


def test_break_on_a_pending_stop_interrupts_the_validation(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.validate([1, 2]):
                bus.answer(Stop("enough"))
                break
    assert transcript.after("validation_started")[1:3] == [
        "validation_interrupted 1.0 (enough)",
        "epoch_interrupted 1.0 (enough)",
    ]


def test_stop_after_the_last_validation_batch_leaves_all_done(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "validation_batch_finished", Stop("enough"))
    with Run(bus) as run:
        for _ in run.epochs(2):
            for batch in run.validate([1]):
                run.report(loss=float(batch))
    assert transcript.after("validation_batch_finished")[1:3] == [
        "validation_done 1.0",
        "epoch_finished 1.0 (True)",
    ]


def test_a_pending_stop_keeps_validations_from_beginning(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "validation_done", Stop("enough"))
    given: list[str] = []
    with Run(bus) as run:
        for _ in run.epochs(2):
            for name in ("val", "test"):
                given.extend(name for _ in run.validate([1], name=name))
            with run.validation("elsewhere"):
                run.report(loss=1.0)
    assert given == ["val"]
    assert [fields["name"] for fields in transcript.of("validation_started")] == ["val"]
    assert transcript.lines[-3] == "epoch_interrupted 1.0 (enough)"
    assert "elsewhere_loss" not in run.metrics


def test_stop_epoch_does_not_cut_a_validation(bus: EventBus, transcript: Transcript) -> None:
    answer_on(bus, "validation_batch_finished", StopEpoch("enough"))
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.validate([1, 2, 3]):
                run.report(loss=1.0)
    assert transcript.names.count("validation_batch_finished") == 3
    assert transcript.of("epoch_finished")[0]["complete"] is False


# -- inside a step


def validate_inside(bus: EventBus, reports_first: bool) -> None:
    with Run(bus) as run:
        for step in run.steps(2):
            if reports_first:
                run.report(loss=float(step))
            for _ in run.validate([1]):
                run.report(loss=7.0)
            if not reports_first:
                run.report(loss=float(step))


def test_a_reported_step_is_finished_before_a_validation_inside_it(
    bus: EventBus, transcript: Transcript
) -> None:
    validate_inside(bus, reports_first=True)
    assert transcript.after("run_started")[1:6] == [
        "batch_started 0.1",
        "batch_finished 0.1",
        "validation_started 0.1",
        "validation_batch_finished 0.1",
        "validation_done 0.1",
    ]


def test_an_unreported_step_stays_open_around_a_validation_inside_it(
    bus: EventBus, transcript: Transcript
) -> None:
    validate_inside(bus, reports_first=False)
    assert transcript.after("run_started")[1:6] == [
        "batch_started 0.1",
        "validation_started 0.1",
        "validation_batch_finished 0.1",
        "validation_done 0.1",
        "batch_finished 0.1",
    ]
    steps = transcript.of("batch_finished")
    assert [dict(fields["metrics"]) for fields in steps] == [{"loss": 1.0}, {"loss": 2.0}]


def test_break_out_of_a_validation_inside_a_step_gives_the_report_to_the_step(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.steps(1):
            for _ in run.validate([1, 2]):
                break
            run.report(loss=3.0)
    assert dict(transcript.of("validation_done")[0]["metrics"]) == {}
    assert dict(transcript.of("batch_finished")[0]["metrics"]) == {"loss": 3.0}


def test_a_validation_in_the_middle_of_accumulated_micro_batches_leaves_their_step_open(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for batch in run.batches([1, 2], accumulate=2):
            run.report(loss=float(batch))
            if batch == 1:
                for _ in run.validate([1]):
                    pass
    assert dict(transcript.of("batch_finished")[0]["metrics"]) == {"loss": 1.5}


# -- results that are computed elsewhere


def test_results_reported_in_a_validation_block_are_its_metrics(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            with run.validation(name="bleu"):
                run.report(score=31.5)
                run.report(brevity=0.9)
    assert dict(transcript.of("validation_done")[0]["metrics"]) == {
        "bleu_score": 31.5,
        "bleu_brevity": 0.9,
    }
    assert "bleu_score" in transcript.of("epoch_finished")[0]["metrics"]


def test_batches_in_a_validation_block_are_averaged_beside_its_results(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run, run.validation():
        for batch in run.validate([1, 3]):
            run.report(loss=float(batch))
        run.report(accuracy=0.5)
    assert validations(transcript) == [
        "validation_started 0.0",
        "validation_batch_finished 0.0",
        "validation_batch_finished 0.0",
        "validation_done 0.0",
    ]
    metrics = dict(transcript.of("validation_done")[0]["metrics"])
    assert metrics == {"val_loss": 2.0, "val_accuracy": 0.5}


def test_stop_in_a_validation_block_interrupts_it_if_it_cut_its_batches(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "validation_batch_finished", Stop("enough"))
    with Run(bus) as run, run.validation():
        for _ in run.validate([1, 2]):
            pass
    assert validations(transcript)[-1] == "validation_interrupted 0.0 (enough)"


def test_an_exception_in_a_validation_block_interrupts_it_once(
    bus: EventBus, transcript: Transcript
) -> None:
    def body() -> None:
        with Run(bus) as run, run.validation():
            raise ValueError("bad")

    caught(ValueError, body)
    assert transcript.after("validation_started")[1:] == [
        "validation_interrupted 0.0 (ValueError: bad)",
        "run_failed 0.0",
        "run_closed (failed)",
    ]


def test_a_handler_that_fails_as_a_block_is_interrupted_hides_no_failure_before(
    bus: EventBus,
) -> None:
    fail_on(bus, "validation_interrupted", OSError("disk full"))
    first = ValueError("bad")

    def body() -> None:
        with Run(bus) as run, run.validation():
            raise first

    assert caught(ValueError, body) is first
    assert first.__notes__ == ["while closing the run, a handler raised OSError: disk full"]


def test_loops_in_a_validation_block_are_refused(bus: EventBus) -> None:
    with Run(bus) as run, run.validation():
        with pytest.raises(RuntimeError, match=r"run\.batches\(\) inside"):
            next(run.batches([1]))
        with pytest.raises(RuntimeError, match=r"run\.validation\(\) inside"), run.validation():
            pass
        error = caught(RuntimeError, lambda: next(run.validate([1], name="test")))
    assert str(error) == (
        "validation 'test' inside validation 'val': leave name= out to have its batches be a part "
        "of 'val', or move it behind the `with` block of that one"
    )


@pytest.mark.parametrize("name", ["", 3])
def test_the_name_of_a_validation_is_a_non_empty_string(bus: EventBus, name: Any) -> None:
    with Run(bus) as run:
        with pytest.raises(TypeError, match="a validation is named by a non-empty string"):
            next(run.validate([1], name=name))
        with pytest.raises(TypeError, match="got"), run.validation(name):
            pass
