"""LRSchedule: the rates of torch's schedulers, after a warm-up, told, and the same when resumed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from eventbus import EventBus, EventBusError, RestoredState, every
from eventbus.handlers import Checkpoint, CSVLog, LRSchedule
from eventbus.loops import Run
from eventbus.testing import capture

from .unread import unread

Factory = Callable[[torch.optim.Optimizer], Any]


def optimizer_of(lr: Any = 0.8, **options: Any) -> torch.optim.SGD:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return torch.optim.SGD([parameter], lr=lr, **options)


def halving(optimizer: torch.optim.Optimizer) -> lr_scheduler.StepLR:
    return lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


class Loop:
    """Takes steps with an optimizer as any loop would, and notes the rate of each."""

    def __init__(self, schedule: LRSchedule, optimizer: Any = None, **context: Any) -> None:
        self.bus = EventBus(strict=True)
        self.bus.attach(schedule)
        self.optimizer = optimizer or optimizer_of()
        context = context or {"optimizer": self.optimizer}
        self.emitter = self.bus.bind(sender="train", **context)
        self.rates: list[float] = []
        self.epoch = self.step = 0

    def start(self, resumed_from: str | None = None) -> Loop:
        self.emitter.emit("run_started", resumed_from=resumed_from)
        return self

    def steps(self, count: int) -> list[float]:
        """Take steps; return the rates of all that were taken yet."""
        for _ in range(count):
            self.step += 1
            self.rates.append(float(self.optimizer.param_groups[0]["lr"]))
            self.optimizer.step()
            self.emitter.emit("batch_finished", epoch=max(1, self.epoch), step=self.step)
        return self.rates

    def epochs(self, count: int, steps: int = 2, **metrics: Any) -> list[float]:
        """Take epochs; return the rates of all steps that were taken yet."""
        for _ in range(count):
            self.epoch += 1
            self.emitter.emit("epoch_started", epoch=self.epoch, step=self.step)
            self.steps(steps)
            place = {"epoch": self.epoch, "step": self.step}
            self.emitter.emit("epoch_finished", metrics=metrics, **place)
        return self.rates


# -- stepping


def test_scheduler_is_stepped_per_step() -> None:
    loop = Loop(LRSchedule(halving, per="step")).start()
    assert loop.steps(4) == [0.8, 0.4, 0.2, 0.1]


def test_scheduler_is_stepped_per_epoch() -> None:
    loop = Loop(LRSchedule(halving, per="epoch")).start()
    assert loop.epochs(3) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


def test_epoch_that_was_interrupted_is_not_counted() -> None:
    loop = Loop(LRSchedule(halving)).start()
    loop.emitter.emit("epoch_interrupted", epoch=1, step=3)
    assert loop.optimizer.param_groups[0]["lr"] == 0.8


def test_epoch_in_which_no_step_was_taken_counts_without_a_warning_from_torch() -> None:
    loop = Loop(LRSchedule(halving)).start()
    loop.epochs(2, steps=0)
    assert loop.optimizer.param_groups[0]["lr"] == 0.2


def test_filter_says_which_steps_count() -> None:
    loop = Loop(LRSchedule(halving, per="step", when=every(2))).start()
    assert loop.steps(5) == [0.8, 0.8, 0.4, 0.4, 0.2]


def test_signal_may_be_chosen() -> None:
    loop = Loop(LRSchedule(halving, on="validation_done")).start()
    loop.epochs(1)
    loop.emitter.emit("validation_done", name="val", round=1, epoch=1, step=2)
    assert loop.steps(1)[-1] == 0.4


@pytest.mark.parametrize(
    "factory",
    [
        lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        lambda o: lr_scheduler.ExponentialLR(o, 0.7),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
        lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=20),
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=2),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.5)],
            [3],
        ),
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.5)]
        ),
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 4, 7])
def test_rates_are_torchs_and_the_same_when_the_run_is_cut(factory: Factory, cut: int) -> None:
    def options() -> dict[str, Any]:
        return {"momentum": 0.9, "lr": 0.8}

    expected_optimizer = optimizer_of(**options())
    scheduler, expected = factory(expected_optimizer), []
    for _ in range(8):
        group = expected_optimizer.param_groups[0]
        expected.append((group["lr"], group["momentum"]))
        expected_optimizer.step()
        scheduler.step()

    first = Loop(LRSchedule(factory, per="step"), optimizer_of(**options())).start()
    found = seen_in(first, cut)
    saved = through_disk(
        [first.emitter.emit("state_requested").state, first.optimizer.state_dict()]
    )
    second = Loop(LRSchedule(factory, per="step"), optimizer_of(**options()))
    second.optimizer.load_state_dict(saved[1])
    second.bus.emit("state_restored", state=RestoredState(saved[0]), path="x")
    second.start(resumed_from="x")
    found += seen_in(second, 8 - cut)
    assert found == expected


def seen_in(loop: Loop, steps: int) -> list[tuple[float, float]]:
    seen = []
    for _ in range(steps):
        group = loop.optimizer.param_groups[0]
        seen.append((group["lr"], group["momentum"]))
        loop.steps(1)
    return seen


def through_disk(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# -- a metric


def plateau(optimizer: torch.optim.Optimizer) -> lr_scheduler.ReduceLROnPlateau:
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)


def test_plateau_is_fed_with_the_metric() -> None:
    loop = Loop(LRSchedule(plateau, metric="val_loss")).start()
    for value in (1.0, 0.5, 0.5, 0.4, 0.6):
        loop.epochs(1, steps=1, val_loss=torch.tensor(value))
    assert loop.epochs(1, steps=1) == [0.8, 0.8, 0.8, 0.4, 0.4, 0.2]


def test_emission_without_the_metric_is_passed_over() -> None:
    loop = Loop(LRSchedule(plateau, metric="val_loss")).start()
    loop.epochs(1, val_loss=1.0)
    loop.epochs(5, loss=9.0)
    assert set(loop.rates) == {0.8}


def test_plateau_without_a_metric_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="ReduceLROnPlateau is stepped with a metric: name it"):
        Loop(LRSchedule(plateau)).start()


def test_metric_for_a_scheduler_that_takes_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="StepLR takes no metric; got metric='val_loss'"):
        Loop(LRSchedule(halving, metric="val_loss")).start()


def finished(loop: Loop, reason: str = "completed") -> None:
    loop.emitter.emit("run_finished", reason=reason)
    loop.emitter.emit("run_closed", outcome="completed")


def test_metric_that_never_came_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(LRSchedule(plateau, metric="val_los")).start()
    loop.epochs(1, val_loss=1.0)
    finished(loop)
    (record,) = caplog.records
    assert "never saw its metric 'val_los'" in record.getMessage()
    assert "; keys seen on epoch_finished: 'val_loss'; " in record.getMessage()


def test_metric_whose_signal_never_came_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(LRSchedule(plateau, metric="val_loss", on="validation_done")).start()
    loop.epochs(1)
    finished(loop)
    (record,) = caplog.records
    assert "; keys seen on validation_done: none; " in record.getMessage()


@pytest.mark.parametrize("has_seen", [True, False])
def test_metric_is_not_missed_by_a_resumed_run_with_nothing_left_to_train(
    caplog: pytest.LogCaptureFixture, has_seen: bool
) -> None:
    first = Loop(LRSchedule(plateau, metric="val_loss")).start()
    first.epochs(1, val_loss=1.0)
    state = schedule_state(first)
    schedule = LRSchedule(plateau, metric="val_loss")
    schedule.load_state_dict(state if has_seen else {**state, "seen": False})
    finished(Loop(schedule).start("x"))
    assert caplog.messages == []


def test_metric_that_came_before_the_resume_is_not_missed_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = Loop(LRSchedule(plateau, metric="val_loss")).start()
    first.epochs(1, val_loss=1.0)
    schedule = LRSchedule(plateau, metric="val_loss")
    schedule.load_state_dict(schedule_state(first))
    second = Loop(schedule).start("x")
    second.epochs(1, loss=1.0)
    finished(second)
    assert caplog.messages == []


def test_metric_is_not_missed_by_a_run_that_ends_in_the_warm_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(LRSchedule(plateau, metric="val_loss", warmup_steps=4)).start()
    loop.epochs(1, steps=3, val_loss=1.0)
    finished(loop)
    assert caplog.messages == []


def test_metric_is_not_missed_by_a_run_that_is_stopped_before_its_first_epoch_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(LRSchedule(plateau, metric="val_loss")).start()
    loop.steps(1)
    finished(loop, reason="SIGTERM")
    assert caplog.messages == []


# -- the warm-up


def test_warm_up_grows_in_a_straight_line_to_the_first_rate() -> None:
    loop = Loop(LRSchedule(halving, per="epoch", warmup_steps=4)).start()
    assert loop.steps(6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert loop.rates[3] == 0.8  # exactly


def test_scheduler_stands_still_during_the_warm_up() -> None:
    loop = Loop(LRSchedule(halving, per="step", warmup_steps=2)).start()
    assert loop.steps(5) == pytest.approx([0.4, 0.8, 0.8, 0.4, 0.2])


def test_epochs_within_the_warm_up_are_not_counted() -> None:
    loop = Loop(LRSchedule(halving, per="epoch", warmup_steps=4)).start()
    assert loop.epochs(4, steps=2) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.4, 0.4, 0.2, 0.2])


def test_warm_up_leaves_a_recursive_schedule_as_it_is() -> None:
    def cosine(optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.CosineAnnealingLR(optimizer, 6)

    plain = Loop(LRSchedule(cosine, per="step")).start().steps(6)
    warmed = Loop(LRSchedule(cosine, per="step", warmup_steps=3)).start().steps(9)
    assert warmed[3:] == plain


@pytest.mark.parametrize("cut", range(7))
def test_warm_up_goes_on_where_the_checkpoint_was(cut: int) -> None:
    arguments: dict[str, Any] = {"per": "step", "warmup_steps": 4}
    whole = Loop(LRSchedule(halving, **arguments)).start().steps(7)
    first = Loop(LRSchedule(halving, **arguments)).start()
    found = list(first.steps(cut))
    state = through_disk(first.emitter.emit("state_requested").state)
    second = Loop(LRSchedule(halving, **arguments))  # whose optimizer nobody restores
    second.bus.emit("state_restored", state=RestoredState(state), path="x")
    found += second.start(resumed_from="x").steps(7 - cut)
    assert found == whole


# -- what is told


def told(loop: Loop, run: Callable[[], Any]) -> list[tuple[int, dict[str, float]]]:
    with capture(loop.bus, "learning_rate_changed") as recording:
        run()
    return [(each["step"], each["learning_rates"]) for each in recording.emissions]


def test_rates_are_told_at_first_and_when_they_change() -> None:
    loop = Loop(LRSchedule(halving))
    assert told(loop, lambda: loop.start().epochs(2, steps=3)) == [
        (0, {"0": 0.8}),
        (3, {"0": 0.4}),
        (6, {"0": 0.2}),
    ]


def test_rates_that_stay_are_not_told_again() -> None:
    def constant(optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.ConstantLR(optimizer, factor=1.0)

    loop = Loop(LRSchedule(constant, per="step"))
    assert len(told(loop, lambda: loop.start().steps(5))) == 1


def test_rates_are_told_by_group_as_plain_floats() -> None:
    groups: list[dict[str, Any]] = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": torch.tensor(0.5), "name": "head"},
        {"params": [torch.nn.Parameter(torch.zeros(1))]},
    ]
    loop = Loop(LRSchedule(halving), torch.optim.SGD(groups, lr=0.25))
    ((step, rates),) = told(loop, loop.start)
    assert (step, rates) == (0, {"head": 0.5, "1": 0.25})
    assert {type(rate) for rate in rates.values()} == {float}


def groups_of(*names: str | None) -> torch.optim.SGD:
    """An optimizer with a group for each name, whose rates are 0.1, 0.2 and so on."""
    groups: list[dict[str, Any]] = []
    for number, name in enumerate(names, start=1):
        group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": number / 10}
        groups.append(group if name is None else {**group, "name": name})
    return torch.optim.SGD(groups)


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["head", "head", "head"], ["head", "head_1", "head_2"]),
        (["1", None], ["1", "1_1"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_2_2"]),
    ],
)
def test_groups_of_the_same_name_are_told_apart(names: list[str | None], keys: list[str]) -> None:
    loop = Loop(LRSchedule(halving), groups_of(*names))
    ((_, rates),) = told(loop, loop.start)
    assert list(rates.items()) == [(key, number / 10) for number, key in enumerate(keys, start=1)]


@pytest.mark.parametrize("names", [["head", "head"], ["1", None]])
def test_run_with_groups_of_the_same_name_is_resumed(names: list[str | None]) -> None:
    first = Loop(LRSchedule(halving, per="step"), groups_of(*names)).start()
    first.steps(1)
    state = through_disk(first.emitter.emit("state_requested").state)
    second = Loop(LRSchedule(halving, per="step"), groups_of(*names))
    second.bus.emit("state_restored", state=RestoredState(state), path="x")
    second.start("x").steps(1)
    assert [group["lr"] for group in second.optimizer.param_groups] == [0.025, 0.05]


def test_state_that_has_one_rate_for_groups_of_a_name_leaves_the_optimizer_its_rates() -> None:
    first = Loop(LRSchedule(halving, per="step"), groups_of("head", "head")).start()
    first.steps(1)
    schedule = LRSchedule(halving, per="step")
    schedule.load_state_dict(schedule_state(first) | {"learning_rates": [0.1]})
    second = Loop(schedule, groups_of("head", "head"))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.start("x").steps(1)
    assert [group["lr"] for group in second.optimizer.param_groups] == [0.025, 0.05]


def test_state_of_an_optimizer_with_other_groups_is_an_error_that_says_so() -> None:
    schedule = LRSchedule(halving)
    schedule.load_state_dict(schedule_state(Loop(LRSchedule(halving), groups_of("a")).start()))
    with pytest.raises(ValueError, match="of 1 parameter groups were saved; the optimizer has 2"):
        Loop(schedule, groups_of("a", "b")).start("x")


def schedule_state(loop: Loop) -> dict[str, Any]:
    state: dict[str, Any] = through_disk(loop.emitter.emit("state_requested").state["LRSchedule"])
    return state


def resumed_with(state: dict[str, Any], **arguments: Any) -> Loop:
    """Return a loop whose run is about to resume."""
    schedule = LRSchedule(halving, **arguments)
    schedule.load_state_dict(state)
    return Loop(schedule)


def test_resumed_run_tells_no_rate_again() -> None:
    first = Loop(LRSchedule(halving, per="step", warmup_steps=1)).start()
    first.steps(3)
    second = resumed_with(schedule_state(first), per="step", warmup_steps=1)
    second.step = 3
    assert told(second, lambda: second.start("x").steps(1)) == [(4, {"0": 0.1})]


def test_rate_that_somebody_else_set_is_told_no_earlier_for_a_resume() -> None:
    first = Loop(LRSchedule(halving)).start()
    first.optimizer.param_groups[0]["lr"] = 0.6
    second = resumed_with(schedule_state(first))
    assert told(second, lambda: second.start("x").epochs(1)) == [(2, {"0": 0.3})]


def test_resume_from_a_state_without_what_was_told_tells_the_rate_with_the_step_it_is_from() -> (
    None
):
    first = Loop(LRSchedule(halving, per="step")).start()
    first.steps(2)
    state = schedule_state(first)
    del state["told"]
    second = resumed_with(state, per="step")
    assert told(second, lambda: second.start("x")) == [(2, {"0": 0.2})]


@pytest.mark.parametrize("cut", [1, 4, 5, 6])
def test_file_of_a_resumed_run_is_that_of_one_that_was_never_cut(tmp_path: Path, cut: int) -> None:
    def train(folder: str, fail_in: int | None = None) -> str:
        bus, optimizer = EventBus(strict=True), optimizer_of()
        bus.attach(LRSchedule(halving, per="step", warmup_steps=3))
        bus.attach(CSVLog(tmp_path / folder / "rates.csv", on="learning_rate_changed"))
        directory = tmp_path / folder / "checkpoints"
        bus.attach(Checkpoint(directory, on="batch_finished", resume="auto", best=None))
        with Run(bus, optimizer=optimizer) as run:
            for step in run.steps(7):
                optimizer.step()
                run.report(loss=1.0)
                if step == fail_in:
                    raise KeyboardInterrupt
        return (tmp_path / folder / "rates.csv").read_text()

    with pytest.raises(KeyboardInterrupt):
        train("cut", fail_in=cut)
    assert train("cut") == train("whole")


def test_loggers_see_the_rate_that_the_step_was_taken_with() -> None:
    loop = Loop(LRSchedule(halving, per="step")).start()
    seen = []

    @loop.bus.on("batch_finished", priority=-400)
    def log(optimizer: torch.optim.Optimizer) -> None:
        seen.append(optimizer.param_groups[0]["lr"])

    assert loop.steps(3) == seen


def test_checkpoints_hold_the_rate_of_the_next_step() -> None:
    loop = Loop(LRSchedule(halving, per="step")).start()
    saved = []

    @loop.bus.on("batch_finished", priority=-600)
    def save(optimizer: torch.optim.Optimizer) -> None:
        saved.append(optimizer.param_groups[0]["lr"])

    loop.steps(2)
    assert saved == [0.4, 0.2]


# -- which optimizer, and none


def test_one_of_several_optimizers_may_be_chosen() -> None:
    both = {"g": optimizer_of(), "d": optimizer_of()}
    Loop(LRSchedule(halving, optimizer="d"), both["d"], optimizers=both).start().epochs(1)
    assert (both["g"].param_groups[0]["lr"], both["d"].param_groups[0]["lr"]) == (0.8, 0.4)


def test_rates_of_one_of_several_optimizers_are_told_with_its_name_ahead() -> None:
    both = {"g": groups_of(None, "head"), "d": groups_of(None, "head")}
    loop = Loop(LRSchedule(halving, optimizer="g"), both["g"], optimizers=both)
    loop.bus.attach(LRSchedule(halving, optimizer="d"), name="for d")
    assert [rates for _, rates in told(loop, loop.start)] == [
        {"g.0": 0.1, "g.head": 0.2},
        {"d.0": 0.1, "d.head": 0.2},
    ]


def test_rates_of_the_only_optimizer_are_told_without_its_name() -> None:
    optimizer = optimizer_of()
    loop = Loop(LRSchedule(halving, optimizer="g"), optimizer, optimizers={"g": optimizer})
    assert told(loop, loop.start) == [(0, {"0": 0.8})]


def test_several_optimizers_without_a_choice_are_an_error() -> None:
    both = {"g": optimizer_of(), "d": optimizer_of()}
    with pytest.raises(
        ValueError, match=r"several optimizers \(g, d\); say which one: optimizer='g'"
    ):
        Loop(LRSchedule(halving), optimizers=both).start()


def test_run_without_an_optimizer_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(LRSchedule(halving), config={"no": "optimizer"}).start()
    loop.epochs(3)
    (record,) = caplog.records
    assert record.getMessage() == "LRSchedule does nothing: the run has no optimizer"


def test_schedule_is_not_stepped_in_the_background() -> None:
    with pytest.raises(EventBusError, match=r"LRSchedule\.start works on the loop's thread"):
        EventBus().attach(LRSchedule(halving), background=True)


def test_schedule_attached_in_the_middle_begins_with_the_next_step() -> None:
    loop = Loop(LRSchedule(lambda optimizer: lr_scheduler.ConstantLR(optimizer, 0.5), per="step"))
    assert loop.steps(3) == [0.8, 0.4, 0.4]


def test_warm_up_attached_in_the_middle_begins_with_the_next_step() -> None:
    loop = Loop(LRSchedule(halving, warmup_steps=2))
    assert loop.steps(4) == [0.8, 0.4, 0.8, 0.8]


# -- runs


def test_fresh_run_begins_the_schedule_anew() -> None:
    schedule = LRSchedule(halving, per="step", warmup_steps=1)
    bus = EventBus()
    bus.attach(schedule)
    for _ in range(2):
        optimizer = optimizer_of()
        loop = bus.bind(sender="train", optimizer=optimizer)
        loop.emit("run_started")
        rates = []
        for step in range(1, 5):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            loop.emit("batch_finished", epoch=1, step=step)
        loop.emit("run_closed", outcome="completed")
        assert rates == [0.8, 0.8, 0.4, 0.2]


def test_optimizer_is_let_go_when_the_run_is_closed() -> None:
    schedule = LRSchedule(halving)
    loop = Loop(schedule).start()
    loop.epochs(1)
    before = schedule.state_dict()
    loop.emitter.emit("run_closed", outcome="completed")
    assert schedule.scheduler is None
    assert schedule.state_dict() == before


def test_state_that_was_never_used_is_given_back_as_it_came() -> None:
    first = Loop(LRSchedule(halving, warmup_steps=3)).start()
    first.steps(2)
    state = through_disk(first.emitter.emit("state_requested").state["LRSchedule"])
    other = LRSchedule(halving, warmup_steps=3)
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_run_is_resumed_from_a_real_checkpoint(tmp_path: Path) -> None:
    def train(folder: str, fail_in: int | None = None) -> list[float]:
        bus, optimizer, rates = EventBus(strict=True), optimizer_of(momentum=0.9), []
        cycle = LRSchedule(lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=20), per="step")
        bus.attach(cycle)
        bus.attach(Checkpoint(tmp_path / folder, resume="auto", best=None))
        with Run(bus, optimizer=optimizer) as run:
            for epoch in run.epochs(6):
                for _ in run.batches([1, 2]):
                    rates.append(optimizer.param_groups[0]["lr"])
                    optimizer.step()
                    run.report(loss=1.0)
                if epoch == fail_in:
                    raise KeyboardInterrupt
        return rates

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", fail_in=3)
    assert train("cut") == whole[4:]  # from the third epoch on, which was interrupted


def test_failing_run_may_be_followed_by_another() -> None:
    loop = Loop(LRSchedule(halving)).start()
    loop.epochs(1)
    loop.emitter.emit("run_failed", exception=KeyboardInterrupt())
    loop.emitter.emit("run_closed", outcome="failed")
    loop.optimizer.param_groups[0]["lr"] = 0.8
    assert loop.start().epochs(1)[-1] == 0.8


# -- tensors


def test_rate_that_is_a_tensor_stays_the_same_tensor() -> None:
    rate = torch.tensor(0.8)
    loop = Loop(LRSchedule(halving, per="step", warmup_steps=2), optimizer_of(rate)).start()
    assert loop.steps(4) == pytest.approx([0.4, 0.8, 0.8, 0.4])
    assert loop.optimizer.param_groups[0]["lr"] is rate
    state = loop.emitter.emit("state_requested").state
    loop.bus.emit("state_restored", state=RestoredState(state), path="x")
    loop.start("x")
    assert loop.optimizer.param_groups[0]["lr"] is rate
    assert loop.steps(1)[-1] == pytest.approx(0.2)


def test_nobody_reads_what_the_step_reports() -> None:
    loop = Loop(LRSchedule(halving, per="step", warmup_steps=2)).start()
    metrics = {"loss": unread(0.5)}
    fields = {"loss": metrics["loss"], "metrics": metrics}
    for step in range(1, 5):
        loop.optimizer.step()
        loop.emitter.emit("batch_finished", epoch=1, step=step, **fields)
    assert loop.optimizer.param_groups[0]["lr"] == 0.2


def test_metric_is_only_read_when_due() -> None:
    arguments: dict[str, Any] = {"per": "step", "metric": "loss", "when": every(2)}
    loop = Loop(LRSchedule(plateau, **arguments)).start()
    loop.emitter.emit("batch_finished", epoch=1, step=1, metrics={"loss": unread(1.0)})
    with pytest.raises(AssertionError):  # it is one that fails when it is read
        loop.emitter.emit("batch_finished", epoch=1, step=2, metrics={"loss": unread(1.0)})


# -- arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"per": "batch"}, ValueError, "per is 'step' or 'epoch', got 'batch'"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps is at least 0, got -1"),
        ({"warmup_steps": 0.5}, TypeError, "warmup_steps is a whole number; got 0.5"),
        ({"metric": ""}, TypeError, "LRSchedule watches a metric by its key"),
    ],
)
def test_wrong_argument_is_refused_when_it_is_made(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LRSchedule(halving, **arguments)


def test_scheduler_in_place_of_its_factory_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"what makes a scheduler, lambda optimizer: .*; got a StepLR"
    ):
        LRSchedule(halving(optimizer_of()))  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("made", [5, None, lr_scheduler.StepLR])
def test_what_makes_no_scheduler_is_refused_in_one_line_when_the_run_starts(
    made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    bus.attach(LRSchedule(lambda optimizer: made))
    run = Run(bus, optimizer=optimizer_of())
    with (
        pytest.raises(TypeError, match=rf"StepLR\(optimizer, 30\); what it made is {made!r}"),
        run,
    ):
        next(iter(run.epochs(1)))
    assert caplog.messages == []  # closing it finds no second failure
