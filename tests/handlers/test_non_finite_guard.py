"""NonFiniteGuard: what it finds, when it acts, and that it waits for nobody unless it says so."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eventbus import Answers, EventBus, RestoredState, every
from eventbus.handlers import Checkpoint, GradientClipping, NonFiniteGuard
from eventbus.handlers._in_transit import largest_magnitudes, merged, send
from eventbus.handlers.non_finite_guard import NonFiniteError
from eventbus.loops import Run
from eventbus.loops._metrics import Metrics
from eventbus.testing import capture

from .unread import WaitedError, unread

NAN, INF = math.nan, math.inf
BIG = torch.tensor(1e300, dtype=torch.float64)


class Loop:
    """Tells of steps with given losses, metrics and gradients."""

    def __init__(self, guard: NonFiniteGuard, **context: Any) -> None:
        self.bus = EventBus(strict=True)
        self.bus.attach(guard)
        self.emitter = self.bus.bind(sender="train", **context)
        self.step_number = 0

    def start(self, resumed_from: str | None = None) -> None:
        self.emitter.emit("run_started", resumed_from=resumed_from)

    def step(self, loss: Any = None, /, **metrics: Any) -> Answers:
        self.step_number += 1
        place = {"epoch": 1, "step": self.step_number}
        return self.emitter.emit("batch_finished", loss=loss, metrics=metrics, **place)

    def backward(self, loss: Any = None) -> Answers:
        place = {"epoch": 1, "step": self.step_number + 1}
        return self.emitter.emit("backward_finished", loss=loss, **place)

    def end_epoch(self, how: str = "finished") -> Answers:
        return self.emitter.emit(f"epoch_{how}", epoch=1, step=self.step_number)

    @property
    def reason(self) -> str | None:
        stop = self.emitter.answers.stop
        return None if stop is None else stop.reason


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value)


def model_with_gradients(**values: list[float]) -> torch.nn.ParameterDict:
    model = torch.nn.ParameterDict({name: torch.zeros(len(row)) for name, row in values.items()})
    for name, row in values.items():
        model[name].grad = torch.tensor(row)
    return model


# -- what is found, and when


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_loss_stops_the_run_in_the_next_step(value: float) -> None:
    loop = Loop(NonFiniteGuard())
    loop.step(tensor(value))
    assert loop.reason is None
    loop.step(tensor(1.0))
    assert loop.reason == f"not finite in step 1: loss is {value}"


def test_finite_numbers_stop_nothing() -> None:
    loop = Loop(NonFiniteGuard(), model=model_with_gradients(a=[1e38, -1e38]))
    for _ in range(3):
        loop.backward(tensor(1e38))
        loop.step(tensor(1e38), accuracy=tensor(0.0), count=3, share=BIG)
    loop.end_epoch()
    assert loop.reason is None


def test_number_that_is_on_the_host_stops_at_once() -> None:
    loop = Loop(NonFiniteGuard())
    loop.step(NAN)
    assert loop.reason == "not finite in step 1: loss is nan"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.float32(NAN), "nan"),
        (np.float16(INF), "inf"),
        (np.float64(-INF), "-inf"),
        (np.array(NAN), "nan"),
        (np.array([INF]), "inf"),
        (10**400, "inf"),
    ],
)
def test_number_of_any_type_stops_at_once(value: Any, told: str) -> None:
    in_metrics, in_loss = Loop(NonFiniteGuard()), Loop(NonFiniteGuard("skip"))
    in_metrics.step(1.0, other=value)
    assert in_metrics.reason == f"not finite in step 1: other is {told}"
    skip = in_loss.backward(value).skip
    assert skip is not None
    assert skip.reason == f"not finite in step 1: loss is {told}"


@pytest.mark.parametrize("value", ["nan", None, [NAN], np.array([NAN, NAN]), object()])
def test_what_is_no_number_is_passed_over(value: Any) -> None:
    loop = Loop(NonFiniteGuard())
    loop.step(1.0, other=value)
    assert loop.reason is None


def test_metric_stops_the_run() -> None:
    loop = Loop(NonFiniteGuard())
    loop.step(tensor(1.0), perplexity=tensor(INF), accuracy=tensor(0.5))
    loop.step(tensor(1.0))
    assert loop.reason == "not finite in step 1: perplexity is inf"


def test_metrics_of_a_run_are_looked_at_unread() -> None:
    loop = Loop(NonFiniteGuard())
    metrics = Metrics({"loss": unread(NAN)})
    loop.emitter.emit("batch_finished", epoch=1, step=1, metrics=metrics)
    loop.end_epoch()
    assert loop.reason == "not finite in step 1: loss is nan"


def test_gradients_stop_the_run_and_their_parameters_are_named() -> None:
    model = model_with_gradients(a=[1.0, NAN], b=[1.0], c=[-INF, 0.0])
    loop = Loop(NonFiniteGuard(), model=model)
    loop.backward()
    assert loop.reason is None
    loop.step(tensor(1.0))
    assert loop.reason == "not finite in step 1: gradient of a is nan, gradient of c is inf"


def test_parameters_of_several_models_are_told_apart() -> None:
    models = {"g": model_with_gradients(w=[1.0]), "d": model_with_gradients(w=[NAN])}
    loop = Loop(NonFiniteGuard(), models=models)
    loop.backward()
    loop.end_epoch()
    assert loop.reason == "not finite in step 1: gradient of d.w is nan"


def test_long_lists_are_cut() -> None:
    model = model_with_gradients(**{f"p{n}": [NAN] for n in range(8)})
    loop = Loop(NonFiniteGuard(), model=model)
    loop.backward()
    loop.end_epoch()
    assert loop.reason is not None
    assert loop.reason.endswith("gradient of p4 is nan, and 3 more")


def test_gradient_is_named_before_clipping_spreads_it() -> None:
    model = model_with_gradients(a=[1.0], b=[INF])
    loop = Loop(NonFiniteGuard(), model=model)
    loop.bus.attach(GradientClipping(1.0))
    loop.backward()
    assert not all(math.isfinite(p.grad.item()) for p in model.values())
    loop.end_epoch()
    assert loop.reason == "not finite in step 1: gradient of b is inf"


def test_sparse_empty_and_absent_gradients_are_understood() -> None:
    model = torch.nn.Module()
    model.table = torch.nn.Embedding(3, 2, sparse=True)
    model.empty = torch.nn.Parameter(torch.zeros(0))
    model.frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    (model.table(torch.tensor([0, 0])).sum() * NAN).backward()
    model.empty.grad = torch.zeros(0)
    loop = Loop(NonFiniteGuard(), model=model)
    loop.backward()
    loop.end_epoch()
    assert loop.reason == "not finite in step 1: gradient of table.weight is nan"


@pytest.mark.parametrize(
    ("watch", "found"),
    [
        ("loss", "loss is nan"),
        (("metrics",), "other is nan"),
        (["gradients"], "gradient of a is nan"),
        (("metrics", "loss"), "other is nan, loss is nan"),
    ],
)
def test_only_what_is_watched_is_found(watch: Any, found: str) -> None:
    loop = Loop(NonFiniteGuard(watch=watch), model=model_with_gradients(a=[NAN]))
    loop.backward(tensor(NAN))
    loop.step(tensor(NAN), loss=tensor(NAN), other=tensor(NAN))
    loop.end_epoch()
    assert loop.reason == f"not finite in step 1: {found}"


def test_loss_among_the_metrics_is_the_loss() -> None:
    loop = Loop(NonFiniteGuard(watch="loss"))
    loop.step(loss=tensor(NAN), other=tensor(INF))
    loop.end_epoch()
    assert loop.reason == "not finite in step 1: loss is nan"


def test_other_signals_may_be_looked_at() -> None:
    loop = Loop(NonFiniteGuard(on="validation_done"))
    loop.step(tensor(NAN))
    loop.emitter.emit(
        "validation_done", name="val", round=1, epoch=1, step=1, metrics={"val_loss": tensor(INF)}
    )
    loop.end_epoch()
    assert loop.reason == "not finite in step 1: val_loss is inf"


def test_what_is_looked_at_when_an_epoch_ends_is_acted_on_then() -> None:
    bus = EventBus(strict=True)
    bus.attach(NonFiniteGuard(on="epoch_finished"))
    with Run(bus) as run:
        for epoch in run.epochs(4):
            run.report(other=tensor(NAN if epoch == 2 else 1.0))
    assert (run.outcome, run.epoch) == ("stopped", 2)


def test_what_is_looked_at_when_a_run_ends_is_acted_on_then() -> None:
    loop = Loop(NonFiniteGuard("raise", on="run_finished"))
    with pytest.raises(NonFiniteError, match="other is nan"):
        loop.emitter.emit("run_finished", reason="completed", metrics={"other": tensor(NAN)})


def test_filter_says_when_to_look() -> None:
    loop = Loop(NonFiniteGuard(when=every(2)))
    loop.step(tensor(NAN))
    loop.step(tensor(1.0))
    loop.end_epoch()
    assert loop.reason is None


@pytest.mark.parametrize("ending", ["finished", "interrupted"])
def test_last_step_of_an_epoch_is_acted_on_when_it_ends(ending: str) -> None:
    loop = Loop(NonFiniteGuard())
    loop.step(tensor(NAN))
    loop.end_epoch(ending)
    assert loop.reason == "not finite in step 1: loss is nan"


def test_last_step_of_a_run_without_epochs_is_acted_on_when_it_ends() -> None:
    bus = EventBus(strict=True)
    bus.attach(NonFiniteGuard("raise"))

    def train() -> None:
        with Run(bus) as run:
            for step in run.steps(2):
                run.report(loss=tensor(NAN if step == 2 else 1.0))

    with pytest.raises(NonFiniteError, match="step 2: loss is nan"):
        train()


def test_run_is_stopped_once() -> None:
    loop = Loop(NonFiniteGuard())
    with capture(loop.bus) as recording:
        for _ in range(5):
            loop.step(tensor(NAN))
        loop.end_epoch("interrupted")
        loop.emitter.emit("run_finished", reason="nan")
    assert len(recording.answers) == 1


def test_whoever_is_stopped_is_told_to_go_on_from_before(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(NonFiniteGuard())
    for _ in range(3):
        loop.step(tensor(NAN))
    (record,) = caplog.records
    assert "saved from step 1 on may not be finite" in record.getMessage()


def test_next_run_is_guarded_again() -> None:
    loop = Loop(NonFiniteGuard())
    for _ in range(2):
        loop.start()
        loop.step(tensor(NAN))
        loop.step(tensor(NAN))
        assert loop.reason is not None
        loop.emitter.emit("run_closed", outcome="stopped")
        assert loop.reason is None


def test_what_an_earlier_run_left_is_forgotten() -> None:
    loop = Loop(NonFiniteGuard())
    loop.step(tensor(NAN))
    loop.emitter.emit("run_closed", outcome="failed")
    loop.start()
    loop.step(tensor(1.0))
    loop.end_epoch()
    assert loop.reason is None


# -- raise


def test_error_tells_what_and_where() -> None:
    loop = Loop(NonFiniteGuard("raise"), model=model_with_gradients(a=[NAN]))
    loop.backward()
    with pytest.raises(NonFiniteError, match="step 1: gradient of a is nan") as caught:
        loop.step(tensor(1.0))
    assert caught.value.step == 1
    assert list(caught.value.values) == ["gradient of a"]


def test_run_that_failed_goes_on_from_before_the_nan(tmp_path: Path) -> None:
    def train(bad_step: int) -> Run:
        bus, model = EventBus(), torch.nn.Linear(1, 1)
        bus.attach(NonFiniteGuard("raise"))
        bus.attach(Checkpoint(tmp_path, best=None, resume="auto"))
        with Run(bus, model=model) as run:
            for _ in run.epochs(4):
                for value in run.batches([1.0, 2.0]):
                    loss = tensor(NAN if run.step == bad_step else value)
                    model.weight.data.add_(loss)
                    run.report(loss=loss)
        assert math.isfinite(model.weight.item())
        return run

    for bad_step in (4, 5):  # the last of an epoch, and the first
        with pytest.raises(NonFiniteError, match=f"step {bad_step}"):
            train(bad_step)
    assert train(0).step == 8


def test_error_survives_pickling() -> None:
    error = NonFiniteError("not finite", {"loss": INF}, 3)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.values, copy.step) == ("not finite", {"loss": INF}, 3)


# -- skip


def test_batch_is_skipped_before_the_step() -> None:
    loop = Loop(NonFiniteGuard("skip"), model=model_with_gradients(a=[1.0]))
    assert loop.backward(tensor(1.0)).skip is None
    skip = loop.backward(tensor(NAN)).skip
    assert skip is not None
    assert skip.reason == "not finite in step 1: loss is nan"


def test_batch_is_skipped_for_a_gradient() -> None:
    loop = Loop(NonFiniteGuard("skip"), model=model_with_gradients(a=[INF]))
    skip = loop.backward(tensor(1.0)).skip
    assert skip is not None
    assert skip.reason == "not finite in step 1: gradient of a is inf"


def test_run_is_stopped_when_only_batches_to_skip_come() -> None:
    guard = NonFiniteGuard("skip", max_skips=3)
    loop = Loop(guard)
    for loss in (NAN, NAN, 1.0, NAN, NAN):
        assert loop.backward(tensor(loss)).stop is None
    stop = loop.backward(tensor(NAN)).stop
    assert stop is not None
    assert stop.reason == "3 batches skipped in a row; not finite in step 1: loss is nan"
    assert (guard.skips, guard.skipped) == (3, 5)


def test_one_batch_that_is_skipped_may_be_too_many() -> None:
    stop = Loop(NonFiniteGuard("skip", max_skips=1)).backward(tensor(NAN)).stop
    assert stop is not None
    assert stop.reason == "1 batch skipped in a row; not finite in step 1: loss is nan"


def test_training_goes_on_past_a_batch_that_was_skipped() -> None:
    bus, model = EventBus(strict=True), torch.nn.Linear(1, 1)
    bus.attach(NonFiniteGuard("skip"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with capture(bus) as recording, Run(bus, model=model, optimizer=optimizer) as run:
        for value in run.batches([1.0, NAN, 1.0]):
            optimizer.zero_grad()
            loss = model(torch.full((1, 1), value)).sum()
            loss.backward()
            if run.emit("backward_finished", loss=loss).skip:
                continue
            optimizer.step()
            run.report(loss=loss)
    assert (run.outcome, run.step) == ("completed", 2)
    assert len(recording.of("batch_skipped")) == 1
    assert all(math.isfinite(p.sum().item()) for p in model.parameters())


def test_loop_in_which_nothing_can_be_skipped_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(NonFiniteGuard("skip"))
    loop.start()
    loop.step(tensor(NAN))
    loop.emitter.emit("run_finished", reason="completed")
    (record,) = caplog.records
    assert "the loop emits no backward_finished" in record.getMessage()


@pytest.mark.parametrize("data", [[], [1.0]])
def test_loop_that_has_nothing_to_train_on_is_not_warned_of(
    caplog: pytest.LogCaptureFixture, data: list[float]
) -> None:
    bus = EventBus(strict=True)
    bus.attach(NonFiniteGuard("skip", when=every(2)))  # not due in the only step there may be
    with Run(bus) as run:
        for value in run.batches(data):
            run.emit("backward_finished", loss=value)
            run.report(loss=value)
    assert caplog.records == []


def test_skips_are_counted_on_after_a_resume() -> None:
    guard = NonFiniteGuard("skip", max_skips=3)
    loop = Loop(guard)
    loop.start()
    loop.backward(tensor(NAN))
    loop.backward(tensor(NAN))
    state = loop.emitter.emit("state_requested").state
    resumed = Loop(NonFiniteGuard("skip", max_skips=3))
    resumed.bus.emit("state_restored", state=RestoredState(state), path="x")
    resumed.start("x")
    assert resumed.backward(tensor(NAN)).stop is not None
    resumed.start()
    assert resumed.bus.emit("state_requested").state["NonFiniteGuard"] == {"skips": 0, "skipped": 0}


def test_skips_of_another_run_are_not_counted_in_one_that_was_saved_without_it() -> None:
    guard = NonFiniteGuard("skip", max_skips=2)
    loop = Loop(guard)
    loop.start()
    loop.backward(tensor(NAN))
    loop.emitter.emit("state_restored", state=RestoredState({"loop": {}}), path="x")
    loop.start("x")
    assert guard.skipped == 0
    assert loop.backward(tensor(NAN)).stop is None


# -- the device


@pytest.mark.parametrize("action", ["stop", "raise"])
def test_nobody_waits_for_the_device(action: Any) -> None:
    model = torch.nn.Linear(2, 2)
    for parameter in model.parameters():
        parameter.grad = unread(torch.ones_like(parameter))
    loop = Loop(NonFiniteGuard(action), model=model)
    for _ in range(3):
        loop.backward(unread(1.0))
        loop.step(unread(1.0), logits=unread([1.0, 2.0]), count=unread(3))
    loop.end_epoch()
    assert loop.reason is None
    loop.step(unread(NAN))
    if action == "stop":
        loop.end_epoch()
        assert loop.reason == "not finite in step 4: loss is nan"
    else:
        with pytest.raises(NonFiniteError):
            loop.end_epoch()


def test_tensor_that_nobody_may_read_fails_when_it_is_read() -> None:
    with pytest.raises(WaitedError):
        unread(1.0).item()


def test_training_is_the_same_with_and_without() -> None:
    def train(*handlers: NonFiniteGuard) -> list[Any]:
        torch.manual_seed(1)
        bus, model = EventBus(strict=True), torch.nn.Linear(3, 1)
        for handler in handlers:
            bus.attach(handler)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Run(bus, model=model, optimizer=optimizer) as run:
            for batch in run.batches(torch.randn(5, 4, 3).unbind()):
                optimizer.zero_grad()
                loss = model(batch).square().mean()
                loss.backward()
                run.emit("backward_finished", loss=loss)
                optimizer.step()
                run.report(loss=loss)
        return [p.tolist() for p in model.parameters()]

    alone = train()
    assert train(NonFiniteGuard("stop")) == alone
    assert train(NonFiniteGuard("raise")) == alone
    assert train(NonFiniteGuard("skip")) == alone


def test_numbers_of_all_types_travel() -> None:
    values = {
        "half": torch.tensor(0.5, dtype=torch.bfloat16),
        "double": torch.tensor(1e300, dtype=torch.float64),
        "whole": torch.tensor(7),
        "truth": torch.tensor([True, False]),
        "complex": torch.tensor([3 + 4j]),
        "vector": torch.tensor([1.0, NAN]),
        "none": torch.zeros(0),
    }
    found = merged(send(values))
    assert math.isnan(found.pop("vector"))
    assert found == {"half": 0.5, "double": 1e300, "whole": 7, "truth": 1.0, "complex": 5.0}


def test_magnitudes_are_found_by_name_whatever_the_types() -> None:
    tensors = {
        "a": torch.tensor([1.0, -3.0]),
        "b": torch.tensor([2.0], dtype=torch.float64),
        "c": torch.tensor([[0.5]]),
    }
    found = largest_magnitudes(tensors)
    assert {name: value.item() for name, value in found.items()} == {"a": 3.0, "b": 2.0, "c": 0.5}


@pytest.mark.gpu
def test_cuda_is_not_waited_for_and_acted_on_all_the_same() -> None:
    model = torch.nn.Linear(8, 8).cuda()
    model(torch.ones(4, 8, device="cuda")).sum().backward()
    loop = Loop(NonFiniteGuard(), model=model)
    losses = [torch.tensor(value, device="cuda") for value in (1.0, NAN, 1.0)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for loss in losses:
            loop.backward(loss)
            loop.step(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    loop.end_epoch()
    assert loop.reason == "not finite in step 2: loss is nan"


# -- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "warn"}, "action is 'stop', 'skip' or 'raise', got 'warn'"),
        ({"watch": ()}, "watch is any of"),
        ({"watch": ("weights",)}, "watch is any of 'loss', 'metrics', 'gradients'; got"),
        ({"action": "skip", "watch": "metrics"}, "skips for the loss or gradients"),
        ({"max_skips": 0}, "max_skips is at least 1"),
        ({"max_skips": 3}, "max_skips is for action='skip'; got 3 with 'stop'"),
        ({"action": "skip", "on": "epoch_finished"}, r"leave on= out; got \('epoch_finished',\)"),
    ],
)
def test_wrong_argument_is_refused_when_it_is_made(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonFiniteGuard(**arguments)
