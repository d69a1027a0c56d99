"""How runs end: each span is closed exactly once, and run_closed is the last, whatever happened."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import pytest

from eventbus import EventBus, SkipBatch, Stop, StopEpoch
from eventbus.loops import Run

from .transcripts import Transcript, answer_on, caught, fail_on

BATCHES = ["a", "b"]


def train(bus: EventBus, epochs: int = 1, validation: list[str] | None = None) -> Run:
    """A plain loop: two batches, then a validation where there is one."""
    with Run(bus) as run:
        for _ in run.epochs(epochs):
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
            for _ in run.validate(validation or []):
                run.report(loss=2.0)
    return run


def train_batches(bus: EventBus, epochs: int = 1) -> Run:
    with Run(bus) as run:
        for _ in run.epochs(epochs):
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
    return run


# -- by itself


def test_run_tells_its_whole_course(bus: EventBus, transcript: Transcript) -> None:
    run = train(bus, epochs=1, validation=["v"])
    assert transcript.lines == [
        "run_opened",
        "run_started",
        "epoch_started 1.0",
        "loader_opened 1.0",
        "batch_loaded 1.1",
        "batch_started 1.1",
        "batch_finished 1.1",
        "batch_loaded 1.2",
        "batch_started 1.2",
        "batch_finished 1.2",
        "validation_started 1.2",
        "validation_batch_finished 1.2",
        "validation_done 1.2",
        "epoch_finished 1.2 (True)",
        "run_finished 1.2 (completed)",
        "run_closed (completed)",
    ]
    assert (run.outcome, run.stop, run.epoch, run.step) == ("completed", None, 1, 2)


def test_run_without_loops_starts_and_finishes(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus):
        pass
    assert transcript.lines == [
        "run_opened",
        "run_started",
        "run_finished 0.0 (completed)",
        "run_closed (completed)",
    ]


def test_run_started_says_how_long_the_run_will_be(bus: EventBus, transcript: Transcript) -> None:
    train_batches(bus, epochs=3)
    (started,) = transcript.of("run_started")
    assert started == {"epochs": 3, "steps": None, "resumed_from": None}


def test_a_body_that_reports_nothing_is_finished_without_metrics(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.batches(BATCHES):
            pass
    assert [dict(fields["metrics"]) for fields in transcript.of("batch_finished")] == [{}, {}]
    assert run.step == 2


def test_an_empty_loader_leaves_a_complete_epoch(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches([]):
                pass
    assert transcript.after("epoch_started")[1:3] == [
        "loader_opened 1.0",
        "epoch_finished 1.0 (True)",
    ]


# -- by break and return


def test_break_after_a_report_finishes_the_batch_and_the_epoch(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
                break
    assert transcript.after("batch_started") == [
        "batch_started 1.1",
        "batch_finished 1.1",
        "epoch_finished 1.1 (False)",
        "run_finished 1.1 (completed)",
        "run_closed (completed)",
    ]


def test_break_before_a_report_skips_the_batch(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(BATCHES):
                break
    assert transcript.after("batch_started")[1:3] == [
        "batch_skipped 1.1 (the loop was left before anything was reported)",
        "epoch_finished 1.0 (False)",
    ]


def test_break_out_of_the_epochs_finishes_the_epoch_as_incomplete(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(5):
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
            break
    assert transcript.lines[-3:] == [
        "epoch_finished 1.2 (False)",
        "run_finished 1.2 (completed)",
        "run_closed (completed)",
    ]


def test_return_closes_everything_as_break_does(bus: EventBus, transcript: Transcript) -> None:
    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(2):
                for _ in run.batches(BATCHES):
                    run.report(loss=1.0)
                    return

    body()
    assert transcript.after("batch_finished") == [
        "batch_finished 1.1",
        "epoch_finished 1.1 (False)",
        "run_finished 1.1 (completed)",
        "run_closed (completed)",
    ]


def test_a_report_after_break_is_for_the_epoch_not_for_the_batch(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
                break
            run.report(learning_rate=0.1)
    (finished,) = transcript.of("batch_finished")
    (epoch,) = transcript.of("epoch_finished")
    assert dict(finished["metrics"]) == {"loss": 1.0}
    assert dict(epoch["metrics"]) == {"loss": 1.0, "learning_rate": 0.1}


def test_what_is_emitted_after_break_comes_after_the_batch(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(BATCHES):
                break
            run.emit("text_written", tag="note", text="left")
    assert transcript.names.index("batch_skipped") < transcript.names.index("text_written")


def test_a_loop_kept_in_a_variable_is_closed_by_the_next_loop(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(2):
            batches = run.batches(BATCHES)
            for _ in batches:
                run.report(loss=1.0)
                break
    assert transcript.of("epoch_finished")[0]["complete"] is False
    assert transcript.names.count("batch_finished") == transcript.names.count("batch_started") == 2


# -- by a Stop


def test_stop_on_the_first_step_interrupts_the_epoch(bus: EventBus, transcript: Transcript) -> None:
    answer_on(bus, "batch_finished", Stop("enough", exit_code=None), step=1)
    run = train(bus, epochs=3, validation=["v"])
    assert transcript.after("batch_finished") == [
        "batch_finished 1.1",
        "epoch_interrupted 1.1 (enough)",
        "run_finished 1.1 (enough)",
        "run_closed (stopped)",
    ]
    assert run.stop is not None
    assert (run.outcome, run.stop.reason, run.stop.by) == ("stopped", "enough", "answering")


def test_stop_on_the_last_step_of_an_epoch_leaves_it_finished(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "batch_finished", Stop("enough"), step=2)
    train_batches(bus, epochs=3)
    assert transcript.after("batch_finished", 2)[1:] == [
        "epoch_finished 1.2 (True)",
        "run_finished 1.2 (enough)",
        "run_closed (stopped)",
    ]


def test_stop_on_the_last_step_interrupts_an_epoch_whose_validation_it_cuts(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "batch_finished", Stop("enough"), step=2)
    train(bus, validation=["v"])
    assert "validation_started" not in transcript.names
    assert transcript.lines[-3] == "epoch_interrupted 1.2 (enough)"


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        ("run_opened", ["run_started", "run_finished 0.0 (enough)"]),
        ("run_started", ["run_finished 0.0 (enough)"]),
        ("epoch_started", ["epoch_interrupted 1.0 (enough)", "run_finished 1.0 (enough)"]),
        ("loader_opened", ["epoch_interrupted 1.0 (enough)", "run_finished 1.0 (enough)"]),
        (
            "batch_loaded",
            [
                "batch_skipped 1.1 (enough)",
                "epoch_interrupted 1.0 (enough)",
                "run_finished 1.0 (enough)",
            ],
        ),
        (
            "batch_started",
            [
                "batch_skipped 1.1 (enough)",
                "epoch_interrupted 1.0 (enough)",
                "run_finished 1.0 (enough)",
            ],
        ),
        ("epoch_finished", ["run_finished 1.2 (enough)"]),
    ],
)
def test_stop_takes_effect_at_the_next_safe_point(
    bus: EventBus, transcript: Transcript, signal: str, expected: list[str]
) -> None:
    answer_on(bus, signal, Stop("enough"))
    run = train_batches(bus, epochs=2)
    assert transcript.after(signal)[1:] == [*expected, "run_closed (stopped)"]
    assert run.outcome == "stopped"


def test_stop_given_in_the_body_by_somebody_else_lets_the_body_end(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _ in run.batches(BATCHES):
                bus.answer(Stop("SIGTERM"))
                run.report(loss=1.0)
    assert transcript.after("batch_finished")[-3:] == [
        "epoch_interrupted 1.1 (SIGTERM)",
        "run_finished 1.1 (SIGTERM)",
        "run_closed (stopped)",
    ]


def test_break_on_a_pending_stop_interrupts_the_epoch(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "backward_finished", Stop("enough"))
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(BATCHES):
                if run.emit("backward_finished").stop:
                    break
    assert transcript.after("backward_finished")[1:] == [
        "batch_skipped 1.1 (enough)",
        "epoch_interrupted 1.0 (enough)",
        "run_finished 1.0 (enough)",
        "run_closed (stopped)",
    ]


def test_a_stop_after_a_break_of_the_loops_own_leaves_the_epoch_finished(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "validation_done", Stop("good enough"))
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _ in run.batches(BATCHES):
                break
            for _ in run.validate(["v"]):
                pass
    assert transcript.lines[-3:] == [
        "epoch_finished 1.0 (False)",
        "run_finished 1.0 (good enough)",
        "run_closed (stopped)",
    ]


def test_stop_with_an_exit_code_leaves_the_process_after_run_closed(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "batch_finished", Stop("SIGTERM", exit_code=143), step=1)
    error = caught(SystemExit, lambda: train(bus))
    assert isinstance(error, SystemExit)
    assert error.code == 143
    assert transcript.lines[-2:] == ["run_finished 1.1 (SIGTERM)", "run_closed (stopped)"]


def test_interrupted_tells_the_body_of_the_epoch_that_a_stop_cut_it(bus: EventBus) -> None:
    answer_on(bus, "batch_finished", Stop("enough"), step=3)
    seen = []
    with Run(bus) as run:
        for _ in run.epochs(3):
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
            seen.append(run.interrupted)
    assert seen == [False, True]


# -- by a StopEpoch, by a SkipBatch


def test_stop_epoch_ends_this_epoch_and_not_the_next(bus: EventBus, transcript: Transcript) -> None:
    answer_on(bus, "batch_finished", StopEpoch("seen enough"), step=1)
    train(bus, epochs=2, validation=["v"])
    assert [name for name in transcript.lines if "epoch_" in name] == [
        "epoch_started 1.0",
        "epoch_finished 1.1 (False)",
        "epoch_started 2.1",
        "epoch_finished 2.3 (True)",
    ]
    assert transcript.names.count("validation_done") == 2


def test_stop_epoch_then_a_stop_leaves_the_epoch_finished(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "batch_finished", StopEpoch("seen enough"), step=1)
    answer_on(bus, "validation_done", Stop("good enough"))
    train(bus, epochs=2, validation=["v"])
    assert transcript.lines[-3:] == [
        "epoch_finished 1.1 (False)",
        "run_finished 1.1 (good enough)",
        "run_closed (stopped)",
    ]


def test_stop_epoch_without_epochs_ends_nothing(bus: EventBus) -> None:
    answer_on(bus, "batch_finished", StopEpoch("no epoch here"), step=1)
    with Run(bus) as run:
        for _ in run.batches(BATCHES):
            run.report(loss=1.0)
    assert run.step == 2


@pytest.mark.parametrize("signal", ["batch_loaded", "batch_started"])
def test_a_batch_skipped_before_its_body_is_never_given_and_uses_no_number(
    bus: EventBus, transcript: Transcript, signal: str
) -> None:
    skips = iter([SkipBatch("not this one"), None])
    bus.on(signal)(lambda: next(skips))
    given = []
    with Run(bus) as run:
        for batch in run.batches(BATCHES):
            given.append(batch)
            run.report(loss=1.0)
    assert given == ["b"]
    assert transcript.of("batch_skipped") == [{"epoch": 0, "step": 1, "reason": "not this one"}]
    assert [fields["step"] for fields in transcript.of("batch_finished")] == [1]


@pytest.mark.parametrize("reports", ["before", "after", "never"])
def test_a_loop_that_was_told_to_skip_has_skipped_its_step(
    bus: EventBus, transcript: Transcript, reports: str
) -> None:
    skips = iter([SkipBatch("loss is not finite"), None])
    bus.on("backward_finished")(lambda: next(skips))
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(BATCHES):
                if reports == "before":
                    run.report(loss=1.0)
                run.emit("backward_finished")
                if reports == "after":
                    run.report(loss=1.0)
    assert [line for line in transcript.lines if line.startswith("batch_s")] == [
        "batch_started 1.1",
        "batch_skipped 1.1 (loss is not finite)",
        "batch_started 1.1",
    ]
    assert transcript.lines[-3] == "epoch_finished 1.1 (True)"


def test_the_metrics_of_a_skipped_step_are_in_no_mean(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "backward_finished", SkipBatch("spike"))
    losses = iter([100.0, 1.0])
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(BATCHES):
                loss = next(losses)
                if loss > 50:
                    run.emit("backward_finished", loss=loss)
                run.report(loss=loss)
    assert dict(transcript.of("epoch_finished")[0]["metrics"]) == {"loss": 1.0}


# -- by failure


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_in_the_body_closes_every_span_and_goes_on(
    bus: EventBus, transcript: Transcript, error: BaseException
) -> None:
    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(2):
                for _ in run.batches(BATCHES):
                    raise error

    assert caught(type(error), body) is error
    said = {"ValueError": "ValueError: bad", "SystemExit": "SystemExit: 3"}
    reason = said.get(type(error).__name__, "KeyboardInterrupt")
    assert transcript.after("batch_started")[1:] == [
        f"batch_skipped 1.1 ({reason})",
        f"epoch_interrupted 1.0 ({reason})",
        "run_failed 1.0",
        "run_closed (failed)",
    ]
    assert transcript.of("run_failed")[0]["exception"] is error


def test_an_epoch_that_a_stop_has_cut_is_interrupted_for_that_where_its_body_fails_then(
    bus: EventBus, transcript: Transcript
) -> None:
    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(2):
                for _ in run.batches(BATCHES):
                    run.report(loss=1.0)
                raise ValueError("no mean of nothing")

    answer_on(bus, "batch_finished", Stop("enough"), step=1)
    caught(ValueError, body)
    assert transcript.after("batch_finished")[1:] == [
        "epoch_interrupted 1.1 (enough)",
        "run_failed 1.1",
        "run_closed (failed)",
    ]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_exception_within_a_step_is_why_the_epoch_is_interrupted_though_a_stop_is_pending(
    bus: EventBus, transcript: Transcript, error: BaseException
) -> None:
    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(2):
                for _ in run.batches(BATCHES):
                    bus.answer(Stop("enough"))
                    raise error

    caught(type(error), body)
    assert "(enough)" not in transcript.after("batch_started")[2]


def test_an_exception_after_the_report_leaves_the_batch_finished(
    bus: EventBus, transcript: Transcript
) -> None:
    def body() -> None:
        with Run(bus) as run:
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
                raise ValueError("bad")

    caught(ValueError, body)
    assert transcript.after("batch_finished") == [
        "batch_finished 0.1",
        "run_failed 0.1",
        "run_closed (failed)",
    ]


def test_an_exception_in_a_validation_interrupts_it(bus: EventBus, transcript: Transcript) -> None:
    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(1):
                for _ in run.validate(BATCHES):
                    raise ValueError("bad")

    caught(ValueError, body)
    assert transcript.after("validation_started")[1:] == [
        "validation_interrupted 1.0 (ValueError: bad)",
        "epoch_interrupted 1.0 (ValueError: bad)",
        "run_failed 1.0",
        "run_closed (failed)",
    ]


def test_an_exception_that_the_user_handles_ends_only_its_loop(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(1):
            try:
                for _ in run.batches(BATCHES):
                    raise ValueError("bad")
            except ValueError:
                pass
    assert transcript.lines[-3:] == [
        "epoch_finished 1.0 (False)",
        "run_finished 1.0 (completed)",
        "run_closed (completed)",
    ]


EVERY_SIGNAL = [
    "run_opened",
    "run_started",
    "epoch_started",
    "loader_opened",
    "batch_loaded",
    "batch_started",
    "batch_finished",
    "validation_started",
    "validation_batch_finished",
    "validation_done",
    "epoch_finished",
    "run_finished",
    "run_closed",
]


@pytest.mark.parametrize("signal", EVERY_SIGNAL)
@pytest.mark.parametrize("error", [ValueError("handler"), KeyboardInterrupt()])
def test_a_failing_handler_ends_the_run_with_each_span_closed_once(
    bus: EventBus, transcript: Transcript, signal: str, error: BaseException
) -> None:
    fail_on(bus, signal, error)
    assert caught(type(error), lambda: train(bus, epochs=2, validation=["v"])) is error
    assert_closed_once(transcript.names)
    assert transcript.names[-1] == "run_closed"
    if signal != "run_closed":
        assert transcript.lines[-1] == "run_closed (failed)"
        assert bus.open_runs == ()


def assert_closed_once(names: list[str]) -> None:
    pairs = {
        "epoch_started": ("epoch_finished", "epoch_interrupted"),
        "validation_started": ("validation_done", "validation_interrupted"),
        "run_opened": ("run_closed",),
    }
    for opening, closings in pairs.items():
        assert names.count(opening) == sum(names.count(each) for each in closings), opening
    assert names.count("batch_loaded") == names.count("batch_finished") + names.count(
        "batch_skipped"
    )
    assert names.count("run_failed") + names.count("run_finished") == 1


@pytest.mark.parametrize("signal", EVERY_SIGNAL)
def test_stop_iteration_out_of_a_handler_is_no_end_of_the_data(bus: EventBus, signal: str) -> None:
    fail_on(bus, signal, StopIteration())
    error = caught(RuntimeError, lambda: train(bus, validation=["v"]))
    assert isinstance(error.__cause__, StopIteration)


def test_stop_iteration_out_of_an_isolated_handler_leaves_the_epoch_whole(bus: EventBus) -> None:
    def leaking(step: int) -> None:
        raise StopIteration

    bus.on("batch_started", on_error="isolate")(leaking)
    assert train(bus, epochs=2).step == 4


@pytest.mark.parametrize(
    "signal", ["batch_skipped", "epoch_interrupted", "run_failed", "run_closed"]
)
def test_a_handler_that_fails_while_closing_does_not_hide_the_failure_before(
    bus: EventBus, transcript: Transcript, caplog: pytest.LogCaptureFixture, signal: str
) -> None:
    fail_on(bus, signal, OSError("disk full"))
    first = ValueError("bad")

    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(1):
                for _ in run.batches(BATCHES):
                    raise first

    with caplog.at_level(logging.ERROR, logger="eventbus.loops"):
        assert caught(ValueError, body) is first
    assert first.__notes__ == ["while closing the run, a handler raised OSError: disk full"]
    assert "disk full" in caplog.text
    assert transcript.names[-4:] == [
        "batch_skipped",
        "epoch_interrupted",
        "run_failed",
        "run_closed",
    ]


def test_a_second_ctrl_c_while_closing_still_closes_the_run(
    bus: EventBus, transcript: Transcript
) -> None:
    second = KeyboardInterrupt()
    fail_on(bus, "batch_skipped", second)

    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(1):
                for _ in run.batches(BATCHES):
                    raise KeyboardInterrupt

    assert caught(KeyboardInterrupt, body) is second
    assert transcript.names[-3:] == ["epoch_interrupted", "run_failed", "run_closed"]


def test_a_validation_is_interrupted_though_the_handler_of_its_last_batch_fails(
    bus: EventBus, transcript: Transcript
) -> None:
    fail_on(bus, "validation_batch_finished", OSError("disk full"))
    first = ValueError("bad")

    def body() -> None:
        with Run(bus) as run:
            for _ in run.validate(["v"]):
                run.report(loss=1.0)
                raise first

    assert caught(ValueError, body) is first
    assert transcript.after("validation_batch_finished")[1:] == [
        "validation_interrupted 0.0 (ValueError: bad)",
        "run_failed 0.0",
        "run_closed (failed)",
    ]


def test_a_failure_in_run_finished_fails_the_run_that_is_closed(
    bus: EventBus, transcript: Transcript
) -> None:
    fail_on(bus, "run_finished", OSError("disk full"))
    caught(OSError, lambda: train(bus))
    assert transcript.lines[-2:] == ["run_finished 1.2 (completed)", "run_closed (failed)"]


def test_a_failing_loader_fails_the_run(bus: EventBus, transcript: Transcript) -> None:
    def loader() -> object:
        yield "a"
        raise OSError("no such file")

    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(1):
                for _ in run.batches(loader()):  # type: ignore[arg-type]  # a generator
                    run.report(loss=1.0)

    caught(OSError, body)
    assert transcript.after("batch_finished") == [
        "batch_finished 1.1",
        "epoch_interrupted 1.1 (OSError: no such file)",
        "run_failed 1.1",
        "run_closed (failed)",
    ]


# -- misuse


def test_a_run_must_be_opened(bus: EventBus) -> None:
    run = Run(bus)
    with pytest.raises(RuntimeError, match="with Run"):
        run.epochs(1)
    assert (run.epoch, run.step, run.outcome, run.stop, dict(run.metrics)) == (0, 0, None, None, {})


def test_a_run_is_opened_once(bus: EventBus) -> None:
    run = train(bus)
    with pytest.raises(RuntimeError, match="once"), run:
        pass


def test_a_closed_run_emits_nothing_more(bus: EventBus, transcript: Transcript) -> None:
    run = train(bus)
    with pytest.raises(RuntimeError, match="over"):
        run.report(loss=1.0)
    with pytest.raises(RuntimeError, match="over"):
        next(run.epochs(9))
    assert transcript.names[-1] == "run_closed"


@pytest.mark.parametrize("count", [-1, 2.5, "3", None])
def test_run_refuses_what_is_no_count(bus: EventBus, count: object) -> None:
    with Run(bus) as run:
        with pytest.raises(ValueError, match="epochs must be an int"):
            run.epochs(count)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="accumulate must be an int"):
            run.batches([], accumulate=count)  # type: ignore[arg-type]


def test_a_later_stop_with_an_exit_code_leaves_the_process_too(bus: EventBus) -> None:
    answer_on(bus, "batch_finished", Stop("enough"), step=1)
    answer_on(bus, "epoch_interrupted", Stop("SIGTERM", exit_code=143))
    runs: list[Run] = []

    def body() -> None:
        with Run(bus) as run:
            runs.append(run)
            for _ in run.epochs(1):
                for _ in run.batches(BATCHES):
                    run.report(loss=1.0)

    error = caught(SystemExit, body)
    assert isinstance(error, SystemExit)
    (run,) = runs
    assert run.stop is not None
    assert (error.code, run.outcome, run.stop.reason) == (143, "stopped", "enough")


class UnspeakableError(Exception):
    """Its words are an error of their own."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_failure_that_cannot_be_worded_closes_the_run_as_any_other(
    bus: EventBus, transcript: Transcript
) -> None:
    first = UnspeakableError()

    def body() -> None:
        with Run(bus) as run:
            for _ in run.epochs(1):
                raise first

    assert caught(UnspeakableError, body) is first
    assert [line.partition(" ")[0] for line in transcript.lines[-3:]] == [
        "epoch_interrupted",
        "run_failed",
        "run_closed",
    ]


def test_run_closed_is_the_last_though_a_validation_block_outlives_the_run(
    bus: EventBus, transcript: Transcript
) -> None:
    with ExitStack() as outliving, Run(bus) as run:
        outliving.enter_context(run.validation())
    assert transcript.lines[-1].startswith("run_closed")


def test_a_step_left_unreported_is_skipped_though_another_loop_asks(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        first = run.batches(range(3))
        next(first)
        with pytest.raises(RuntimeError, match="a second"):
            next(run.batches(range(1)))
    assert len(transcript.of("batch_skipped")) == 1
    assert transcript.of("batch_finished") == []
