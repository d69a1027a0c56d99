"""What is special to Keras: failures that it tells nobody of, its optimizer, its checkpoints."""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eventbus import EventBus, SkipBatch, Stop, StopEpoch, handles
from eventbus.handlers import EMA, Checkpoint, EarlyStopping, GradientClipping, LRSchedule
from eventbus.testing import capture

pytest.importorskip("keras")
import keras

from eventbus.loops._keras_names import names_followed
from eventbus.loops.keras import Emitter

from .trained_by.task import observed

X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 20)


BackupAndRestore: Any = keras.callbacks.BackupAndRestore  # its annotations are narrower than it
ExponentialDecay: Any = keras.optimizers.schedules.ExponentialDecay


def made(optimizer: Any = None, **compiled: Any) -> Any:
    """Make a model with all that Keras keeps state of; always the same."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.1),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(0.01), **{"loss": loss, **compiled})
    return model


def fit(model: Any, *callbacks: Any, data: Any = None, **changes: Any) -> None:
    given = {"batch_size": 5, "shuffle": False, "verbose": 0} if data is None else {"verbose": 0}
    arguments = (X, Y) if data is None else (data,)
    model.fit(*arguments, **{**given, "callbacks": list(callbacks), **changes})


def weights(model: Any) -> list[Any]:
    return [one.numpy() for one in [*model.variables, *model.optimizer.variables]]


def small() -> Any:
    """Make a model whose layers could be taken for each other."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), keras.layers.Dense(4), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Calling(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Calls something when a hook of Keras's is called the nth time."""

    def __init__(self, hook: str, call: Any, nth: int = 1) -> None:
        super().__init__()
        self._call, self._left = call, nth
        setattr(self, hook, self._hear)

    def _hear(self, *args: Any, **named: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._call()


def raising(error: BaseException) -> Any:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was warned of, once it is read."""
    caplog.set_level(logging.WARNING, logger="eventbus")

    class Said(list[str]):
        def __iter__(self) -> Iterator[str]:
            return iter([record.message for record in caplog.records])

    return Said()


# -- a fit stays what it was


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
        lambda: keras.optimizers.SGD(0.1, loss_scale_factor=128.0),
        lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1, clipnorm=0.1, use_ema=True),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)),
        lambda: keras.optimizers.SGD(ExponentialDecay(0.1, 2, 0.5)),
    ],
)
def test_a_fit_on_a_bus_comes_to_the_same_bit_by_bit(bus: EventBus, optimizer: Any) -> None:
    bus.attach(GradientClipping(1e9))
    bare, on_bus = made(optimizer()), made(optimizer())
    fit(bare, epochs=2)
    keras.utils.set_random_seed(0)
    fit(on_bus, Emitter(bus), epochs=2)
    bare = made(optimizer())  # again, from the same place of the random generators
    keras.utils.set_random_seed(0)
    fit(bare, epochs=2)
    for ours, theirs in zip(weights(on_bus), weights(bare), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_of_ours_stays_on_a_model(bus: EventBus) -> None:
    model = made()
    before, optimizers = dict(vars(model)), dict(vars(model.optimizer))
    emitter = Emitter(bus)
    fit(model, emitter, validation_data=(X, Y))
    model.evaluate(X, Y, callbacks=[emitter], verbose=0)
    model.predict(X, callbacks=[emitter], verbose=0)
    own = {name for name in vars(model) if "eventbus" in repr(vars(model)[name]).lower()}
    assert own == set()
    assert {"compute_loss", "__deepcopy__", "_eventbus"} & set(vars(model)) == set()
    assert "apply" not in vars(model.optimizer)
    assert set(before) <= set(vars(model))
    assert set(optimizers) <= set(vars(model.optimizer))


def test_a_model_is_copied_within_a_fit_with_its_parameters_in_order(bus: EventBus) -> None:
    copies = []

    @bus.on("batch_finished")
    def take(model: Any) -> None:
        ours = list(model.parameters())
        theirs = list(copy.deepcopy(model).parameters())
        copies.append(all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)))

    fit(made(), Emitter(bus))
    assert copies == [True] * 4


# -- what is told


def test_evaluate_and_predict_outside_of_a_fit_say_nothing(bus: EventBus) -> None:
    model, emitter = made(), Emitter(bus)
    with capture(bus) as recording:
        model.evaluate(X, Y, callbacks=[emitter], verbose=0)
        model.predict(X, callbacks=[emitter], verbose=0)
    assert recording.names == []


def test_compiled_metrics_are_told_of_epochs_and_validations(bus: EventBus) -> None:
    with capture(bus) as recording:
        fit(made(metrics=["accuracy"]), Emitter(bus), validation_data=(X, Y))
    assert set(recording.of("batch_finished")[0]["metrics"]) == {"loss"}
    assert set(recording.of("validation_done")[0]["metrics"]) == {"val_loss", "val_accuracy"}
    assert set(recording.of("epoch_finished")[0]["metrics"]) == {
        *("loss", "accuracy"),
        *("val_loss", "val_accuracy"),
    }


def test_a_step_tells_its_own_loss_and_what_it_was_computed_from(bus: EventBus) -> None:
    with capture(bus) as recording:
        fit(made(), Emitter(bus), epochs=2)
    for one in recording.of("batch_finished"):
        outputs, targets = one["outputs"], one["targets"].long()
        expected = torch.nn.functional.cross_entropy(outputs, targets)
        torch.testing.assert_close(one["loss"], expected)
        assert one["batch_size"] == 5
        assert not one["loss"].requires_grad


def test_data_without_a_length_ends_the_epoch_where_it_ends(bus: EventBus) -> None:
    with capture(bus) as recording, pytest.warns(UserWarning, match="ran out of data"):
        fit(made(), Emitter(bus), data=batches(), shuffle=False)
    (finished,) = recording.of("epoch_finished")
    assert (finished["step"], finished["complete"]) == (4, True)


@pytest.mark.parametrize(("step", "ending"), [(2, "epoch_interrupted"), (4, "epoch_finished")])
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_a_stop_in_data_without_a_length_interrupts_only_what_was_cut(
    bus: EventBus, step: int, ending: str
) -> None:
    answer(bus, "batch_finished", Stop("enough"), step)
    with capture(bus) as recording:
        fit(made(), Emitter(bus), data=batches(), shuffle=False)
    assert recording.names[-3] == ending
    assert recording.of("run_finished")[0]["step"] == step


def batches() -> Iterator[tuple[Any, Any]]:
    for begin in range(0, 20, 5):
        yield X[begin : begin + 5], Y[begin : begin + 5]


def answer(bus: EventBus, signal: str, given: object, at: int | None = None) -> None:
    def answering(step: int) -> object:
        return given if at in (None, step) else None

    bus.on(signal, name="answering")(answering)


# -- answers


def test_a_batch_is_replaced_with_its_sample_weights(bus: EventBus) -> None:
    @bus.on("batch_loaded")
    def weigh(batch: Any) -> Any:
        inputs, targets, sample_weights = batch
        return inputs, targets, sample_weights * 0

    with capture(bus) as recording:
        fit(made(), Emitter(bus), sample_weight=np.ones(20))
    assert [float(one["loss"]) for one in recording.of("batch_finished")] == [0.0] * 4


def test_a_skipped_batch_is_not_computed_and_moves_nothing(bus: EventBus) -> None:
    model, emitter = made(), Emitter(bus)
    fit(model)
    before = weights(model)
    answer(bus, "batch_loaded", SkipBatch("all of them"))
    with capture(bus) as recording:
        fit(model, emitter)
    assert recording.names.count("batch_skipped") == 4
    for now, was in zip(weights(model), before, strict=True):  # moving averages, too
        np.testing.assert_array_equal(now, was)


def test_the_micro_batches_of_a_skipped_step_are_forgotten(bus: EventBus) -> None:
    def sgd() -> Any:
        return keras.optimizers.Adam(0.1, gradient_accumulation_steps=2)

    skipping, without = made(sgd()), made(sgd())
    for model in (skipping, without):
        model.layers[2].rate = 0.0
        model.layers[1].trainable = False
    answer(bus, "backward_finished", SkipBatch("odd"), 1)
    left = [1]

    @bus.on("batch_skipped")
    def once() -> None:
        left.clear()
        bus.detach(bus.subscriptions[0])

    with capture(bus) as recording:
        skipping.fit(X, Y, batch_size=5, shuffle=False, verbose=0, callbacks=[Emitter(bus)])
    without.fit(X[10:], Y[10:], batch_size=5, shuffle=False, verbose=0)
    assert recording.names.count("batch_skipped") == 1
    assert [one["step"] for one in recording.of("batch_finished")] == [1]
    for ours, theirs in zip(
        weights(skipping)[-12:], weights(without)[-12:], strict=True
    ):  # the optimizer's
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_stop_epoch_reads_the_rest_and_says_so_once(bus: EventBus, said: list[str]) -> None:
    read = []

    class Data(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
        def __len__(self) -> int:
            return 4

        def __getitem__(self, place: int) -> Any:
            read.append(place)
            return X[:5], Y[:5]

    answer(bus, "batch_finished", StopEpoch("enough"))
    with capture(bus) as recording:
        fit(made(), Emitter(bus), data=Data(), epochs=3, shuffle=False)
    assert [one["complete"] for one in recording.of("epoch_finished")] == [False] * 3
    assert recording.names.count("batch_finished") == 3
    assert len(read) >= 12
    assert list(said) == ["Keras cannot end an epoch: the rest of its data is read, and not used"]


def test_a_stop_with_an_exit_code_leaves_the_process_after_the_run_is_closed(
    bus: EventBus,
) -> None:
    answer(bus, "batch_finished", Stop("SIGTERM", exit_code=143))
    with capture(bus) as recording, pytest.raises(SystemExit) as left:
        fit(made(), Emitter(bus), epochs=2)
    assert left.value.code == 143
    assert recording.names[-2:] == ["run_finished", "run_closed"]
    assert recording.of("run_finished")[0]["step"] == 1


def test_another_callback_that_stops_the_training_cuts_the_epoch(bus: EventBus) -> None:
    model = made()
    stopping = Calling("on_train_batch_end", lambda: setattr(model, "stop_training", True), 2)
    with capture(bus) as recording:
        fit(model, Emitter(bus), stopping, epochs=2)
    assert [one["complete"] for one in recording.of("epoch_finished")] == [False]
    assert recording.of("run_closed")[0]["outcome"] == "completed"


# -- gradients, accumulation, loss scaling


def test_gradients_are_told_whole_and_unscaled(bus: EventBus) -> None:
    def gradients_with(optimizer: Any, batch_size: int) -> list[Any]:
        own, found = EventBus(), []

        @own.on("backward_finished")
        def take(model: Any) -> None:
            grads = [one.value.grad for one in model.trainable_variables]
            found.append([one.detach().clone() for one in grads])

        model = made(optimizer)
        model.layers[1].trainable = False  # its statistics depend on the size of a batch
        model.layers[2].rate = 0.0
        fit(model, Emitter(own), batch_size=batch_size)
        return found[0]

    sgd = functools.partial(keras.optimizers.SGD, 0.0)
    expected = gradients_with(sgd(), 20)
    for optimizer in (
        sgd(gradient_accumulation_steps=4),
        sgd(gradient_accumulation_steps=4, loss_scale_factor=64.0),
        keras.optimizers.LossScaleOptimizer(sgd(gradient_accumulation_steps=4)),
    ):
        for found, wanted in zip(gradients_with(optimizer, 5), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_what_a_handler_makes_of_gradients_is_what_keras_steps_with(bus: EventBus) -> None:
    @bus.on("backward_finished")
    def nothing(model: Any) -> None:
        for one in model.parameters():
            if one.grad is not None:
                one.grad.zero_()

    model = made(keras.optimizers.SGD(1.0, gradient_accumulation_steps=2, loss_scale_factor=8.0))
    before = [one.numpy() for one in model.trainable_variables]
    fit(model, Emitter(bus))
    for variable, was in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), was)


def test_micro_batches_left_over_are_carried_to_the_next_epoch_as_keras_does(
    bus: EventBus, said: list[str]
) -> None:
    with capture(bus) as recording:
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
        fit(made(optimizer), Emitter(bus), epochs=2)
    told = [(one["epoch"], one["step"]) for one in recording.of("batch_finished")]
    assert told == [(1, 1), (2, 2)]
    assert recording.names.count("batch_skipped") == 2
    assert list(said) == ["Keras carries micro-batches left over in an epoch to the next one"]


def test_a_step_that_keras_gives_up_for_its_loss_scale_is_a_skipped_one(bus: EventBus) -> None:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=3e38)
    with capture(bus) as recording:
        fit(made(optimizer), Emitter(bus), sample_weight=np.full(20, 1e3), epochs=4)
    reasons = {one["reason"] for one in recording.of("batch_skipped")}
    assert reasons == {"the loss was scaled by too much: its gradients are not finite"}
    steps = [one["step"] for one in recording.of("batch_finished")]
    assert steps == list(range(1, int(optimizer.iterations) + 1)) != []


def test_a_train_step_that_goes_its_own_way_is_told_as_far_as_it_can_be(
    bus: EventBus, said: list[str]
) -> None:
    class Own(keras.Sequential):  # type: ignore[misc]  # Keras ships no types
        def train_step(self, data: Any) -> Any:
            return {"loss": torch.tensor(0.5)}

    model = Own([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy())
    with capture(bus) as recording:
        fit(model, Emitter(bus))
    assert recording.names.count("batch_finished") == 4
    assert recording.of("epoch_finished")[0]["metrics"]["loss"] == 0.5
    assert list(said) == [
        "Keras: no loss is known, for this train_step does not call compute_loss()",
        "Keras: no backward_finished, for this train_step steps by other means",
    ]


# -- the learning rate


def test_a_rate_that_keras_sets_is_that_of_the_run(bus: EventBus) -> None:
    rates = []
    bus.on("batch_finished")(lambda optimizer: rates.append(optimizer.param_groups[0]["lr"]))
    halving = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fit(made(keras.optimizers.SGD(0.4)), Emitter(bus), halving, epochs=2)
    assert rates == pytest.approx([0.2] * 4 + [0.1] * 4)


def test_a_rate_that_a_handler_sets_is_that_of_keras(bus: EventBus) -> None:
    model, rates = made(keras.optimizers.SGD(0.4)), []
    halve = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    bus.attach(LRSchedule(halve, per="epoch"))
    reading = Calling("on_train_end", lambda: rates.append(float(model.optimizer.learning_rate)))
    fit(model, Emitter(bus), reading, epochs=2)
    assert rates == pytest.approx([0.2])  # that of the last step: the next one has not come


def test_a_schedule_of_keras_and_one_on_the_bus_do_not_go_together(bus: EventBus) -> None:
    halve = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    bus.attach(LRSchedule(halve, per="step"))
    decay = ExponentialDecay(0.1, 2, 0.5)
    with pytest.raises(TypeError, match="learning rate is not settable"):
        fit(made(keras.optimizers.SGD(decay)), Emitter(bus))


# -- failures


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize(
    "signal", ["epoch_started", "batch_loaded", "backward_finished", "validation_batch_finished"]
)
def test_a_failure_closes_everything_once_and_stays_what_it_was(
    bus: EventBus, signal: str, error: BaseException
) -> None:
    bus.on(signal)(raising(error))
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model = made(scaled)
    with capture(bus) as recording, pytest.raises(type(error)) as raised:
        fit(model, Emitter(bus), validation_data=(X, Y))
    assert raised.value is error
    assert recording.names[-3:] == ["epoch_interrupted", "run_failed", "run_closed"]
    assert recording.names.count("run_closed") == 1
    assert recording.of("run_failed")[0]["exception"] is error
    assert "apply" not in vars(scaled.inner_optimizer)
    assert "_eventbus" not in vars(model)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_begin", "on_test_begin"])
def test_a_failure_elsewhere_is_told_where_the_emitter_is_a_context(
    bus: EventBus, hook: str
) -> None:
    error = KeyboardInterrupt()
    with capture(bus) as recording, pytest.raises(KeyboardInterrupt), Emitter(bus) as emitter:
        fit(made(), emitter, Calling(hook, raising(error)), validation_data=(X, Y))
    assert recording.names[-2:] == ["run_failed", "run_closed"]
    assert recording.of("run_failed")[0]["exception"] is error


def test_a_run_that_was_left_open_is_closed_as_the_next_one_begins(bus: EventBus) -> None:
    with capture(bus) as recording:
        with pytest.raises(ValueError, match="bad"):
            fit(made(), Emitter(bus), Calling("on_train_batch_end", raising(ValueError("bad"))))
        fit(made(), Emitter(bus))
    assert [one["outcome"] for one in recording.of("run_closed")] == ["failed", "completed"]
    assert recording.names.count("run_opened") == 2


def test_a_run_that_was_left_open_is_closed_as_the_process_ends() -> None:
    code = """
import keras, numpy
from eventbus import EventBus
from eventbus.loops.keras import Emitter

bus = EventBus()
bus.on("run_failed")(lambda exception: print(repr(exception)))
bus.on("run_closed")(lambda outcome: print(outcome))
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile("sgd", loss="mse")

class Failing(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise ValueError("bad")

ones = numpy.ones((4, 1))
model.fit(ones, ones, verbose=0, callbacks=[Emitter(bus), Failing()])
"""
    assert said_by(code).splitlines() == ["ValueError('bad')", "failed"]


def refusal(monkeypatch: pytest.MonkeyPatch, stand_in: Any) -> str:
    """Return what the adapter says as it is imported with something else in Keras's place."""
    monkeypatch.setitem(sys.modules, "keras", stand_in)
    place = Path(__file__).parents[2] / "loops" / "keras.py"
    spec = importlib.util.spec_from_file_location("refused", place)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError) as refused:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return str(refused.value)


def test_another_backend_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    on_jax = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "jax"))
    assert refusal(monkeypatch, on_jax) == (
        "eventbus.loops.keras needs Keras on torch, and it runs on jax: "
        "set KERAS_BACKEND=torch before keras is imported"
    )


def test_without_keras_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(monkeypatch, None) == (
        "eventbus.loops.keras needs Keras: pip install 'training-eventbus[keras]'"
    )


def test_a_backend_that_is_not_installed_is_told_in_one_line() -> None:
    code = "try:\n    import eventbus.loops.keras\nexcept ImportError as error:\n    print(error)\n"
    assert said_by(code, KERAS_BACKEND="tensorflow") == (
        "eventbus.loops.keras needs Keras on torch, and Keras asked for tensorflow: "
        "set KERAS_BACKEND=torch before keras is imported\n"
    )


def said_by(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "KERAS_BACKEND": "torch", **environment},
    )
    return result.stdout


# -- fits after each other, and state


def test_a_second_fit_is_a_second_run(bus: EventBus) -> None:
    model, emitter = made(), Emitter(bus)
    with capture(bus) as recording:
        fit(model, emitter)
        fit(model, emitter)
    assert [one["resumed_from"] for one in recording.of("run_started")] == [None, None]
    assert [one["step"] for one in recording.of("run_finished")] == [4, 4]


def test_a_fit_with_an_initial_epoch_goes_on_from_there(bus: EventBus) -> None:
    model, emitter = made(), Emitter(bus)
    with capture(bus) as recording:
        fit(model, emitter)
        fit(model, emitter, initial_epoch=1, epochs=2)
    assert [one["resumed_from"] for one in recording.of("run_started")] == [
        None,
        "initial_epoch=1",
    ]
    finished = [(one["epoch"], one["step"]) for one in recording.of("epoch_finished")]
    assert finished == [(1, 4), (2, 8)]


class Losses:
    """Keeps the loss of each epoch, across a resume."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    @handles("run_started")
    def start(self, resumed_from: str | None) -> None:
        if resumed_from is None:
            self.losses = []

    @handles("epoch_finished")
    def keep(self, metrics: Any) -> None:
        self.losses.append(metrics["loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: Any) -> None:
        self.losses = list(state["losses"])


def on_bus(*handlers: Any) -> tuple[EventBus, Heard]:
    bus = EventBus(strict=True)
    for handler in handlers:
        bus.attach(handler)
    return bus, Heard(bus)


class Heard:
    """The fields of all that is emitted on a bus, by signal."""

    def __init__(self, bus: EventBus) -> None:
        self._events = observed(bus)

    def of(self, name: str) -> list[Any]:
        return [fields for each, fields in self._events if each == name]


@pytest.mark.parametrize("emitter_first", [True, False])
def test_backup_and_restore_brings_handlers_back_wherever_the_emitter_is(
    tmp_path: Path, emitter_first: bool
) -> None:
    def train(losses: Losses, epochs: int) -> Heard:
        bus, recording = on_bus(losses)
        backup = BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        pair = [Emitter(bus), backup] if emitter_first else [backup, Emitter(bus)]
        fit(made(), *pair, epochs=epochs)
        return recording

    first, second = Losses(), Losses()
    train(first, 1)
    recording = train(second, 2)
    assert len(second.losses) == 2
    assert second.losses[0] == first.losses[0]
    assert recording.of("run_started")[0]["resumed_from"] == "a checkpoint of Keras's"
    assert [one["epoch"] for one in recording.of("epoch_started")] == [2]
    assert recording.of("batch_finished")[0]["step"] == 5


def test_a_backup_made_within_an_epoch_begins_it_anew_and_says_so(
    tmp_path: Path, said: list[str]
) -> None:
    def train(*more: Any) -> Heard:
        bus, recording = on_bus(Losses())
        backup = BackupAndRestore(tmp_path / "backup", save_freq=3)
        with Emitter(bus) as emitter:
            fit(made(), backup, emitter, *more, epochs=2)
        return recording

    with pytest.raises(KeyboardInterrupt):
        train(Calling("on_train_batch_end", raising(KeyboardInterrupt()), nth=7))
    recording = train()
    assert [one["epoch"] for one in recording.of("epoch_started")] == [2]
    assert recording.of("batch_finished")[0]["step"] == 7  # after those whose weights were saved
    begins_anew = "the checkpoint was made within epoch 2, which begins anew: "
    assert list(said) == [begins_anew + "Keras resumes at the beginning of an epoch"]


@pytest.mark.parametrize("file", ["{epoch}.keras", "{epoch}.weights.h5"])
def test_a_file_of_model_checkpoint_brings_handlers_back_by_load(tmp_path: Path, file: str) -> None:
    saving = keras.callbacks.ModelCheckpoint(
        tmp_path / file, save_weights_only="weights" in file, save_freq="epoch"
    )
    first, second = Losses(), Losses()
    bus, _ = on_bus(first)
    fit(made(), saving, Emitter(bus), epochs=2)
    path = tmp_path / file.format(epoch=1)
    if path.suffix == ".keras":
        model = keras.models.load_model(path)
    else:
        model = made()
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
    bus, recording = on_bus(second)
    emitter = Emitter(bus)
    emitter.load(path)
    fit(model, emitter, epochs=3)
    assert second.losses[:1] == first.losses[:1]
    assert [one["epoch"] for one in recording.of("epoch_finished")] == [2, 3]
    assert recording.of("run_started")[0]["resumed_from"] == str(path)


def test_a_file_that_was_saved_without_an_emitter_is_refused(bus: EventBus, tmp_path: Path) -> None:
    made().save_weights(tmp_path / "bare.weights.h5")
    with pytest.raises(ValueError, match="no Emitter was there"):
        Emitter(bus).load(tmp_path / "bare.weights.h5")


def test_our_checkpoint_has_keras_begin_with_the_epoch_after(tmp_path: Path) -> None:
    def train(losses: Losses, epochs: int, *more: Any) -> Any:
        stopping = EarlyStopping("loss", patience=9)
        bus, _ = on_bus(losses, stopping, Checkpoint(tmp_path, resume="auto"))
        model = made()
        fit(model, Emitter(bus), *more, epochs=epochs)
        return model

    epochs: list[int] = []

    class Seeing(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            epochs.append(epoch)

    train(Losses(), 2)
    losses = Losses()
    model = train(losses, 3, Seeing())
    assert epochs == [2]
    assert len(losses.losses) == 3
    assert int(model.optimizer.iterations) == 12
    train(losses, 3, Seeing())  # all is done
    assert epochs == [2]


def averaged(folder: Path, epochs: int) -> list[Any]:
    ema = EMA(0.5)
    trained_by(ema, folder, epochs)
    assert ema.averaged is not None
    model: Any = ema.averaged.module
    return [one.numpy() for one in model.variables]


def best_put_back(folder: Path, epochs: int) -> list[Any]:
    stopping = EarlyStopping("loss", on="epoch_finished", mode="max", patience=9, restore_best=True)
    return [one.numpy() for one in trained_by(stopping, folder, epochs).variables]


def trained_by(handler: Any, folder: Path, epochs: int) -> Any:
    bus, model = EventBus(strict=True), small()
    bus.attach(handler)
    bus.attach(Checkpoint(folder, resume="auto", best=None))
    fit(model, Emitter(bus), epochs=epochs)
    return model


@pytest.mark.parametrize("kept", [averaged, best_put_back])
def test_what_handlers_keep_of_weights_is_for_a_model_that_is_made_again(
    tmp_path: Path, kept: Any
) -> None:
    whole = kept(tmp_path / "whole", 2)
    kept(tmp_path / "cut", 1)
    for ours, theirs in zip(kept(tmp_path / "cut", 2), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_go_to_their_layer_whatever_its_number() -> None:
    keras.utils.clear_session()  # it numbers from the first again
    first = small()
    state = first.state_dict()
    for _ in range(5):  # `dense_10` comes before `dense_9` in torch's state
        model = small()
        model.set_weights([np.zeros_like(one) for one in model.get_weights()])
        with names_followed(model):
            model.load_state_dict(state)
        for ours, theirs in zip(model.get_weights(), first.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        state = model.state_dict()


def test_weights_of_another_model_are_refused_within_a_fit(bus: EventBus) -> None:
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    refused = []

    @bus.on("epoch_finished")
    def load(model: Any) -> None:
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(other.state_dict())
        refused.append(True)

    fit(small(), Emitter(bus))
    assert refused == [True]


def test_two_that_would_resume_are_refused(tmp_path: Path) -> None:
    def train(epochs: int) -> None:
        bus, _ = on_bus(Checkpoint(tmp_path / "ours", resume="auto"))
        backup = BackupAndRestore(tmp_path / "theirs", delete_checkpoint=False)
        fit(made(), Emitter(bus), backup, epochs=epochs)

    train(1)
    with pytest.raises(RuntimeError, match="let one of them do it"):
        train(2)


def test_the_state_can_be_kept_beside(bus: EventBus) -> None:
    first, second = Losses(), Losses()
    bus, _ = on_bus(first)
    emitter, states = Emitter(bus), []
    fit(made(), emitter, Calling("on_epoch_end", lambda: states.append(emitter.state_dict())))
    bus, recording = on_bus(second)
    other = Emitter(bus)
    other.load_state_dict(states[0])
    fit(made(), other, epochs=2)
    assert second.losses[:1] == first.losses
    assert [one["epoch"] for one in recording.of("epoch_finished")] == [2]


def test_an_emitter_that_was_pickled_or_copied_says_nothing(bus: EventBus) -> None:
    emitter = Emitter(bus)
    fit(made(), emitter)
    with capture(bus) as recording:
        for other in (pickle.loads(pickle.dumps(emitter)), copy.deepcopy(emitter)):
            fit(made(), other)
    assert recording.names == []


def test_what_keras_has_no_place_for_is_said_to_whom_it_concerns(
    bus: EventBus, said: list[str]
) -> None:
    @bus.on("loader_opened")
    def shuffle(loader: Any) -> Any:
        return loader

    fit(made(), Emitter(bus))
    (told,) = said
    assert told.startswith("shuffle: no loader_opened from Keras: fit() makes its iterator")
