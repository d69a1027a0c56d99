"""EMA: torch's average, in the model during a validation and never after it."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eventbus import EventBus, EventBusError, Priority, RestoredState, State, every, from_
from eventbus.handlers import EMA, Checkpoint, EarlyStopping
from eventbus.loops import Run

from .unread import Unread, read, unread


class Counting(torch.nn.Module):
    """A model with parameters and buffers of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.scale = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
        self.register_buffer("mean", torch.tensor([4.0]))
        self.register_buffer("places", torch.arange(100))
        self.register_buffer("mask", torch.tensor([True, False]))

    def move(self, by: float) -> None:
        with torch.no_grad():
            for tensor in (self.weight, self.scale, self.get_buffer("mean")):
                tensor.add_(by)


def values_of(model: torch.nn.Module) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


class Loop:
    """Moves the weights of a model by 1 in each step, and tells of it."""

    def __init__(self, ema: EMA, model: torch.nn.Module | None = None, **context: Any) -> None:
        self.bus = EventBus(strict=True)
        self.handle = self.bus.attach(ema)
        self.model = Counting() if model is None else model
        self.emitter = self.bus.bind(sender="train", **(context or {"model": self.model}))
        self.step = self.round = 0

    def start(self, resumed_from: str | None = None) -> Loop:
        self.emitter.emit("run_started", resumed_from=resumed_from)
        return self

    def steps(self, count: int) -> Loop:
        for _ in range(count):
            self.step += 1
            if isinstance(self.model, Counting):
                self.model.move(1.0)
            self.emitter.emit("batch_finished", epoch=1, step=self.step)
        return self

    def begin_validation(self) -> None:
        self.round += 1
        self.emitter.emit("validation_started", **self.place)

    def end_validation(self, how: str = "done") -> None:
        self.emitter.emit(f"validation_{how}", **self.place)

    @property
    def place(self) -> dict[str, Any]:
        return {"name": "val", "round": self.round, "epoch": 1, "step": self.step}


# -- the average


def test_average_is_that_of_torch() -> None:
    ema = EMA(decay=0.9)
    loop = Loop(ema).start()
    expected = AveragedModel(
        loop.model,
        multi_avg_fn=get_ema_multi_avg_fn(0.9),  # type: ignore[no-untyped-call]  # torch's
        use_buffers=True,
    )
    for _ in range(5):
        loop.steps(1)
        expected.update_parameters(loop.model)
    assert ema.averaged is not None
    found, torchs = values_of(ema.averaged), values_of(expected)
    del found["module.places"], torchs["module.places"]  # which torch wears down, see below
    assert found == torchs
    assert ema.updates == 5


def test_whole_numbers_are_not_worn_down() -> None:
    # torch's average of 11 and 11 with a decay of 0.9999 is 10.99, which becomes 10
    ema = EMA(decay=0.9999)
    Loop(ema).start().steps(20)
    assert ema.averaged is not None
    assert ema.averaged.module.get_buffer("places").tolist() == list(range(100))
    assert ema.averaged.module.get_buffer("mask").tolist() == [True, False]


def test_complex_weights_are_averaged() -> None:
    model = torch.nn.ParameterList([torch.tensor([2j])])
    ema = EMA(decay=0.5)
    loop = Loop(ema, model).start().steps(1)
    with torch.no_grad():
        model[0].zero_()
    loop.steps(1)
    assert ema.averaged is not None
    assert [p.item() for p in ema.averaged.module.parameters()] == [1j]


def narrow_model(kind: torch.dtype = torch.bfloat16, size: int = 1) -> torch.nn.ParameterList:
    return torch.nn.ParameterList([torch.full((2,), 1.0, dtype=kind) for _ in range(size)])


def fill(model: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(value + number)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_average_of_narrow_weights_comes_to_where_they_stay(kind: torch.dtype) -> None:
    # in bfloat16 1.25 and a hundredth of the way to 2 is 1.25
    ema, model = EMA(decay=0.99), narrow_model(kind, size=20)
    loop = Loop(ema, model).start().steps(1)
    fill(model, 2.0)
    loop.steps(1000)
    assert ema.averaged is not None
    for number, parameter in enumerate(ema.averaged.parameters()):
        assert parameter.dtype == torch.float32
        assert parameter.tolist() == pytest.approx([2.0 + number] * 2, rel=1e-3)
    assert {parameter.dtype for parameter in model.parameters()} == {kind}


def test_narrow_buffers_are_averaged_in_single_precision_too() -> None:
    ema, model = EMA(decay=0.5), torch.nn.BatchNorm1d(2, dtype=torch.bfloat16)
    Loop(ema, model).start().steps(1)
    assert ema.averaged is not None
    kinds = {name: buffer.dtype for name, buffer in ema.averaged.module.named_buffers()}
    whole, wide = torch.int64, torch.float32
    assert kinds == {"running_mean": wide, "running_var": wide, "num_batches_tracked": whole}


def test_average_of_narrow_weights_may_be_called_in_single_precision() -> None:
    ema, model = EMA(), torch.nn.LSTM(2, 1, dtype=torch.bfloat16)
    Loop(ema, model).start().steps(1)
    assert ema.averaged is not None
    assert ema.averaged(torch.ones(1, 1, 2))[0].dtype == torch.float32
    as_the_model_is = copy.deepcopy(ema.averaged.module).to(torch.bfloat16)
    inputs = torch.ones(1, 1, 2, dtype=torch.bfloat16)
    assert torch.equal(as_the_model_is(inputs)[0], model(inputs)[0])


def test_average_begins_with_the_weights_after_the_first_step() -> None:
    ema = EMA()
    loop = Loop(ema).start()
    assert ema.averaged is None
    loop.steps(1)
    assert ema.averaged is not None
    assert values_of(ema.averaged.module) == values_of(loop.model)


def test_average_needs_no_gradient_and_is_for_evaluation() -> None:
    ema = EMA()
    Loop(ema, torch.nn.Dropout(0.5)).start().steps(1)
    assert ema.averaged is not None
    assert not ema.averaged.training
    assert not any(p.requires_grad for p in ema.averaged.parameters())


def test_model_is_not_changed_by_averaging() -> None:
    loop = Loop(EMA(decay=0.5)).start()
    expected = copy.deepcopy(loop.model)
    for _ in range(3):
        loop.steps(1)
        assert isinstance(expected, Counting)
        expected.move(1.0)
    assert values_of(loop.model) == values_of(expected)
    assert loop.model.training


@pytest.mark.parametrize(("when", "updates"), [(every(2), 3), (from_(5), 2), (None, 6)])
def test_filter_says_when_to_update(when: Any, updates: int) -> None:
    ema = EMA(when=when)
    Loop(ema).start().steps(6)
    assert ema.updates == updates


def test_other_signals_may_update() -> None:
    ema = EMA(on="epoch_finished")
    loop = Loop(ema).start().steps(3)
    loop.emitter.emit("epoch_finished", epoch=1, step=3)
    assert ema.updates == 1


def test_skipped_batch_does_not_count() -> None:
    ema = EMA()
    Loop(ema).start().emitter.emit("batch_skipped", epoch=1, step=1)
    assert ema.updates == 0


def test_average_may_be_called() -> None:
    ema = EMA()
    model = torch.nn.Linear(2, 1)
    Loop(ema, model).start().steps(1)
    assert ema.averaged is not None
    inputs = torch.ones(1, 2)
    assert ema.averaged(inputs).tolist() == model(inputs).tolist()


def test_wrapped_model_is_averaged_without_its_wrapper() -> None:
    ema, inner = EMA(), Counting()
    Loop(ema, torch.nn.DataParallel(inner)).start().steps(1)
    assert ema.averaged is not None
    assert isinstance(ema.averaged.module, Counting)


# -- which model


def test_one_of_several_models_may_be_chosen() -> None:
    models = {"g": Counting(), "d": torch.nn.Linear(1, 1)}
    ema = EMA(model="g")
    Loop(ema, models["g"], models=models).start().steps(1)
    assert ema.averaged is not None
    assert isinstance(ema.averaged.module, Counting)


def test_several_models_without_a_choice_are_an_error() -> None:
    models = {"g": Counting(), "d": Counting()}
    with pytest.raises(ValueError, match=r"several models \(g, d\); say which one: model='g'"):
        Loop(EMA(), models=models).start().steps(1)


def test_run_without_a_model_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(EMA(validate=True), config={"no": "model"}).start().steps(3)
    loop.begin_validation()
    loop.end_validation()
    (record,) = caplog.records
    assert record.getMessage() == "EMA does nothing: the run has no model"


@pytest.mark.parametrize("validate", [False, True])
def test_average_is_not_taken_in_the_background(validate: bool) -> None:
    with pytest.raises(EventBusError, match=r"EMA\.update works on the loop's thread"):
        EventBus().attach(EMA(validate=validate), background=True)


# -- validation


def test_validation_sees_the_averaged_weights_when_asked() -> None:
    ema = EMA(decay=0.5, validate=True)
    loop = Loop(ema).start().steps(3)
    trained = values_of(loop.model)
    assert ema.averaged is not None
    loop.begin_validation()
    assert values_of(loop.model) == values_of(ema.averaged.module) != trained
    loop.end_validation()
    assert values_of(loop.model) == trained


def test_validation_sees_the_trained_weights_unless_asked() -> None:
    loop = Loop(EMA(decay=0.5)).start().steps(3)
    trained = values_of(loop.model)
    loop.begin_validation()
    assert values_of(loop.model) == trained


def test_validation_before_the_first_step_sees_the_weights_there_are() -> None:
    loop = Loop(EMA(validate=True)).start()
    before = values_of(loop.model)
    loop.begin_validation()
    assert values_of(loop.model) == before
    loop.end_validation()
    assert values_of(loop.model) == before


def test_validation_leaves_the_average_as_it_was() -> None:
    ema = EMA(decay=0.5, validate=True)
    loop = Loop(ema).start().steps(3)
    assert ema.averaged is not None
    before = values_of(ema.averaged)
    loop.begin_validation()
    assert values_of(ema.averaged) == before
    loop.end_validation()
    assert values_of(ema.averaged) == before


def test_narrow_model_has_the_rounded_average_during_a_validation() -> None:
    ema, model = EMA(decay=0.5, validate=True), narrow_model()
    loop = Loop(ema, model).start().steps(1)
    fill(model, 1.0 + 2**-7)  # the next number in bfloat16
    loop.steps(2)
    loop.begin_validation()
    assert ema.averaged is not None
    (averaged,) = ema.averaged.parameters()
    assert averaged.tolist() == [1.0 + 0.75 * 2**-7] * 2
    assert torch.equal(model[0], averaged.bfloat16())
    loop.end_validation()
    assert model[0].tolist() == [1.0 + 2**-7] * 2


def test_weights_are_put_back_where_they_are() -> None:
    loop = Loop(EMA(decay=0.5, validate=True)).start().steps(2)
    addresses = [p.data_ptr() for p in loop.model.parameters()]
    loop.begin_validation()
    loop.end_validation()
    assert [p.data_ptr() for p in loop.model.parameters()] == addresses


@pytest.mark.parametrize(
    ("signal", "fields"),
    [
        ("validation_interrupted", {"name": "val", "round": 1, "epoch": 1, "step": 3}),
        ("batch_started", {"epoch": 1, "step": 4}),
        ("run_failed", {"exception": KeyboardInterrupt()}),
        ("run_closed", {"outcome": "failed"}),
    ],
)
def test_trained_weights_are_back_before_anybody_hears_that_it_was_cut_short(
    signal: str, fields: dict[str, Any]
) -> None:
    loop = Loop(EMA(decay=0.5, validate=True)).start().steps(3)
    trained, seen = values_of(loop.model), []
    loop.begin_validation()

    @loop.bus.on(signal, priority=399)
    def look() -> None:
        seen.append(values_of(loop.model))

    loop.emitter.emit(signal, **fields)
    assert seen == [trained]


def test_trained_weights_are_back_once_it_is_decided_on_those_that_were_measured() -> None:
    ema = EMA(decay=0.5, validate=True)
    loop = Loop(ema).start().steps(3)
    trained, seen = values_of(loop.model), {}
    for priority in Priority:

        @loop.bus.on("validation_done", priority=priority)
        def look(priority: Priority = priority) -> None:
            seen[priority] = values_of(loop.model)

    loop.begin_validation()
    loop.end_validation()
    assert ema.averaged is not None
    measured, saved = [values_of(ema.averaged.module)] * 4, [trained] * 2
    assert [seen[priority] for priority in Priority] == [*measured, *saved]


def test_average_of_validations_is_one_of_the_trained_weights() -> None:
    lending = EMA(decay=0.5, validate=True, on="validation_done")
    other = EMA(decay=0.5, on="validation_done")
    loop = Loop(lending)
    loop.bus.attach(other, name="other")
    expected = torch.nn.Parameter(torch.tensor([2.0, -1.0]))  # Counting's, after one step
    for _ in range(3):
        loop.steps(1)
        loop.begin_validation()
        loop.end_validation()
    with torch.no_grad():  # 1, 2 and 3 added to [1, -2]
        expected.add_(1.25)
    for ema in (lending, other):
        assert ema.averaged is not None
        assert dict(ema.averaged.module.named_parameters())["weight"].tolist() == expected.tolist()


def test_trained_weights_are_back_where_a_loop_goes_on_after_a_handler_failed() -> None:
    bus, model = EventBus(strict=True), Counting()
    bus.attach(EMA(decay=0.5, validate=True))
    trained: list[Any] = []

    @bus.on("validation_done")
    def fail() -> None:
        raise ValueError("in a handler")

    with Run(bus, model=model) as run:
        for _ in run.steps(3):
            if trained:
                assert values_of(model) == trained[-1]
            model.move(1.0)
            run.report(loss=1.0)
            trained.append(values_of(model))
            with pytest.raises(ValueError, match="in a handler"), run.validation():
                run.report(loss=1.0)


@pytest.mark.parametrize("error", [ValueError("in a batch"), KeyboardInterrupt(), SystemExit(1)])
def test_trained_weights_are_back_after_a_failing_validation(error: BaseException) -> None:
    bus, model = EventBus(strict=True), Counting()
    bus.attach(EMA(decay=0.5, validate=True))
    trained: list[Any] = []

    def fail() -> Iterator[int]:
        yield 1
        assert values_of(model) != trained[-1]
        raise error

    def train() -> None:
        with Run(bus, model=model) as run:
            for _ in run.batches([1, 2, 3]):
                model.move(1.0)
                run.report(loss=1.0)
            trained.append(values_of(model))
            for _ in run.validate(fail()):
                run.report(loss=1.0)

    with pytest.raises(type(error)):
        train()
    assert values_of(model) == trained[0]


def test_trained_weights_are_back_where_it_was_detached_during_the_validation() -> None:
    loop = Loop(EMA(decay=0.5, validate=True)).start().steps(3)
    trained = values_of(loop.model)
    loop.begin_validation()
    loop.handle.detach()
    loop.end_validation()
    assert values_of(loop.model) == trained
    assert loop.bus.subscriptions == ()


def test_trained_weights_are_back_at_once_where_its_object_was_detached() -> None:
    loop = Loop(EMA(decay=0.5, validate=True)).start().steps(3)
    trained = values_of(loop.model)
    loop.begin_validation()
    assert values_of(loop.model) != trained
    loop.bus.detach(loop.handle.thing)
    assert values_of(loop.model) == trained
    loop.bus.attach(loop.handle.thing)
    loop.end_validation()
    loop.begin_validation()
    assert values_of(loop.model) != trained


def test_a_second_one_leaves_the_average_of_the_first_in_the_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = EMA(decay=0.5, validate=True), EMA(decay=0.1, validate=True)
    loop = Loop(first)
    loop.bus.attach(second, name="second")
    loop.start().steps(3)
    trained = values_of(loop.model)
    loop.begin_validation()
    assert first.averaged is not None
    assert values_of(loop.model) == values_of(first.averaged.module)
    loop.end_validation()
    assert values_of(loop.model) == trained
    assert [record.message for record in caplog.records] == [
        "this EMA lends no average: the model has that of another EMA"
    ]


def test_filter_on_all_of_it_does_not_keep_the_averaged_weights_in_the_model() -> None:
    bus, model = EventBus(strict=True), Counting()
    bus.attach(EMA(decay=0.5, validate=True), when=every(2))
    emitter = bus.bind(sender="train", model=model)
    emitter.emit("batch_finished", epoch=1, step=2)
    model.move(1.0)
    trained = values_of(model)
    emitter.emit("validation_started", name="val", round=2, epoch=1, step=2)
    assert values_of(model) != trained
    emitter.emit("run_failed", exception=ValueError(), epoch=1, step=2)
    assert values_of(model) == trained


def test_ctrl_c_during_the_exchange_loses_nothing() -> None:
    class Interrupted(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.Tensor.copy_ and armed:
                armed.clear()
                raise KeyboardInterrupt
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]  # torch's

    armed: list[bool] = []
    model = torch.nn.ParameterList([torch.zeros(2), torch.zeros(2)])
    loop = Loop(EMA(decay=0.5, validate=True), model).start().steps(1)
    with torch.no_grad():
        model[0].fill_(5.0)
    model[1] = torch.nn.Parameter(torch.full((2,), 7.0).as_subclass(Interrupted))
    armed.append(True)
    with pytest.raises(KeyboardInterrupt):
        loop.begin_validation()
    assert model[0].tolist() == [0.0, 0.0]  # half way
    loop.emitter.emit("run_failed", exception=KeyboardInterrupt())
    assert [p.tolist() for p in model] == [[5.0, 5.0], [7.0, 7.0]]
    loop.begin_validation()
    armed.append(True)
    with pytest.raises(KeyboardInterrupt):
        loop.end_validation()
    assert [p.tolist() for p in model] == [[5.0, 5.0], [0.0, 0.0]]  # half way back
    loop.emitter.emit("run_failed", exception=KeyboardInterrupt())
    assert [p.tolist() for p in model] == [[5.0, 5.0], [7.0, 7.0]]


class Worse(Loop):
    """Each validation measures the sum of the weights, which grow."""

    def validate(self) -> float:
        self.begin_validation()
        with torch.no_grad():
            loss = sum(float(parameter.sum()) for parameter in self.model.parameters())
        place, metrics = self.place, {"val_loss": loss}
        self.emitter.emit("validation_done", metrics=metrics, **place)
        self.emitter.emit("epoch_finished", epoch=self.round, step=self.step, metrics=metrics)
        return loss

    def finish(self) -> None:
        self.emitter.emit("run_finished", reason="completed", epoch=self.round, step=self.step)


def test_early_stopping_puts_the_weights_back_that_had_the_metric() -> None:
    loop = Worse(EMA(decay=0.5, validate=True))
    stopping = EarlyStopping(restore_best=True)
    loop.bus.attach(stopping)
    loop.start().steps(3)
    trained = values_of(loop.model)
    best = loop.validate()
    assert values_of(loop.model) == trained
    loop.steps(2)
    assert loop.validate() > best
    loop.finish()
    with torch.no_grad():
        assert sum(float(p.sum()) for p in loop.model.parameters()) == best == stopping.best


def test_best_checkpoint_holds_the_weights_to_go_on_from_and_the_average_beside_them(
    tmp_path: Path,
) -> None:
    ema, checkpoint = EMA(decay=0.5, validate=True), Checkpoint(tmp_path)
    loop = Worse(ema)
    loop.bus.attach(checkpoint)
    loop.bus.on("state_requested")(lambda model: State("model", model.state_dict()))
    loop.start().steps(3)
    trained = values_of(loop.model)
    loop.validate()
    assert ema.averaged is not None
    averaged = values_of(ema.averaged)
    loop.steps(2)
    loop.validate()
    assert checkpoint.best_path is not None
    state = Checkpoint.load(checkpoint.best_path)
    assert {name: tensor.tolist() for name, tensor in state["model"].items()} == trained
    assert {name: v.tolist() for name, v in state["EMA"]["averaged"].items()} == averaged


def test_checkpoint_during_a_validation_holds_the_trained_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(EMA(decay=0.5, validate=True)).start().steps(3)
    trained = values_of(loop.model)
    loop.bus.on("state_requested", priority=300)(
        lambda model: State("model", copy.deepcopy(model.state_dict()))
    )
    loop.begin_validation()
    saved = loop.emitter.emit("state_requested").state["model"]
    assert {name: tensor.tolist() for name, tensor in saved.items()} == trained
    loop.end_validation()
    assert values_of(loop.model) == trained
    (record,) = caplog.records
    assert "a checkpoint is made during a validation" in record.getMessage()


def test_checkpoint_between_validations_is_nothing_special(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(EMA(validate=True)).start().steps(3)
    loop.emitter.emit("state_requested")
    assert caplog.records == []


def test_inference_mode_does_not_spoil_the_weights() -> None:
    ema, source = EMA(decay=0.5, validate=True), EMA(decay=0.5)
    Loop(source).start().steps(2)
    loop = Loop(ema)
    loop.bus.emit("state_restored", state=RestoredState({"EMA": source.state_dict()}), path="x")
    loop.start("x")
    with torch.inference_mode():
        loop.begin_validation()
        loop.end_validation()
    loop.steps(1)  # neither model nor average may be made of inference tensors
    torch.autograd.backward([p.sum() for p in loop.model.parameters()])
    assert ema.updates == 3


# -- state


def through_disk(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("cut", range(5))
def test_average_goes_on_where_the_checkpoint_was(cut: int) -> None:
    whole = EMA(decay=0.7)
    Loop(whole).start().steps(5)
    first = EMA(decay=0.7)
    before = Loop(first).start().steps(cut)
    state = through_disk(first.state_dict())
    second = EMA(decay=0.7)
    after = Loop(second, copy.deepcopy(before.model))
    after.bus.emit("state_restored", state=RestoredState({"EMA": state}), path="x")
    after.start("x").steps(5 - cut)
    assert whole.averaged is not None
    assert second.averaged is not None
    assert values_of(second.averaged) == values_of(whole.averaged)


def resumed(state: Any, decay: float = 0.99) -> tuple[EMA, Loop]:
    ema = EMA(decay=decay)
    loop = Loop(ema, narrow_model())
    loop.bus.emit("state_restored", state=RestoredState({"EMA": state}), path="x")
    fill(loop.model, 2.0)
    return ema, loop.start("x")


def averages_of(ema: EMA) -> list[Any]:
    assert ema.averaged is not None
    return [parameter.tolist() for parameter in ema.averaged.parameters()]


@pytest.mark.parametrize("cut", [1, 2, 50])
def test_average_of_narrow_weights_goes_on_bit_for_bit(cut: int) -> None:
    whole, model = EMA(decay=0.99), narrow_model()
    loop = Loop(whole, model).start().steps(1)
    fill(model, 2.0)
    state = through_disk(loop.steps(cut).bus.emit("state_requested").state["EMA"])
    again, resumed_loop = resumed(state)
    loop.steps(100)
    resumed_loop.steps(100)
    assert averages_of(again) == averages_of(whole)


def test_state_that_was_saved_narrow_goes_on_in_single_precision() -> None:
    names = {"module.0": torch.full((2,), 1.25, dtype=torch.bfloat16)}
    state = {"averaged": {"n_averaged": torch.tensor(9), **names}, "updates": 9}
    ema, loop = resumed(state)
    loop.steps(1)
    assert averages_of(ema) == [pytest.approx([1.2575] * 2)]
    assert ema.state_dict()["averaged"]["module.0"].dtype == torch.float32


def test_resumed_run_may_validate_with_the_average_at_once() -> None:
    source = EMA(decay=0.5)
    Loop(source).start().steps(3)
    loop = Loop(EMA(decay=0.5, validate=True))
    state = through_disk(source.state_dict())
    loop.bus.emit("state_restored", state=RestoredState({"EMA": state}), path="x")
    loop.start("x").begin_validation()
    assert source.averaged is not None
    assert values_of(loop.model) == values_of(source.averaged.module)


def test_average_is_there_where_a_resumed_run_has_nothing_left_to_train(tmp_path: Path) -> None:
    def train() -> EMA:
        bus, model, ema = EventBus(strict=True), Counting(), EMA(decay=0.7)
        bus.attach(ema)
        bus.attach(Checkpoint(tmp_path, resume="auto", best=None))
        with Run(bus, model=model) as run:
            for _ in run.epochs(2):
                for _ in run.batches([1, 2]):
                    model.move(1.0)
                    run.report(loss=1.0)
        return ema

    whole, again = train().averaged, train().averaged
    assert whole is not None
    assert again is not None
    assert values_of(again) == values_of(whole)


def test_fresh_run_begins_a_new_average() -> None:
    ema = EMA(decay=0.5)
    loop = Loop(ema).start().steps(3)
    loop.start()
    assert (ema.averaged, ema.updates) == (None, 0)
    loop.steps(1)
    assert ema.averaged is not None
    assert values_of(ema.averaged.module) == values_of(loop.model)


def test_run_that_was_resumed_from_a_real_checkpoint_has_the_same_average(tmp_path: Path) -> None:
    def train(folder: str, fail_in: int | None = None) -> dict[str, Any]:
        bus, model, ema = EventBus(strict=True), Counting(), EMA(decay=0.7, validate=True)
        bus.attach(ema)
        bus.attach(Checkpoint(tmp_path / folder, resume="auto", best=None))
        with Run(bus, model=model) as run:
            for epoch in run.epochs(4):
                for _ in run.batches([1, 2]):
                    model.move(1.0)
                    run.report(loss=1.0)
                for _ in run.validate([1]):
                    run.report(loss=model.weight.sum())
                    if epoch == fail_in:
                        raise KeyboardInterrupt
        assert ema.averaged is not None
        return {**values_of(ema.averaged), "metrics": dict(run.metrics), **values_of(model)}

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", fail_in=3)
    assert train("cut") == whole


# -- the device


def test_nobody_waits_for_the_device() -> None:
    model = torch.nn.ParameterDict({"a": torch.ones(2)})
    ema = EMA(decay=0.5, validate=True)
    loop = Loop(ema, model).start().steps(1)
    assert ema.averaged is not None
    for module in (model, ema.averaged.module):
        weights = dict(module.named_parameters())["a"]
        setattr(module, "a", torch.nn.Parameter(unread(weights), requires_grad=False))  # noqa: B010 - a Module takes only its own types by assignment
    model["a"].fill_(3.0)
    loop.steps(1)
    loop.begin_validation()
    assert read(model["a"]).tolist() == [2.0, 2.0]
    loop.end_validation()
    assert read(model["a"]).tolist() == [3.0, 3.0]
    assert isinstance(model["a"], Unread)


@pytest.mark.gpu
def test_cuda_is_not_waited_for() -> None:
    model, ema = torch.nn.BatchNorm1d(8).cuda(), EMA(validate=True)
    loop = Loop(ema, model).start().steps(2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.steps(3)
        loop.begin_validation()
        loop.end_validation()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ema.averaged is not None
    assert all(tensor.is_cuda for tensor in ema.averaged.module.parameters())


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_wrong_decay_is_refused_when_it_is_made(decay: float) -> None:
    with pytest.raises(ValueError, match="decay is from 0 to below 1"):
        EMA(decay)


def test_a_whole_number_in_a_buffer_is_the_last_one() -> None:
    bus, ema, model = EventBus(), EMA(0.5), torch.nn.BatchNorm1d(2)
    bus.attach(ema)
    with Run(bus, model=model) as run:
        for _ in run.batches(range(4)):
            model(torch.randn(3, 2))
            run.report(loss=1.0)
    assert ema.averaged is not None
    assert ema.averaged.module.state_dict()["num_batches_tracked"] == 4


def test_a_validation_of_no_model_is_left_alone() -> None:
    bus, ema = EventBus(), EMA(0.5, validate=True)
    bus.attach(ema)
    model = torch.nn.Linear(1, 1)
    bus.bind(sender="train", model=model).emit("batch_finished", epoch=1, step=1)
    before = [weight.clone() for weight in model.parameters()]
    place = {"name": "val", "round": 1, "epoch": 1, "step": 1}
    other = bus.bind(sender="evaluate")
    other.emit("validation_started", **place)
    other.emit("validation_done", **place, metrics={})
    assert all(map(torch.equal, model.parameters(), before))
