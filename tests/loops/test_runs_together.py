"""Several models, runs after each other on one bus, runs inside each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from eventbus import EventBus, FieldError, Stop
from eventbus.loops import Run

from .transcripts import Transcript, answer_on, caught


def two_models() -> dict[str, nn.Module]:
    return {"generator": nn.Linear(1, 1), "critic": nn.Linear(1, 1)}


def test_several_models_ride_as_models(bus: EventBus) -> None:
    models = two_models()
    optimizers = {key: torch.optim.SGD(m.parameters(), lr=0.1) for key, m in models.items()}
    seen: list[Any] = []
    bus.on("run_opened")(lambda models, optimizers: seen.append((models, optimizers)))
    with Run(bus, models=models, optimizers=optimizers):
        pass
    assert seen == [(models, optimizers)]


def test_asking_for_the_model_of_several_names_models(bus: EventBus) -> None:
    bus.on("run_opened")(lambda model: None)
    error = caught(FieldError, lambda: Run(bus, models=two_models()).__enter__())
    assert "models" in str(error)


@pytest.mark.parametrize("name", ["", 5])
def test_a_name_that_is_none_is_refused_when_the_run_is_made(bus: EventBus, name: Any) -> None:
    with pytest.raises(TypeError, match=f"name= is a non-empty string; got {name!r}"):
        Run(bus, name=name)


def test_one_model_and_several_are_refused_together(bus: EventBus) -> None:
    with pytest.raises(ValueError, match="model= or models="):
        Run(bus, model=nn.Linear(1, 1), models=two_models())


def test_context_and_label_reach_handlers(bus: EventBus) -> None:
    seen: list[Any] = []
    bus.on("run_started")(
        lambda run, run_id, config, sender: seen.append((run, run_id, config, sender))
    )
    with Run(bus, name="digits", config={"lr": 0.1}, run_id="r1") as run:
        run.report(x=1)
    assert seen == [("digits", "r1", {"lr": 0.1}, "digits")]
    assert (run.name, run.run_id) == ("digits", "r1")


def test_runs_follow_each_other_on_one_bus(bus: EventBus, transcript: Transcript) -> None:
    answer_on(bus, "batch_finished", Stop("enough"), step=2)
    runs = []
    for _ in range(3):
        with Run(bus) as run:
            for _ in run.epochs(1):
                for _ in run.batches([1, 2, 3]):
                    run.report(loss=1.0)
        runs.append(run)
    assert [(run.outcome, run.step) for run in runs] == [("stopped", 2)] * 3
    assert transcript.names.count("run_closed") == 3
    assert len({run.run_id for run in runs}) == 3
    assert [s.name for s in bus.subscriptions] == ["transcript", "answering"]


def test_a_run_leaves_nothing_subscribed(bus: EventBus) -> None:
    with Run(bus):
        assert len(bus.subscriptions) == 2
        with Run(bus, name="inner"):
            assert len(bus.subscriptions) == 6
    assert bus.subscriptions == ()


def test_a_run_inside_another_needs_its_own_name(bus: EventBus) -> None:
    with Run(bus):
        for name in (None, "train"):
            with pytest.raises(ValueError, match="own name="):
                Run(bus, name=name).__enter__()


def test_a_run_that_was_left_open_is_named_to_the_one_after_it(bus: EventBus) -> None:
    """As in a notebook, where one was opened by hand in another cell."""
    Run(bus).__enter__()
    error = caught(ValueError, Run(bus).__enter__)
    assert str(error) == (
        "a Run inside another needs its own name=; got None, taken: 'train' (run 'train' was "
        "opened and is not closed: for this one to come after it, leave its `with` block first)"
    )


def test_an_inner_run_reaches_only_those_who_asked_for_it(bus: EventBus) -> None:
    heard = []
    bus.on("batch_finished")(lambda sender: heard.append(("all", sender)))
    bus.on("batch_finished", sender="inner")(lambda sender: heard.append(("inner", sender)))
    inner = Run(bus, name="inner")
    with Run(bus) as outer:
        for _ in outer.batches([1]):
            with inner:
                for _ in inner.batches([1]):
                    pass
    assert heard == [("inner", "inner"), ("all", "train")]
    assert (outer.step, inner.step) == (1, 1)


def test_an_outer_stop_stops_the_inner_run_and_not_the_reverse(bus: EventBus) -> None:
    inner_stop = Stop("inner is done")
    bus.on("batch_finished", sender="first")(lambda: inner_stop)
    with Run(bus) as outer:
        with Run(bus, name="first") as first:
            list(first.batches([1, 2, 3]))
        assert outer.stop is None
        bus.answer(Stop("SIGTERM"))
        with Run(bus, name="second") as second:
            assert list(second.epochs(3)) == []
    assert (first.outcome, first.step) == ("stopped", 1)
    assert [run.outcome for run in (outer, second)] == ["stopped", "stopped"]


def test_the_exit_code_of_an_outer_stop_is_raised_by_the_outer_run(
    bus: EventBus, transcript: Transcript
) -> None:
    def body() -> None:
        with Run(bus) as outer:
            for _ in outer.batches([1, 2]):
                bus.answer(Stop("SIGTERM", exit_code=143))
                with Run(bus, name="inner") as inner:
                    assert list(inner.batches([1])) == []
                outer.report(loss=1.0)

    error = caught(SystemExit, body)
    assert isinstance(error, SystemExit)
    assert error.code == 143
    assert transcript.lines[-2:] == ["run_finished 0.1 (SIGTERM)", "run_closed (stopped)"]


def test_a_stop_for_all_runs_ends_the_later_ones_too(bus: EventBus) -> None:
    bus.answer(Stop("SIGTERM"), runs="all")
    for _ in range(2):
        with Run(bus) as run:
            assert list(run.epochs(3)) == []
        assert run.outcome == "stopped"


def test_the_exit_code_of_an_inner_stop_is_raised_though_the_outer_run_is_stopping(
    bus: EventBus,
) -> None:
    @bus.on("run_started", sender="inner")
    def leave() -> Stop:
        return Stop("disk full", exit_code=3)

    def body() -> None:
        with Run(bus) as outer:
            for _ in outer.batches([1, 2]):
                bus.answer(Stop("enough"))
                with Run(bus, name="inner") as inner:
                    assert list(inner.batches([1])) == []

    error = caught(SystemExit, body)
    assert isinstance(error, SystemExit)
    assert error.code == 3
