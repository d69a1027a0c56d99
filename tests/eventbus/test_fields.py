"""Fields by name: a handler receives just what it names, and mistakes surface early."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest

from eventbus import Emitter, EventBus, FieldError
from eventbus import signal as declared

from .recorders import MISTAKE, assert_says


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_a_handler_receives_just_what_it_names(bus: EventBus, loop: Emitter) -> None:
    seen: list[tuple[int, float]] = []

    @bus.on("batch_finished")
    def note(loss: float, step: int) -> None:
        seen.append((step, loss))

    loop.emit("batch_finished", epoch=1, step=3, loss=0.5)
    assert seen == [(3, 0.5)]


def test_a_handler_that_names_nothing_receives_nothing(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []
    bus.on("batch_finished")(lambda: seen.append("called"))
    loop.emit("batch_finished", epoch=1, step=3, loss=0.5)
    assert seen == ["called"]


def test_a_parameter_with_a_default_is_optional(bus: EventBus, loop: Emitter) -> None:
    seen: list[object] = []

    @bus.on("batch_finished")
    def note(loss: object = "none") -> None:
        seen.append(loss)

    loop.emit("batch_finished", epoch=1, step=1)
    loop.emit("batch_finished", epoch=1, step=2, loss=0.25)
    assert seen == ["none", 0.25]


def test_a_default_may_stand_for_a_name_that_no_signal_has(bus: EventBus, loop: Emitter) -> None:
    seen: list[int] = []
    numbers = [10, 20]
    for number in numbers:
        bus.on("run_started")(lambda number=number: seen.append(number))
    loop.emit("run_started")
    assert seen == numbers


def test_keyword_only_parameters_are_fields_too(bus: EventBus, loop: Emitter) -> None:
    seen: list[int] = []

    @bus.on("epoch_finished")
    def note(*, epoch: int, step: int = -1) -> None:
        seen.extend((epoch, step))

    loop.emit("epoch_finished", epoch=2, step=8)
    assert seen == [2, 8]


def test_star_star_takes_every_field_that_was_sent(bus: EventBus, loop: Emitter) -> None:
    seen: list[dict[str, object]] = []

    @bus.on("batch_finished")
    def note(step: int, **fields: object) -> None:
        seen.append({"step": step, **fields})

    loop.emit("batch_finished", epoch=1, step=3, loss=0.5)
    assert seen == [{"step": 3, "epoch": 1, "loss": 0.5}]


def test_star_star_of_one_handler_is_its_own_dict(bus: EventBus, loop: Emitter) -> None:
    seen: list[dict[str, object]] = []

    @bus.on("batch_finished", priority=1)
    def spoil(**fields: object) -> None:
        fields.clear()
        fields["loss"] = "spoilt"

    bus.on("batch_finished")(lambda **fields: seen.append(fields))
    loop.emit("batch_finished", epoch=1, step=3, loss=0.5)
    assert seen == [{"epoch": 1, "step": 3, "loss": 0.5}]


def test_a_positional_only_parameter_is_served_or_refused_at_once(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[int] = []

    def note(step: int, /) -> None:
        seen.append(step)

    try:
        bus.on("batch_finished")(note)
    except MISTAKE as error:
        assert_says(error, "note", "step")
    else:
        loop.emit("batch_finished", epoch=1, step=3)
        assert seen == [3]


def test_event_is_all_of_it(bus: EventBus) -> None:
    seen: list[Any] = []
    bus.on("batch_finished")(lambda event: seen.append(event))
    bus.bind(sender="train", model="the model").emit("batch_finished", epoch=1, step=3, loss=0.5)
    (event,) = seen
    assert (event.name, event.sender) == ("batch_finished", "train")
    assert dict(event.fields) == {"epoch": 1, "step": 3, "loss": 0.5}
    assert event.context["model"] == "the model"
    assert event.bus is bus


def test_event_is_read_only(bus: EventBus, loop: Emitter) -> None:
    refused: list[type[Exception]] = []

    def try_to_change(event: Any) -> None:
        try:
            event.fields["loss"] = 0.0
        except TypeError as error:
            refused.append(type(error))
        try:
            event.name = "other"
        except (AttributeError, TypeError) as error:
            refused.append(type(error))
        try:
            event.context["model"] = None
        except TypeError as error:
            refused.append(type(error))

    bus.on("batch_finished")(try_to_change)
    loop.emit("batch_finished", epoch=1, step=3, loss=0.5)
    assert len(refused) == 3


def test_sender_and_bus_are_reserved_names(bus: EventBus, loop: Emitter) -> None:
    seen: list[object] = []
    bus.on("run_started")(lambda sender, bus: seen.extend((sender, bus)))
    loop.emit("run_started")
    assert seen == ["train", bus]


def test_metrics_cannot_be_changed_for_later_handlers(bus: EventBus, loop: Emitter) -> None:
    seen: list[dict[str, float]] = []

    @bus.on("epoch_finished", priority=1)
    def spoil(metrics: dict[str, float]) -> None:
        with pytest.raises((TypeError, AttributeError)):
            metrics["loss"] = -1.0

    bus.on("epoch_finished")(lambda metrics: seen.append(dict(metrics)))
    loop.emit("epoch_finished", epoch=1, step=1, metrics=MappingProxyType({"loss": 0.5}))
    assert seen == [{"loss": 0.5}]


def test_an_unknown_field_is_refused_when_it_subscribes(bus: EventBus) -> None:
    def log_loss(lss: float) -> None: ...

    with pytest.raises(MISTAKE) as caught:
        bus.on("batch_finished")(log_loss)
    assert_says(caught.value, "log_loss", "batch_finished", "lss", "did you mean", "loss", "step")


def test_an_unknown_field_without_a_near_name_lists_the_fields(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on("epoch_started")(lambda zzz: None)
    assert_says(caught.value, "zzz", "epoch_started", "epoch", "step")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("signal", "field", "hint"),
    [
        ("batch_finished", "iteration", "did you mean 'step'?"),
        ("batch_finished", "global_step", "did you mean 'step'?"),
        ("batch_finished", "lloss", "did you mean 'loss'?"),
        ("batch_finished", "val_loss", "a metric is read as metrics['val_loss']"),
        ("validation_done", "val_acc", "a metric is read as metrics['val_acc']"),
        ("epoch_finished", "loss", "a metric is read as metrics['loss']"),
    ],
)
def test_a_field_that_is_called_otherwise_here_is_answered_with_what_to_write(
    bus: EventBus, signal: str, field: str, hint: str
) -> None:
    handler = eval(f"lambda {field}: None")
    with pytest.raises(FieldError) as caught:
        bus.on(signal)(handler)
    assert f"does not carry; {hint} (its fields: " in str(caught.value)


def test_no_metric_is_offered_where_the_signal_has_none(bus: EventBus) -> None:
    with pytest.raises(FieldError) as caught:
        bus.on("run_started")(lambda val_loss: None)
    assert "metrics[" not in str(caught.value)


def test_each_of_several_signals_is_checked(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on("batch_finished", "epoch_started")(lambda loss: None)
    assert_says(caught.value, "loss", "epoch_started")


def test_a_filter_that_names_a_wrong_field_is_refused_when_it_subscribes(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on("batch_finished", when=lambda lss: lss > 1)(lambda: None)
    assert_says(caught.value, "lss", "batch_finished", "loss")


@pytest.mark.parametrize("listening", [False, True])
def test_sending_an_unknown_field_is_always_an_error(
    bus: EventBus, loop: Emitter, listening: bool
) -> None:
    if listening:
        bus.on("batch_finished")(lambda: None)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_finished", epoch=1, step=1, lss=0.5)
    assert_says(caught.value, "batch_finished", "lss", "did you mean", "loss")


def test_a_declared_field_not_sent_fails_at_the_first_emission(bus: EventBus) -> None:
    @bus.on("batch_finished")
    def log_loss(loss: float) -> None: ...

    with pytest.raises(MISTAKE) as caught:
        bus.bind(sender="generator").emit("batch_finished", epoch=1, step=1)
    assert_says(caught.value, "log_loss", "batch_finished", "loss", "generator")


def test_a_required_field_not_sent_harms_nobody_who_does_not_name_it(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[int] = []
    bus.on("epoch_finished")(lambda epoch: seen.append(epoch))
    loop.emit("epoch_finished", epoch=4)
    assert seen == [4]


def test_a_filter_that_names_a_field_not_sent_fails_naming_it(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", when=lambda loss: loss > 1)(lambda: None)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_finished", epoch=1, step=1)
    assert_says(caught.value, "loss", "batch_finished")


def test_an_undeclared_signal_without_a_named_field_fails_at_emission(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("kittens_born")(lambda number: None)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("kittens_born", numbr=5)
    assert_says(caught.value, "number", "kittens_born", "train")


@pytest.mark.parametrize("name", ["self", "signal", "handler", "name", "value", "emitter"])
def test_a_field_may_have_any_unreserved_name(bus: EventBus, loop: Emitter, name: str) -> None:
    seen: list[object] = []
    bus.on("kittens_born")(lambda **fields: seen.append(fields[name]))
    loop.emit("kittens_born", **{name: 5})
    assert seen == [5]


@pytest.mark.parametrize("name", ["_async_wrapper", "_sync_wrapper"])
def test_the_keywords_of_blinkers_send_are_not_swallowed(
    bus: EventBus, loop: Emitter, name: str
) -> None:
    seen: list[object] = []
    bus.on("kittens_born")(lambda **fields: seen.append(fields.get(name)))
    try:
        loop.emit("kittens_born", **{name: 5})
    except MISTAKE as error:
        assert_says(error, name)
    else:
        assert seen == [5]


@pytest.mark.parametrize("name", ["sender", "event", "bus"])
def test_a_field_with_a_reserved_name_is_an_error(bus: EventBus, loop: Emitter, name: str) -> None:
    with pytest.raises(MISTAKE) as caught:
        loop.emit("kittens_born", **{name: 5})
    assert_says(caught.value, name)


def test_a_handler_with_plain_star_args_gets_no_positional_surprise(
    bus: EventBus, loop: Emitter
) -> None:
    seen: list[object] = []

    def note(*args: object, step: int) -> None:
        seen.extend((args, step))

    bus.on("batch_finished")(note)
    loop.emit("batch_finished", epoch=1, step=2)
    assert seen == [(), 2]


def test_an_async_generator_is_refused_when_it_subscribes(bus: EventBus) -> None:
    async def waiting(step: int) -> Any:
        yield step

    with pytest.raises(MISTAKE) as caught:
        bus.on("batch_finished")(waiting)
    assert_says(caught.value, "waiting", "async")


def test_a_generator_whose_body_would_never_run_is_refused(bus: EventBus) -> None:
    def yielding(step: int) -> Any:
        yield step

    for subscribe in (
        bus.on("batch_finished"),
        bus.on("kittens_born"),
        lambda generator: bus.on("batch_finished", when=generator)(print_nothing),
    ):
        with pytest.raises(MISTAKE) as caught:
            subscribe(yielding)
        assert_says(caught.value, "yields", "never run")
    assert bus.subscriptions == ()


def print_nothing() -> None: ...


def test_a_generator_may_make_the_value_of_a_transform(bus: EventBus, loop: Emitter) -> None:
    @bus.on("loader_opened")
    def every_other(loader: Any) -> Any:
        for index, batch in enumerate(loader):
            if index % 2 == 0:
                yield batch

    assert list(loop.transform("loader_opened", [1, 2, 3], epoch=1)) == [1, 3]


def test_no_handler_can_change_the_metrics_that_others_see(bus: EventBus, loop: Emitter) -> None:
    seen: list[float] = []

    @bus.on("batch_finished")
    def change(metrics: dict[str, float]) -> None:
        with pytest.raises(TypeError):
            metrics["loss"] = 0.0

    bus.on("batch_finished")(lambda metrics: seen.append(metrics["loss"]))
    for step in range(20):
        loop.emit("batch_finished", epoch=1, step=step, metrics={"loss": 0.5})
    assert seen == [0.5] * 20


@pytest.mark.parametrize("warm", [0, 20])
@pytest.mark.parametrize("kind", [dict, OrderedDict, partial(defaultdict, float)])
def test_any_dict_of_metrics_is_only_read(
    bus: EventBus, loop: Emitter, kind: Callable[..., dict[str, float]], warm: int
) -> None:
    seen: list[Any] = []

    @bus.on("epoch_finished", priority=1)
    def spoil(metrics: dict[str, float]) -> None:
        with pytest.raises(TypeError, match=r"take a copy, dict\("):
            metrics["loss"] = -1.0
        with pytest.raises(TypeError):
            metrics.update(loss=-1.0)
        with pytest.raises(KeyError):
            metrics["val_loss"]

    bus.on("epoch_finished")(lambda metrics: seen.append(metrics))
    metrics = kind({"loss": 0.5})
    for _ in range(warm + 1):
        loop.emit("epoch_finished", epoch=1, step=1, metrics=metrics)
    assert seen[-1] == {"loss": 0.5}
    assert dict(metrics) == {"loss": 0.5}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled], ids=lambda f: f.__name__)
def test_an_event_of_a_loop_by_hand_goes_to_another_process(
    bus: EventBus, loop: Emitter, duplicate: Callable[[Any], Any]
) -> None:
    seen: list[Any] = []
    bus.on("epoch_finished")(lambda event, metrics: seen.extend((event, metrics)))
    loop.emit("epoch_finished", epoch=1, step=1, metrics={"loss": 0.5})
    event, metrics = map(duplicate, seen)
    assert event.fields["metrics"] == metrics == {"loss": 0.5}
    metrics["loss"] = 0.0  # a copy is one's own
    assert seen[1] == {"loss": 0.5}


@pytest.mark.parametrize("warm", [0, 20])
def test_metrics_that_are_to_be_transformed_stay_the_loops_own(
    bus: EventBus, loop: Emitter, warm: int
) -> None:
    @declared(value="metrics")
    def metrics_ready(*, metrics: dict[str, float], epoch: int) -> None:
        """Metrics may be added to. Once per epoch."""

    bus.declare(metrics_ready)
    bus.on(metrics_ready)(lambda metrics: None)
    metrics = {"loss": 0.5}
    for _ in range(warm + 1):
        assert loop.transform(metrics_ready, metrics, epoch=1) is metrics


def test_several_models_are_not_changed_for_the_loop(bus: EventBus) -> None:
    models = {"generator": "G", "critic": "C"}
    loop = bus.bind(sender="train", models=models)

    @bus.on("epoch_finished")
    def add(models: dict[str, str]) -> None:
        models["third"] = "T"

    with pytest.raises(TypeError, match="only to be read"):
        loop.emit("epoch_finished", epoch=1, step=1)
    assert list(models) == ["generator", "critic"]


def test_a_label_given_to_an_emitter_is_told_where_it_goes(loop: Emitter) -> None:
    with pytest.raises(FieldError, match=r"'sender' is given by .*bus.bind\(sender=...\)"):
        loop.emit("epoch_started", epoch=1, step=0, sender="other")
