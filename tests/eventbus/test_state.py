"""State goes over the bus: who has some gives it when asked, and takes its part when it returns."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from eventbus import Emitter, EventBus, Restored, RestoredState, State, every, handles

from .recorders import MISTAKE, StepCollector, assert_says


class Best:
    """A stateful handler in the usual shape."""

    def __init__(self) -> None:
        self.best = 0.0

    @handles("validation_done")
    def note(self, metrics: dict[str, float]) -> None:
        self.best = max(self.best, metrics["val_accuracy"])

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class StateOnly:
    """Has state and no marks, as a loss scaler has."""

    def __init__(self) -> None:
        self.scale = 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"]


def restore(loop: Emitter, parts: dict[str, Any]) -> RestoredState:
    state = RestoredState(parts)
    loop.emit("state_restored", state=state, path="runs/step-9")
    return state


def test_an_attached_thing_with_state_takes_part_by_itself(bus: EventBus, loop: Emitter) -> None:
    best = Best()
    best.best = 0.75
    bus.attach(best)
    assert dict(loop.emit("state_requested").state) == {"Best": {"best": 0.75}}
    restore(loop, {"Best": {"best": 0.5}})
    assert best.best == 0.5


def test_state_is_read_when_it_is_asked_for_not_before(bus: EventBus, loop: Emitter) -> None:
    best = Best()
    bus.attach(best)
    best.best = 0.9
    assert loop.emit("state_requested").state["Best"] == {"best": 0.9}


def test_a_thing_may_have_state_and_no_marks(bus: EventBus, loop: Emitter) -> None:
    scaler = StateOnly()
    bus.attach(scaler, name="scaler")
    assert dict(loop.emit("state_requested").state) == {"scaler": {"scale": 1.0}}
    restore(loop, {"scaler": {"scale": 64.0}})
    assert scaler.scale == 64.0


def test_a_second_state_of_the_same_name_is_an_error_at_attach(bus: EventBus) -> None:
    bus.attach(Best())
    with pytest.raises(MISTAKE) as caught:
        bus.attach(Best())
    assert_says(caught.value, "Best", "name=")


def test_a_name_makes_room_for_the_second(bus: EventBus, loop: Emitter) -> None:
    one, other = Best(), Best()
    bus.attach(one)
    bus.attach(other, name="of-ema")
    one.best, other.best = 0.1, 0.2
    state = dict(loop.emit("state_requested").state)
    assert state == {"Best": {"best": 0.1}, "of-ema": {"best": 0.2}}
    restore(loop, {"Best": {"best": 0.8}, "of-ema": {"best": 0.9}})
    assert (one.best, other.best) == (0.8, 0.9)


def test_a_name_is_free_again_after_detach(bus: EventBus, loop: Emitter) -> None:
    bus.attach(Best()).detach()
    assert dict(loop.emit("state_requested").state) == {}
    bus.attach(Best())
    assert list(loop.emit("state_requested").state) == ["Best"]


def test_a_failed_attach_takes_no_name(bus: EventBus) -> None:
    class Wrong(Best):
        @handles("batch_finished")
        def wrong(self, lss: float) -> None: ...

    Wrong.__name__ = Wrong.__qualname__ = "Best"
    with pytest.raises(MISTAKE):
        bus.attach(Wrong())
    bus.attach(Best())


def test_a_loop_answers_like_anybody(bus: EventBus, loop: Emitter) -> None:
    bus.on("state_requested")(lambda: [State("model", {"w": 1}), State("loop", {"step": 9})])
    assert dict(loop.emit("state_requested").state) == {"model": {"w": 1}, "loop": {"step": 9}}


def test_a_part_that_is_not_there_leaves_its_owner_alone(bus: EventBus, loop: Emitter) -> None:
    best = Best()
    best.best = 0.3
    bus.attach(best)
    restore(loop, {"other": 1})
    assert best.best == 0.3


def test_untaken_state_is_kept_for_who_is_attached_later(bus: EventBus, loop: Emitter) -> None:
    restore(loop, {"Best": {"best": 0.5}})
    best = Best()
    bus.attach(best)
    assert best.best == 0.5


def test_kept_state_is_given_once(bus: EventBus, loop: Emitter) -> None:
    restore(loop, {"Best": {"best": 0.5}})
    first = Best()
    bus.attach(first)
    first.best = 0.9
    bus.detach(first)
    second = Best()
    bus.attach(second)
    assert second.best == 0.0


def test_what_nobody_took_is_reported_once_when_the_run_is_closed(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(Best())
    restore(loop, {"Best": {"best": 0.5}, "Patience": {"bad": 2}})
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="eventbus"):
        loop.emit("run_closed", outcome="completed")
        bus.bind(sender="train").emit("run_closed", outcome="completed")
    (record,) = caplog.records
    assert "Patience" in record.getMessage()
    assert "Best" not in record.getMessage()


def test_what_was_taken_is_not_reported(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("state_restored")(lambda state: state.take("model") and None)
    restore(loop, {"model": {"w": 1}})
    with caplog.at_level(logging.WARNING, logger="eventbus"):
        loop.emit("run_closed", outcome="completed")
    assert not caplog.records


def test_an_inner_run_that_closes_leaves_the_kept_state(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    outer = bus.bind(sender="train")
    outer.emit("run_opened")
    restore(outer, {"Best": {"best": 0.5}})
    inner = bus.bind(sender="finder", parent=outer)
    inner.emit("run_opened")
    inner.emit("run_closed", outcome="completed")
    assert not caplog.records
    best = Best()
    bus.attach(best)
    assert best.best == 0.5


def test_the_kept_state_of_one_run_does_not_reach_the_next(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    restore(loop, {"Best": {"best": 0.5}})
    with caplog.at_level(logging.CRITICAL, logger="eventbus"):
        loop.emit("run_closed", outcome="completed")
    best = Best()
    bus.attach(best)
    assert best.best == 0.0


LACKING = "attached things that the restored state has no part of, and that begin anew: "


def test_what_is_attached_and_was_not_when_the_state_was_saved_is_told(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(Best())
    bus.attach(StateOnly(), name="scaler")
    bus.attach(StateOnly(), name="other scaler")
    restore(loop, {"Best": {"best": 0.5}})
    loop.emit("run_closed", outcome="completed")
    assert caplog.messages == [LACKING + "scaler, other scaler"]


def test_state_of_something_else_is_not_said_to_lack_anything(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights alone, for one, have nothing of any handler."""
    bus.on("state_restored")(lambda state: state.take("model"))
    bus.attach(Best())
    restore(loop, {"model": {}})
    assert caplog.messages == []


def test_who_does_not_hear_that_a_state_was_restored_is_not_told_of_it(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(StateOnly())
    bus.attach(Best(), sender="inner")
    restore(bus.bind(sender="inner", parent=loop), {"Best": {"best": 0.5}})
    restore(loop, {"StateOnly": {"scale": 2.0}})
    bus.attach(StateOnly(), name="late")
    assert caplog.messages == []


def test_a_load_that_fails_names_its_owner(bus: EventBus, loop: Emitter) -> None:
    bus.attach(Best())
    with pytest.raises(KeyError) as caught:
        restore(loop, {"Best": {"other": 1}})
    assert "Best" in "".join(caught.value.__notes__)


def test_a_checkpoint_handler_needs_to_know_nobody(bus: EventBus) -> None:
    saved: dict[str, Any] = {}

    class Checkpoint:
        @handles("epoch_finished")
        def save(self, bus: EventBus) -> None:
            saved.update(bus.emit("state_requested").state)

        @handles("run_opened")
        def resume(self, bus: EventBus) -> Restored | None:
            if not saved:
                return None
            bus.emit("state_restored", state=RestoredState(saved), path="runs/epoch-1")
            return Restored("runs/epoch-1")

    best = Best()
    bus.attach(Checkpoint())
    bus.attach(best)
    first = bus.bind(sender="train")
    assert first.emit("run_opened").restored is None
    best.best = 0.6
    first.emit("epoch_finished", epoch=1, step=10)
    best.best = 0.0
    restored = bus.bind(sender="train").emit("run_opened").restored
    assert restored is not None
    assert (restored.path, best.best) == ("runs/epoch-1", 0.6)


def test_the_counts_of_filters_are_state(loop: Emitter, bus: EventBus) -> None:
    before, after = StepCollector(), StepCollector()
    bus.on("sample_drawn", when=every(3), name="sampler")(before)
    for step in (1, 2):
        loop.emit("sample_drawn", step=step)
    state = dict(loop.emit("state_requested").state)
    resumed = EventBus()
    resumed.on("sample_drawn", when=every(3), name="sampler")(after)
    again = resumed.bind(sender="train")
    restore(again, state)
    for step in (3, 4):
        again.emit("sample_drawn", step=step)
    assert after.steps == [3]


def test_counts_return_to_who_is_subscribed_later_too(loop: Emitter, bus: EventBus) -> None:
    bus.on("sample_drawn", when=every(3), name="sampler")(StepCollector())
    for step in (1, 2):
        loop.emit("sample_drawn", step=step)
    resumed, after = EventBus(), StepCollector()
    again = resumed.bind(sender="train")
    restore(again, dict(loop.emit("state_requested").state))
    resumed.on("sample_drawn", when=every(3), name="sampler")(after)
    again.emit("sample_drawn", step=3)
    assert after.steps == [3]


def test_without_counting_filters_the_bus_adds_no_state(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", when=every(3))(lambda: None)
    bus.on("sample_drawn")(lambda: None)
    assert dict(loop.emit("state_requested").state) == {}


# -- RestoredState


def test_restored_state_is_a_read_only_mapping() -> None:
    state = RestoredState({"a": 1, "b": 2})
    assert (dict(state), len(state), "a" in state) == ({"a": 1, "b": 2}, 2, True)
    with pytest.raises(TypeError):
        state["c"] = 3  # type: ignore[index]  # the mistake under test


def test_take_marks_a_part_taken() -> None:
    state = RestoredState({"a": 1, "b": None})
    assert (state.take("a"), state.take("b"), state.take("c"), state.take("c", 7)) == (
        1,
        None,
        None,
        7,
    )


@pytest.mark.parametrize("state", [{"Best": 1}, {"other": 1}])
def test_state_restored_refuses_a_bare_dict(
    bus: EventBus, loop: Emitter, state: dict[str, int]
) -> None:
    for attached in (False, True):
        if attached:
            bus.attach(Best())
        with pytest.raises(MISTAKE) as caught:
            loop.emit("state_restored", state=state, path="runs/step-9")
        assert_says(caught.value, "RestoredState")


def test_an_inner_runs_state_is_asked_of_its_own_subscribers(bus: EventBus) -> None:
    outer_best, inner_best = Best(), Best()
    bus.attach(outer_best)
    bus.attach(inner_best, name="inner-best", sender="inner")
    outer = bus.bind(sender="train")
    inner = bus.bind(sender="inner", parent=outer)
    assert list(inner.emit("state_requested").state) == ["inner-best"]
