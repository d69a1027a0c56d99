"""EarlyStopping: when it stops, what is best, and that a resume changes nothing."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from eventbus import Answers, EventBus, EventBusError, Priority, RestoredState, Stop, every
from eventbus.handlers import EarlyStopping
from eventbus.handlers._monitor import Monitor
from eventbus.loops import Run

NAN, INF = math.nan, math.inf


class Loop:
    """Plays validations to a bus, as any loop would."""

    def __init__(self, *handlers: EarlyStopping, **context: Any) -> None:
        self.bus = EventBus()
        for handler in handlers:
            self.bus.attach(handler, name=handler.monitor.metric)
        self.emitter = self.bus.bind(sender="train", **context)
        self.round = 0

    def start(self, resumed_from: str | None = None) -> None:
        fields = {} if resumed_from is None else {"resumed_from": resumed_from}
        self.emitter.emit("run_started", **fields)

    def validate(self, **metrics: Any) -> Stop | None:
        """Emit one validation; return the answer to it."""
        self.round += 1
        answers: Answers = self.emitter.emit(
            "validation_done",
            name="val",
            round=self.round,
            epoch=self.round,
            step=10 * self.round,
            metrics=metrics,
        )
        return next((stop for _, stop in answers.given if isinstance(stop, Stop)), None)

    def finish(self) -> None:
        self.emitter.emit("run_finished", reason="completed")


def rounds_until_stop(values: Iterable[Any], **arguments: Any) -> int | None:
    """Return in which round, from 1, the run is stopped; None where it never is."""
    loop = Loop(EarlyStopping("val_loss", **arguments))
    loop.start()
    for count, value in enumerate(values, start=1):
        if loop.validate(val_loss=value) is not None:
            return count
    return None


# -- patience


def test_run_stops_when_patience_is_spent() -> None:
    assert rounds_until_stop([5, 4, 6, 6, 6, 6], patience=3) == 5


def test_improvement_starts_the_count_over() -> None:
    assert rounds_until_stop([5, 6, 6, 4, 6, 6, 6], patience=3) == 7


def test_equal_value_is_no_improvement() -> None:
    assert rounds_until_stop([5, 5, 5], patience=2) == 3


def test_mode_max_takes_higher_for_better() -> None:
    assert rounds_until_stop([0.1, 0.2, 0.3, 0.3, 0.2], patience=2, mode="max") == 5


def test_improvement_within_min_delta_does_not_count() -> None:
    assert rounds_until_stop([1.0, 0.95, 0.91], patience=2, min_delta=0.1) == 3


def test_small_steps_add_up_to_an_improvement() -> None:
    assert rounds_until_stop([1.0, 0.94, 0.88, 0.82, 0.76], patience=2, min_delta=0.1) is None


def test_relative_delta_is_a_fraction_of_the_best() -> None:
    values = [100.0, 95.0, 91.0]
    assert rounds_until_stop(values, patience=2, min_delta=0.1, relative=True) == 3
    assert rounds_until_stop(values, patience=2, min_delta=0.04, relative=True) is None


@pytest.mark.parametrize("mode", ["min", "max"])
def test_relative_delta_is_right_for_negative_scores(mode: str) -> None:
    # Ignite multiplies the best by 1 + delta, which for a negative score moves the bar the
    # wrong way: a run that no longer improves never stops.
    values = [-100.0, -100.0, -100.0]
    assert rounds_until_stop(values, patience=2, min_delta=0.1, relative=True, mode=mode) == 3


def test_negative_score_that_improves_goes_on() -> None:
    values = [-100.0, -85.0, -70.0, -60.0]
    assert rounds_until_stop(values, patience=1, min_delta=0.1, relative=True, mode="max") is None


def test_warmup_never_counts_against_the_patience() -> None:
    assert rounds_until_stop([1, 2, 2, 2, 2, 2], patience=2, warmup=4) == 6


def test_warmup_may_set_the_best() -> None:
    stopping = EarlyStopping(warmup=2)
    loop = Loop(stopping)
    loop.validate(val_loss=1.0)
    assert stopping.best == 1.0


def test_one_observation_is_told_as_one() -> None:
    loop = Loop(EarlyStopping(patience=1))
    loop.validate(val_loss=1.0)
    stop = loop.validate(val_loss=2.0)
    assert stop is not None
    assert stop.reason.endswith(" for 1 observation (patience 1)")


def test_filter_chooses_the_observations() -> None:
    stopping = EarlyStopping(patience=1, when=every(2))
    loop = Loop(stopping)
    stops = [loop.validate(val_loss=value) for value in (1, 9, 9, 9)]
    assert [stop is not None for stop in stops] == [False, False, False, True]
    assert stopping.observations == 2


def test_run_that_does_not_listen_is_told_again() -> None:
    stopping = EarlyStopping(patience=1)
    bus = EventBus()
    bus.attach(stopping)
    given = [
        len(bus.emit("validation_done", name="val", round=n, epoch=n, step=n, metrics=m).given)
        for n, m in enumerate([{"val_loss": 1.0}] * 3, start=1)
    ]
    assert given == [0, 1, 1]


# -- threshold


@pytest.mark.parametrize(
    ("mode", "values", "stop_at", "expected"),
    [("min", [1.0, 0.5, 0.1], 0.5, 2), ("max", [0.9, 0.98, 0.99], 0.99, 3)],
)
def test_stop_at_ends_the_run_as_soon_as_it_is_reached(
    mode: str, values: list[float], stop_at: float, expected: int
) -> None:
    assert rounds_until_stop(values, mode=mode, stop_at=stop_at, warmup=10) == expected


def test_stop_at_without_patience_waits_as_long_as_it_takes() -> None:
    assert rounds_until_stop([1.0] * 50 + [0.0], patience=None, stop_at=0.5) == 51


def test_stop_at_is_not_reached_by_what_is_not_finite() -> None:
    assert rounds_until_stop([-INF, NAN], stop_at=0.5) is None


# -- NaN and the infinities


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 10**400])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_finite_never_becomes_the_best(bad: float, mode: Any) -> None:
    stopping = EarlyStopping(mode=mode, patience=9)
    loop = Loop(stopping)
    for value in (bad, 0.5, bad):
        loop.validate(val_loss=value)
    assert stopping.best == 0.5


def test_nan_first_does_not_block_a_later_improvement() -> None:
    # every comparison with NaN is false, so a NaN that was taken for the best stays it forever
    assert rounds_until_stop([NAN, 5, 4, 3, 2, 1], patience=2) is None


def test_nan_throughout_stops_the_run() -> None:
    # Ignite: every comparison is false, the count never goes up
    assert rounds_until_stop([NAN] * 9, patience=3) == 3


def test_one_nan_is_forgiven() -> None:
    assert rounds_until_stop([5, NAN, 4, NAN, 3, NAN, 2], patience=2) is None


def test_ignored_nan_is_no_observation() -> None:
    assert rounds_until_stop([5, *[NAN] * 9, 6, 6], patience=2, non_finite="ignore") == 12


@pytest.mark.parametrize("bad", [NAN, INF])
def test_stop_policy_ends_the_run_at_once(bad: float) -> None:
    assert rounds_until_stop([5, 4, bad], patience=9, warmup=9, non_finite="stop") == 3


# -- what is read


@pytest.mark.parametrize("value", [1, True, torch.tensor(1.0), torch.ones(1, requires_grad=True)])
def test_metric_may_be_anything_that_is_a_number(value: Any) -> None:
    stopping = EarlyStopping()
    Loop(stopping).validate(val_loss=value)
    assert stopping.best == 1.0


@pytest.mark.parametrize("value", ["0.5", b"1", torch.ones(2), [1.0], object()])
def test_metric_that_is_no_number_is_an_error_that_names_it(value: Any) -> None:
    with pytest.raises(TypeError, match="EarlyStopping: metric 'val_loss' must be a number"):
        Loop(EarlyStopping()).validate(val_loss=value)


@pytest.mark.parametrize("metrics", [{}, {"test_loss": 1.0}, {"val_loss": None}])
def test_emission_without_the_metric_is_passed_over(metrics: dict[str, Any]) -> None:
    stopping = EarlyStopping(patience=1)
    loop = Loop(stopping)
    loop.validate(val_loss=1.0)
    assert loop.validate(**metrics) is None
    assert (stopping.observations, stopping.count) == (1, 0)


def test_several_watch_several_validations() -> None:
    on_val, on_test = EarlyStopping("val_loss", patience=1), EarlyStopping("test_loss", patience=9)
    loop = Loop(on_val, on_test)
    loop.validate(val_loss=1.0)
    loop.validate(test_loss=2.0)
    stop = loop.validate(val_loss=1.0)
    assert (on_val.best, on_test.best) == (1.0, 2.0)
    assert stop is not None
    assert stop.by == "val_loss"


def test_two_under_one_name_are_refused_when_attached() -> None:
    bus = EventBus()
    bus.attach(EarlyStopping("val_loss"))
    with pytest.raises(EventBusError, match="name="):
        bus.attach(EarlyStopping("test_loss"))


def test_any_signal_may_be_watched() -> None:
    bus, stopping = EventBus(), EarlyStopping("loss", on=("tuned", "batch_finished"), patience=1)
    bus.attach(stopping)
    bus.emit("tuned", metrics={"loss": 1.0})
    assert bus.emit("batch_finished", epoch=1, step=1, metrics={"loss": 1.0}).given
    assert (stopping.best, stopping.best_epoch) == (1.0, None)


# -- what is told


def test_reason_tells_metric_best_and_where() -> None:
    loop = Loop(EarlyStopping(patience=2))
    loop.validate(val_loss=0.25)
    loop.validate(val_loss=0.5)
    stop = loop.validate(val_loss=0.5)
    assert stop is not None
    assert stop.reason == (
        "val_loss has not improved on 0.25 (epoch 1, step 10) for 2 observations (patience 2)"
    )


def test_reason_where_nothing_was_finite() -> None:
    loop = Loop(EarlyStopping(patience=1))
    stop = loop.validate(val_loss=NAN)
    assert stop is not None
    assert "has not improved on anything finite" in stop.reason


def test_best_is_told_with_its_place() -> None:
    stopping = EarlyStopping()
    loop = Loop(stopping)
    for value in (3.0, 1.0, 2.0):
        loop.validate(val_loss=value)
    assert (stopping.best, stopping.best_epoch, stopping.best_step) == (1.0, 2, 20)
    assert stopping.count == 1


def test_metric_that_never_came_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(EarlyStopping("val_los"))
    loop.start()
    for _ in range(3):
        loop.validate(val_loss=1.0, val_accuracy=0.5)
    loop.finish()
    (record,) = caplog.records
    assert "never saw its metric 'val_los'" in record.getMessage()
    keys = "'val_accuracy', 'val_loss'"
    assert f"; keys seen on validation_done: {keys}; " in record.getMessage()


MEASURED = "; if a handler measures it: write on='metrics_measured', or report it in the loop"


@pytest.mark.parametrize(
    ("metric", "on", "told"),
    [
        ("loss", "validation_done", "; epoch_finished has 'loss': write on='epoch_finished'"),
        ("norm", "validation_done", f"keys seen on validation_done: 'val_loss'{MEASURED}"),
        ("norm", ("epoch_finished",), f"keys seen on epoch_finished: 'loss', 'val_loss'{MEASURED}"),
        ("nrom", "metrics_measured", "keys seen on metrics_measured: 'norm'"),
    ],
)
def test_metric_that_came_elsewhere_is_told_with_what_to_write(
    caplog: pytest.LogCaptureFixture, metric: str, on: Any, told: str
) -> None:
    bus = EventBus()
    bus.attach(EarlyStopping(metric, on=on))
    with Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1]):
                run.report(loss=1.0)
            for _ in run.validate([1]):
                run.report(loss=1.0)
            run.emit("metrics_measured", metrics={"norm": 1.0})
    (record,) = caplog.records
    assert record.getMessage().endswith(told)


def test_reason_names_no_epoch_where_there_is_none() -> None:
    bus = EventBus()
    bus.attach(EarlyStopping("loss", on="batch_finished", patience=1))
    with Run(bus) as run:
        for step in run.steps(5):
            run.report(loss=float(step))
    assert run.stop is not None
    assert "has not improved on 1 (step 1) for 1" in run.stop.reason


def test_metric_that_came_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(EarlyStopping())
    loop.start()
    loop.validate(val_loss=NAN)
    loop.finish()
    assert caplog.records == []


# -- runs after each other, and resumed


def state_through_disk(stopping: EarlyStopping) -> Any:
    file = io.BytesIO()
    torch.save(stopping.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_fresh_run_forgets_the_one_before() -> None:
    stopping = EarlyStopping(patience=2)
    loop = Loop(stopping)
    for value in (1.0, 2.0):
        loop.validate(val_loss=value)
    loop.start()
    assert stopping.state_dict() == EarlyStopping().state_dict()


def test_resumed_run_keeps_its_count() -> None:
    # Ignite, once Lightning: the start event wiped the restored count
    stopping = EarlyStopping(patience=2)
    loop = Loop(stopping)
    loop.validate(val_loss=1.0)
    loop.validate(val_loss=2.0)
    loop.start(resumed_from="runs/step-20")
    assert stopping.count == 1


@pytest.mark.parametrize("cut", range(7))
def test_resumed_run_decides_as_one_that_was_not_cut(cut: int) -> None:
    values = [5.0, NAN, 4.0, 4.5, 4.4, NAN, 4.3]
    arguments: dict[str, Any] = {"patience": 3, "warmup": 2, "min_delta": 0.05}
    whole = Loop(EarlyStopping(**arguments))
    expected = [whole.validate(val_loss=value) for value in values]

    first = EarlyStopping(**arguments)
    before = Loop(first)
    found = [before.validate(val_loss=value) for value in values[:cut]]
    second = EarlyStopping(**arguments)
    after = Loop(second)
    after.round = cut
    after.bus.emit(
        "state_restored", state=RestoredState({"val_loss": state_through_disk(first)}), path="x"
    )
    after.start(resumed_from="x")
    found += [after.validate(val_loss=value) for value in values[cut:]]
    assert found == expected
    assert any(expected)


# -- the best weights


def model_of(weight: float) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1)
    set_weight(model, weight)
    return model


def set_weight(model: torch.nn.Module, weight: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(weight)


def test_best_weights_are_put_back_when_the_run_has_finished() -> None:
    model = model_of(0.0)
    loop = Loop(EarlyStopping(restore_best=True), model=model)
    for value in (3.0, 1.0, 2.0):
        set_weight(model, value)
        loop.validate(val_loss=value)
    loop.finish()
    assert model.weight.item() == 1.0


def test_best_weights_of_several_models_are_put_back() -> None:
    models = {"g": model_of(0.0), "d": model_of(0.0)}
    loop = Loop(EarlyStopping(restore_best=True), models=models)
    for value in (1.0, 2.0):
        set_weight(models["g"], value)
        set_weight(models["d"], -value)
        loop.validate(val_loss=value)
    loop.finish()
    assert (models["g"].weight.item(), models["d"].weight.item()) == (1.0, -1.0)


def test_best_weights_survive_a_resume() -> None:
    model, stopping = model_of(1.0), EarlyStopping(restore_best=True)
    Loop(stopping, model=model).validate(val_loss=1.0)
    resumed = EarlyStopping(restore_best=True)
    resumed.load_state_dict(state_through_disk(stopping))
    loop = Loop(resumed, model=model)
    loop.start(resumed_from="x")
    set_weight(model, 2.0)
    loop.validate(val_loss=2.0)
    loop.finish()
    assert model.weight.item() == 1.0


@pytest.mark.parametrize("priority", [Priority.MEASURE, Priority.NORMAL, Priority.PERSIST])
def test_best_weights_are_in_place_before_anything_is_saved_at_the_end(priority: int) -> None:
    model = model_of(1.0)
    loop = Loop(EarlyStopping(restore_best=True), model=model)
    loop.validate(val_loss=1.0)
    set_weight(model, 2.0)
    saved = []

    @loop.bus.on("run_finished", priority=priority)
    def save(model: torch.nn.Linear) -> None:
        saved.append(model.weight.item())

    loop.finish()
    assert saved == [1.0]


def test_weights_are_left_alone_unless_asked() -> None:
    model = model_of(1.0)
    loop = Loop(EarlyStopping(), model=model)
    loop.validate(val_loss=1.0)
    set_weight(model, 2.0)
    loop.finish()
    assert model.weight.item() == 2.0


def test_weights_are_left_alone_where_none_was_best() -> None:
    model = model_of(2.0)
    loop = Loop(EarlyStopping(restore_best=True), model=model)
    loop.validate(val_loss=NAN)
    loop.finish()
    assert model.weight.item() == 2.0


def test_weights_that_were_not_kept_of_the_best_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, without = model_of(1.0), EarlyStopping()
    Loop(without, model=model).validate(val_loss=1.0)
    stopping = EarlyStopping(restore_best=True)
    stopping.load_state_dict(without.state_dict())
    loop = Loop(stopping, model=model)
    loop.start(resumed_from="x")
    set_weight(model, 2.0)
    loop.validate(val_loss=2.0)
    loop.finish()
    assert model.weight.item() == 2.0
    (record,) = caplog.records
    assert "the weights are the last ones: of the best 1 (epoch 1, step 10)" in record.getMessage()


def test_second_one_that_puts_weights_back_says_whose_place_they_take(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = model_of(0.0)
    by_loss = EarlyStopping("loss", restore_best=True)
    by_score = EarlyStopping("score", restore_best=True)
    loop = Loop(by_loss, by_score, model=model)
    for _run in range(2):
        caplog.clear()
        loop.start()
        for value in (1.0, 2.0):
            set_weight(model, value)
            loop.validate(loss=value, score=-value)
        loop.finish()
        assert model.weight.item() == 2.0
        (record,) = caplog.records
        assert "of the best score take the place of those of the best loss" in record.getMessage()


def test_one_that_puts_weights_back_in_each_run_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(EarlyStopping(restore_best=True), model=model_of(1.0))
    for _run in range(2):
        loop.start()
        loop.validate(val_loss=1.0)
        loop.finish()
    assert caplog.records == []


def test_restoring_without_a_model_is_an_error_that_says_so() -> None:
    with pytest.raises(EventBusError, match="model"):
        Loop(EarlyStopping(restore_best=True)).validate(val_loss=1.0)


# -- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience is at least 1"),
        ({"patience": None}, "needs a stop_at"),
        ({"mode": "lower"}, "mode is 'min' or 'max', got 'lower'"),
        ({"min_delta": -0.1}, "min_delta is finite and not negative"),
        ({"min_delta": NAN}, "min_delta is finite"),
        ({"stop_at": NAN}, "stop_at is finite"),
        ({"warmup": -1}, "warmup is at least 0"),
        ({"non_finite": "raise"}, "non_finite is 'count', 'ignore' or 'stop'"),
    ],
)
def test_wrong_argument_is_refused_when_it_is_made(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": "3"},
        {"patience": 2.5},
        {"patience": True},
        {"warmup": None},
        {"stop_at": "0.1"},
        {"min_delta": "0.1"},
    ],
)
def test_argument_of_another_type_is_refused_by_name(arguments: Any) -> None:
    (name,) = arguments
    with pytest.raises((TypeError, ValueError), match=f"EarlyStopping: {name} is .*got"):
        EarlyStopping(**arguments)


@pytest.mark.parametrize("metric", ["", None, 3])
def test_metric_is_a_key(metric: Any) -> None:
    with pytest.raises(TypeError, match="watches a metric by its key"):
        EarlyStopping(metric)


def test_unknown_signal_is_refused_when_it_is_attached() -> None:
    with pytest.raises(EventBusError, match="validation_done"):
        EventBus().attach(EarlyStopping(on="validation_dune"))


def test_monitor_takes_any_finite_value_for_better_than_none() -> None:
    assert Monitor("X", "m", min_delta=100.0).improves(5.0, None)


@pytest.mark.parametrize(
    ("patience", "reason"),
    [(2, "val_loss has not improved on 0.5 (epoch 1, step 10) for 2 observations"), (3, None)],
)
def test_a_run_that_was_stopped_is_stopped_again_when_it_is_resumed(
    patience: int, reason: str | None
) -> None:
    stopped = EarlyStopping("val_loss", patience=2)
    before = Loop(stopped)
    before.start()
    for loss in (0.5, 0.6, 0.7):
        before.validate(val_loss=loss)
    resumed = EarlyStopping("val_loss", patience=patience)
    after = Loop(resumed)
    resumed.load_state_dict(stopped.state_dict())
    after.start(resumed_from="x")
    stop = after.emitter.answers.stop
    assert (stop and stop.reason.partition(" (patience")[0]) == reason


@pytest.mark.parametrize(
    ("arguments", "values", "reason"),
    [
        ({"non_finite": "stop"}, [0.5, NAN], "val_loss is nan; the best was 0.5"),
        ({"stop_at": 0.5, "min_delta": 0.1}, [0.55, 0.49], "val_loss reached 0.49 (stop_at 0.5)"),
    ],
)
def test_a_run_that_one_value_has_stopped_is_stopped_again_when_it_is_resumed(
    arguments: Any, values: list[float], reason: str
) -> None:
    stopped = EarlyStopping("val_loss", **arguments)
    before = Loop(stopped)
    for loss in values:
        before.validate(val_loss=loss)
    resumed = EarlyStopping("val_loss", **arguments)
    resumed.load_state_dict(state_through_disk(stopped))
    after = Loop(resumed)
    after.start(resumed_from="x")
    stop = after.emitter.answers.stop
    assert stop is not None
    assert stop.reason.startswith(reason)


def test_a_run_that_is_given_another_policy_goes_on_when_it_is_resumed() -> None:
    stopped = EarlyStopping(non_finite="stop")
    Loop(stopped).validate(val_loss=NAN)
    resumed = EarlyStopping(non_finite="count")
    resumed.load_state_dict(stopped.state_dict())
    after = Loop(resumed)
    after.start(resumed_from="x")
    assert after.emitter.answers.stop is None


@pytest.mark.parametrize(("value", "stops"), [(0.25, True), (1.0, False)])
def test_state_from_before_the_last_value_was_kept_can_be_loaded(value: float, stops: bool) -> None:
    stopped = EarlyStopping()
    Loop(stopped).validate(val_loss=value)
    state = stopped.state_dict()
    del state["last"]
    resumed = EarlyStopping(stop_at=0.5)
    resumed.load_state_dict(state)
    after = Loop(resumed)
    after.start(resumed_from="x")
    assert (after.emitter.answers.stop is not None) == stops
