"""Declaring: a stub's signature is the fields, its docstring says when the signal fires."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Annotated, Any

import pytest

import eventbus.signals as vocabulary
from eventbus import Declaration, Emitter, EventBus, Field, at_most_every, every, signal
from eventbus.signals import batch_finished
from eventbus.testing import FakeClock

from .recorders import MISTAKE, StepCollector, assert_says


@signal(clock="step")
def sample_drawn(*, step: int, text: str = "") -> None:
    """A sample was drawn from the model. Whenever the loop likes."""


@signal(value="prompt")
def prompt_made(*, prompt: str, step: int | None = None) -> None:
    """A prompt is about to be used."""


STANDARD = {
    name: value for name, value in vars(vocabulary).items() if isinstance(value, Declaration)
}

CLOCKS = {
    "epoch_started": "epoch",
    "epoch_finished": "epoch",
    "epoch_interrupted": "epoch",
    "loader_opened": "epoch",
    "batch_started": "step",
    "backward_finished": "step",
    "batch_finished": "step",
    "batch_skipped": "step",
    "learning_rate_changed": "step",
    "validation_started": "round",
    "validation_batch_finished": "round",
    "validation_done": "round",
    "validation_interrupted": "round",
}
WITHOUT_CLOCK = {
    "run_opened",
    "run_started",
    "batch_loaded",
    "metrics_measured",
    "figure_drawn",
    "text_written",
    "checkpoint_saved",
    "stop_requested",
    "handler_failed",
    "state_requested",
    "state_restored",
    "run_finished",
    "run_failed",
    "run_closed",
}


def test_the_vocabulary_is_the_contracts() -> None:
    assert set(STANDARD) == CLOCKS.keys() | WITHOUT_CLOCK


@pytest.mark.parametrize("name", sorted(STANDARD))
def test_each_standard_signal_has_its_name_its_clock_and_its_text(name: str) -> None:
    declaration = STANDARD[name]
    assert declaration.name == name
    assert declaration.clock == CLOCKS.get(name)
    assert declaration.doc.strip().endswith(".")


def test_just_the_loader_and_the_batch_are_transforms() -> None:
    values = {name: one.value for name, one in STANDARD.items() if one.value is not None}
    assert values == {"loader_opened": "loader", "batch_loaded": "batch"}


def test_a_bus_emits_by_declaration(bus: EventBus, loop: Emitter) -> None:
    steps = StepCollector()
    bus.on(vocabulary.batch_finished, when=every(2))(steps)
    for step in (1, 2):
        loop.emit(vocabulary.batch_finished, epoch=1, step=step)
    assert steps.steps == [2]


def test_a_signal_of_ones_own_is_declared_by_using_it(bus: EventBus, loop: Emitter) -> None:
    steps = StepCollector()
    bus.on(sample_drawn, when=every(2))(steps)
    for step in (1, 2):
        loop.emit(sample_drawn, step=step)
        loop.emit("sample_drawn", step=step)
    assert steps.steps == [2, 2]


def test_declare_on_a_bus_makes_the_name_known_and_checked(bus: EventBus, loop: Emitter) -> None:
    @bus.declare
    def kittens_born(*, number: int) -> None:
        """Kittens were born."""

    assert isinstance(kittens_born, Declaration)
    loop.emit("kittens_born", number=3)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("kittens_born", numbr=3)
    assert_says(caught.value, "kittens_born", "numbr", "number")


def test_declare_takes_a_clock(bus: EventBus, loop: Emitter) -> None:
    steps = StepCollector()

    @bus.declare(clock="step")
    def kittens_born(*, step: int) -> None:
        """Kittens were born."""

    bus.on("kittens_born", when=every(10))(steps)
    for step in (5, 10, 20):
        loop.emit("kittens_born", step=step)
    assert steps.steps == [10, 20]


def test_a_later_declaration_is_held_against_who_is_subscribed(bus: EventBus) -> None:
    def wants_numbr(numbr: int) -> None: ...

    bus.on("kittens_born")(wants_numbr)

    def kittens_born(*, number: int) -> None:
        """Kittens were born."""

    with pytest.raises(MISTAKE) as caught:
        bus.declare(kittens_born)
    assert_says(caught.value, "wants_numbr", "numbr", "number")


def test_a_later_declaration_is_held_against_filters_too(bus: EventBus) -> None:
    bus.on("kittens_born", when=lambda numbr: numbr > 3)(lambda: None)

    def kittens_born(*, number: int) -> None:
        """Kittens were born."""

    with pytest.raises(MISTAKE) as caught:
        bus.declare(kittens_born)
    assert_says(caught.value, "numbr", "number")


def test_a_later_declaration_gives_filters_its_clock(bus: EventBus, loop: Emitter) -> None:
    steps = StepCollector()
    bus.on("sample_drawn", when=every(10))(steps)
    bus.signal(sample_drawn)
    for step in (9, 10, 20):
        loop.emit("sample_drawn", step=step)
    assert steps.steps == [10, 20]


def test_a_declaration_of_another_shape_under_the_same_name_is_an_error(bus: EventBus) -> None:
    def kittens_born(*, number: int) -> None:
        """Kittens were born."""

    bus.declare(kittens_born)

    def other(*, count: int) -> None:
        """Kittens were born."""

    other.__name__ = "kittens_born"
    with pytest.raises(MISTAKE) as caught:
        bus.declare(other)
    assert_says(caught.value, "kittens_born")


def test_the_same_cell_run_again_may_declare_again(bus: EventBus) -> None:
    for _ in range(2):

        @bus.declare
        def kittens_born(*, number: int) -> None:
            """Kittens were born."""

    bus.emit("kittens_born", number=1)


def test_a_standard_signal_cannot_be_declared_otherwise(bus: EventBus) -> None:
    def batch_finished(*, other: int) -> None:
        """Another batch."""

    with pytest.raises(MISTAKE) as caught:
        bus.declare(batch_finished)
    assert_says(caught.value, "batch_finished")


def test_a_name_near_a_standard_one_may_be_declared_on_purpose(
    bus: EventBus, loop: Emitter
) -> None:
    @bus.declare
    def batch_finishes(*, number: int) -> None:
        """Not the standard one, on purpose."""

    loop.emit("batch_finishes", number=1)


def test_strict_takes_declared_signals() -> None:
    bus = EventBus(strict=True)
    steps = StepCollector()
    bus.on(sample_drawn)(steps)
    bus.bind(sender="train").emit(sample_drawn, step=1)
    bus.bind(sender="train").emit("sample_drawn", step=2)
    assert steps.steps == [1, 2]


def test_a_transform_of_ones_own_works(bus: EventBus, loop: Emitter) -> None:
    bus.on(prompt_made)(lambda prompt: prompt + "!")
    assert loop.transform(prompt_made, "hello") == "hello!"
    with pytest.raises(MISTAKE) as caught:
        loop.emit(prompt_made, prompt="hello")
    assert_says(caught.value, "transform")


@pytest.mark.parametrize("keyword", ["clock", "value"])
def test_clock_and_value_must_be_fields(keyword: str) -> None:
    def drawn(*, step: int) -> None:
        """Drawn."""

    with pytest.raises(MISTAKE) as caught:
        signal(**{keyword: "stpe"})(drawn)
    assert_says(caught.value, keyword, "stpe", "step")


@pytest.mark.parametrize("taken", ["sender", "event", "bus", "model", "run_id"])
def test_a_field_cannot_take_a_name_of_the_bus(taken: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def drawn(*, {taken}): 'Drawn.'", namespace)
    with pytest.raises(MISTAKE) as caught:
        signal()(namespace["drawn"])
    assert_says(caught.value, "drawn", taken)


def test_a_default_makes_a_field_optional() -> None:
    assert sample_drawn.fields["step"].default is inspect.Parameter.empty
    assert sample_drawn.fields["text"].default == ""


def test_a_default_of_the_stub_is_not_sent(bus: EventBus, loop: Emitter) -> None:
    """Optional is optional: who names it without a default is told that it was not sent."""
    bus.on(sample_drawn)(lambda text: None)
    with pytest.raises(MISTAKE) as caught:
        loop.emit(sample_drawn, step=1)
    assert_says(caught.value, "text")


def test_a_field_may_carry_its_meaning_and_unit() -> None:
    @signal()
    def timed(*, duration_s: Annotated[float, Field("of the step", unit="s")]) -> None:
        """Timed."""

    assert list(timed.fields) == ["duration_s"]


def test_the_typed_path_emits_and_checks(bus: EventBus) -> None:
    steps = StepCollector()
    bus.on(sample_drawn)(steps)
    fast = bus.signal(sample_drawn)
    assert fast is bus.signal("sample_drawn")
    fast.emit(step=3)
    with pytest.raises(MISTAKE):
        fast.emit(stpe=3)  # type: ignore[call-arg]  # the mistake under test
    assert steps.steps == [3]


def test_the_emitters_typed_path_has_its_sender_and_context(bus: EventBus) -> None:
    seen: list[object] = []
    bus.on(sample_drawn)(lambda sender, model: seen.append((sender, model)))
    bus.bind(sender="train", model="m").signal(sample_drawn).emit(step=1)
    assert seen == [("train", "m")]


def test_the_docstring_is_the_signals() -> None:
    assert "sample was drawn" in (EventBus().signal(sample_drawn).__doc__ or "")


@pytest.mark.parametrize("wrong", ["sample_drawn", 3, Field])
def test_a_signal_is_declared_by_a_function(bus: EventBus, wrong: Any) -> None:
    with pytest.raises(TypeError, match="declared by a stub, a function"):
        bus.declare(wrong)


def test_a_lambda_declares_no_signal(bus: EventBus) -> None:
    stub: Any = lambda x: None  # noqa: E731 - that is the mistake
    with pytest.raises(TypeError, match="named by its stub: write `def name"):
        bus.declare(stub)


def declared_again(bus: EventBus) -> Declaration[...]:
    @bus.declare
    def kittens_born(*, number: int = 0) -> None:
        """Kittens were born."""

    return kittens_born


def test_who_holds_a_declaration_that_was_made_again_is_heard_by_those_there_now(
    bus: EventBus, loop: Emitter
) -> None:
    held, first, second = declared_again(bus), [], []
    listener = bus.on("kittens_born")(lambda number: first.append(number))
    for number in range(20):
        loop.emit(held, number=number)
        bus.emit(held, number=number)
    declared_again(bus)
    bus.detach(listener)
    bus.on("kittens_born")(lambda number: second.append(number))
    del first[:]
    for number in range(20):
        loop.emit(held, number=number)
        bus.emit(held, number=number)
    assert (first, len(second)) == ([], 40)


def test_a_declaration_that_was_replaced_does_not_come_back_when_it_is_named(bus: EventBus) -> None:
    old = declared_again(bus)
    new = declared_again(bus)
    bus.emit(old, number=1)
    assert bus.signal("kittens_born").declaration is new


def test_counts_go_on_where_a_signal_is_declared_later_or_again(
    bus: EventBus, loop: Emitter
) -> None:
    due: list[int] = []
    bus.on("kittens_born", when=every(3))(lambda number: due.append(number))
    for number in range(1, 10):
        loop.emit("kittens_born", number=number)
        if number in (2, 7):
            declared_again(bus)
    assert due == [3, 6, 9]


def test_what_ran_and_when_is_kept_where_a_signal_is_declared_later(loop: Emitter) -> None:
    clock, due = FakeClock(), []
    bus = EventBus(monotonic=clock)
    bus.on("kittens_born", when=at_most_every(100))(lambda number: due.append(number))
    bus.emit("kittens_born", number=1)
    declared_again(bus)
    assert bus.describe(never_ran=True) == "every subscription ran"
    bus.emit("kittens_born", number=2)
    assert due == [1]


def test_a_declaration_pickles_by_where_it_stands_and_copies_to_itself() -> None:
    assert pickle.loads(pickle.dumps(batch_finished)) is batch_finished
    assert copy.deepcopy({"on": batch_finished})["on"] is batch_finished


def test_a_declaration_that_nobody_else_could_find_is_not_pickled() -> None:
    @signal()
    def kittens_born(*, number: int) -> None:
        """Kittens were born."""

    with pytest.raises(pickle.PicklingError, match="declare it at the top of a module"):
        pickle.dumps(kittens_born)
