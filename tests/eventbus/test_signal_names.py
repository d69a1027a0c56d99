"""Names of signals: a slip is an error with a suggestion, another name is ones own."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import Emitter, EventBus

from .recorders import MISTAKE, assert_says


def test_an_unknown_signal_near_a_standard_one_is_an_error(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on("epoch_finishd")(lambda: None)
    assert_says(caught.value, "epoch_finishd", "did you mean", "epoch_finished")


def test_emitting_a_near_miss_of_a_standard_signal_is_an_error(loop: Emitter) -> None:
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_finishd", epoch=1, step=1)
    assert_says(caught.value, "batch_finishd", "did you mean", "batch_finished")


def test_finding_a_near_miss_of_a_standard_signal_is_an_error(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.signal("epoch_finishd")
    assert_says(caught.value, "epoch_finishd", "did you mean", "epoch_finished")


@pytest.mark.parametrize("wrong", [None, 3, "", b"run_started", ["run_started"]])
def test_what_cannot_name_a_signal_is_an_error(bus: EventBus, wrong: Any) -> None:
    with pytest.raises(MISTAKE):
        bus.emit(wrong)
    with pytest.raises(MISTAKE):
        bus.on(wrong)(lambda: None)


def test_an_undeclared_signal_works_unchecked(bus: EventBus, loop: Emitter) -> None:
    seen: list[int] = []
    bus.on("kittens_born")(lambda number: seen.append(number))
    loop.emit("kittens_born", number=5, unrelated="yes")
    assert seen == [5]


def test_a_pattern_names_no_signal_to_emit(bus: EventBus, loop: Emitter) -> None:
    for use in (loop.emit, bus.emit, bus.signal):
        with pytest.raises(MISTAKE) as caught:
            use("batch_*")
        assert_says(caught.value, "batch_*", "is a pattern")


@pytest.mark.parametrize(
    ("other", "ours"),
    [
        ("on_epoch_end", "epoch_finished"),
        ("batch_begin", "batch_started"),
        ("validation_finished", "validation_done"),
        ("val_done", "validation_done"),
        ("on_validation_batch_end", "validation_batch_finished"),
    ],
)
def test_what_other_frameworks_call_it_is_an_error_with_our_name(
    bus: EventBus, other: str, ours: str
) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on(other)(lambda: None)
    assert_says(caught.value, other, "did you mean", repr(ours))


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("validaton_*", "validation_*"),
        ("val_*", "validation_*"),
        ("epochs_*", "epoch_*"),
        ("batch_finishd*", "batch_finished*"),
        ("*_finishd", "*_finished"),
        ("handler_*", "'handler_failed', which can be subscribed to by name"),
    ],
)
def test_a_pattern_that_covers_nothing_and_looks_like_a_slip_is_warned_of(
    bus: EventBus, caplog: pytest.LogCaptureFixture, pattern: str, meant: str
) -> None:
    bus.on(pattern, name="log")(lambda: None)
    for words in ("'log'", repr(pattern), "covers no signal so far", meant):
        assert words in caplog.text


@pytest.mark.parametrize("pattern", ["kittens_*", "test_*", "*_born", "train*", "[ab]_*", "x?"])
def test_a_pattern_of_ones_own_may_be_subscribed_before_its_signals(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture, pattern: str
) -> None:
    bus.on(pattern)(lambda: None)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("validaton_*", "did you mean 'validation_*'?"),
        ("state_*", "can be subscribed to by name"),
    ],
)
def test_such_a_pattern_is_an_error_on_a_strict_bus(pattern: str, why: str) -> None:
    bus = EventBus(strict=True)
    with pytest.raises(MISTAKE) as caught:
        bus.on("epoch_started", pattern)(lambda: None)
    assert_says(caught.value, pattern, "covers no signal", why)
    assert bus.subscriptions == ()


def test_a_strict_bus_takes_a_pattern_whose_signals_are_declared_later() -> None:
    bus, seen = EventBus(strict=True), []
    bus.on("kittens_*")(lambda event: seen.append(event.name))

    @bus.declare
    def kittens_born(*, count: int) -> None:
        """There are more."""

    bus.emit(kittens_born, count=5)
    assert seen == ["kittens_born"]


@pytest.mark.parametrize(
    ("elsewhere", "ours"),
    [
        ("on_train_epoch_end", "epoch_finished"),  # Lightning
        ("on_train_batch_end", "batch_finished"),
        ("on_validation_epoch_end", "validation_done"),
        ("on_fit_start", "run_started"),
        ("on_exception", "run_failed"),
        ("on_before_optimizer_step", "backward_finished"),
        ("on_test_end", "validation_done"),
        ("on_save_checkpoint", "state_requested"),
        ("on_load_checkpoint", "state_restored"),
        ("on_step_end", "batch_finished"),  # Hugging Face
        ("on_pre_optimizer_step", "backward_finished"),
        ("on_save", "checkpoint_saved"),
        ("on_evaluate", "validation_done"),
        ("iteration_completed", "batch_finished"),  # Ignite
        ("STARTED", "run_started"),
        ("COMPLETED", "run_finished"),
        ("EXCEPTION_RAISED", "run_failed"),
        ("GET_BATCH_COMPLETED", "batch_loaded"),
        ("after_epoch", "epoch_finished"),  # fastai
        ("before_fit", "run_started"),
        ("before_step", "backward_finished"),
        ("after_backward", "backward_finished"),
        ("on_train_begin", "run_started"),  # Keras
        ("training_started", "run_started"),
        ("step_finished", "batch_finished"),
        ("epoch", "epoch_finished"),
        ("step", "batch_finished"),
    ],
)
def test_what_it_is_called_elsewhere_is_answered_with_our_name(
    bus: EventBus, elsewhere: str, ours: str
) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.on(elsewhere)(lambda: None)
    assert_says(caught.value, repr(elsewhere), f"did you mean {ours!r}?")


@pytest.mark.parametrize("own", ["train", "test_finished", "sample_drawn", "after_sampling", "fit"])
def test_a_name_that_means_nothing_elsewhere_is_ones_own(
    bus: EventBus, loop: Emitter, own: str
) -> None:
    calls: list[str] = []
    bus.on(own)(lambda: calls.append(own))
    loop.emit(own)
    assert calls == [own]


def kittens_born(*, number: int) -> None:
    """There are more."""


def test_a_slip_of_a_signal_that_was_declared_is_an_error(bus: EventBus, loop: Emitter) -> None:
    bus.declare(kittens_born)
    for use in (bus.signal, loop.emit, lambda name: bus.on(name)(lambda: None)):
        with pytest.raises(MISTAKE) as caught:
            use("kittens_bron")
        assert_says(caught.value, "'kittens_bron'", "did you mean 'kittens_born'?", "@bus.declare")


def test_a_strict_bus_names_the_signal_that_was_declared() -> None:
    bus = EventBus(strict=True)
    bus.declare(kittens_born)
    with pytest.raises(MISTAKE) as caught:
        bus.emit("kitten_born", number=1)
    assert_says(caught.value, "'kitten_born'", "did you mean 'kittens_born'?")


def test_a_name_that_was_used_before_another_like_it_was_declared_works_on(
    bus: EventBus, loop: Emitter
) -> None:
    calls: list[str] = []
    bus.on("kitten_born")(lambda: calls.append("one"))
    bus.declare(kittens_born)
    bus.on("kitten_born")(lambda: calls.append("two"))
    loop.emit("kitten_born")
    assert calls == ["one", "two"]


def test_an_undeclared_signal_is_not_held_against_others_that_are_undeclared(
    bus: EventBus, loop: Emitter
) -> None:
    calls: list[str] = []
    for name in ("kittens_born", "kitten_born"):
        bus.on(name)(lambda name=name: calls.append(name))
        loop.emit(name)
    assert calls == ["kittens_born", "kitten_born"]


@pytest.mark.parametrize(
    "like",
    ["litter_2_born", "outer_loop_done", "loss_b", "queue_fill", "rollout_stored", "d_step_done"],
)
def test_a_name_that_is_like_ones_own_on_purpose_is_no_slip(
    bus: EventBus, loop: Emitter, like: str
) -> None:
    calls: list[str] = []
    for name in (
        "litter_1_born",
        "inner_loop_done",
        "loss_a",
        "queue_full",
        "rollout_started",
        "g_step_done",
    ):
        stub: dict[str, Any] = {}
        exec(f"def {name}(*, number: int) -> None: ...", stub)
        bus.declare(stub[name])
    bus.on(like)(lambda: calls.append(like))
    loop.emit(like)
    assert calls == [like]
