"""A right run written down, emission by emission, to be emitted again with one thing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eventbus import EventBus
from eventbus.testing import Report, play, watch_loop

Emitted = tuple[str, dict[str, Any]]
Change = Callable[[list[Emitted]], list[Emitted]]


def full_run(epochs: int = 2, batches: int = 3) -> list[Emitted]:
    """A run with all that the vocabulary has, two micro-batches per step, one step skipped."""
    script: list[Emitted] = [
        ("run_opened", {}),
        ("run_started", {"epochs": epochs, "steps": None, "resumed_from": None}),
    ]
    for epoch in range(1, epochs + 1):
        script += epoch_of(epoch, batches)
    last = {"epoch": epochs, "step": epochs * batches, "metrics": {"loss": 0.5, "val_loss": 0.25}}
    script += [
        ("run_finished", {"reason": "completed", **last}),
        ("run_closed", {"outcome": "completed"}),
    ]
    return script


def epoch_of(epoch: int, batches: int) -> list[Emitted]:
    first = (epoch - 1) * batches
    before = {"epoch": epoch, "step": first}
    place = {"epoch": epoch, "step": first + batches}
    script: list[Emitted] = [
        ("epoch_started", before),
        ("loader_opened", {"loader": [], **before}),
        *skipped_step(epoch, first + 1),
    ]
    for number in range(1, batches + 1):
        script += step_of(epoch, first + number, 2 * number)
    metrics = {"loss": 0.5, "val_loss": 0.25}
    return [
        *script,
        *validation_of(epoch, first + batches),
        ("epoch_finished", {**place, "metrics": metrics, "complete": True}),
    ]


def skipped_step(epoch: int, step: int) -> list[Emitted]:
    place = {"epoch": epoch, "step": step}
    return [
        ("batch_loaded", {"batch": 0, "batch_index": 1, **place}),
        ("batch_started", place),
        ("batch_skipped", {**place, "reason": "the loss is not finite"}),
    ]


def step_of(epoch: int, step: int, batch_index: int) -> list[Emitted]:
    place = {"epoch": epoch, "step": step}
    numbers = {"loss": 0.5, "metrics": {"loss": 0.5}, "batch_size": 4, "duration_s": 0.1}
    return [
        ("batch_loaded", {"batch": 0, "batch_index": batch_index, **place}),
        ("batch_started", place),
        ("batch_loaded", {"batch": 0, "batch_index": batch_index + 1, **place}),
        ("backward_finished", {**place, "loss": 0.5}),
        ("batch_finished", {**place, **numbers}),
    ]


def validation_of(epoch: int, step: int, name: str = "val") -> list[Emitted]:
    place = {"name": name, "round": epoch, "epoch": epoch, "step": step}
    metrics = {f"{name}_loss": 0.25}
    return [
        ("validation_started", place),
        ("validation_batch_finished", {**place, "metrics": metrics, "loss": 0.25}),
        ("validation_done", {**place, "metrics": metrics}),
    ]


# -- changes


def without(name: str, nth: int = 1) -> Change:
    """Leave out the nth emission of a signal."""

    def change(script: list[Emitted]) -> list[Emitted]:
        at = place_of(script, name, nth)
        return script[:at] + script[at + 1 :]

    return change


def with_fields(name: str, nth: int = 1, **fields: Any) -> Change:
    """Say something else in the nth emission of a signal; `...` leaves a field out."""

    def change(script: list[Emitted]) -> list[Emitted]:
        at = place_of(script, name, nth)
        said = {**script[at][1], **fields}
        said = {key: value for key, value in said.items() if value is not ...}
        return [*script[:at], (name, said), *script[at + 1 :]]

    return change


def moved(name: str, nth: int, after: str, after_nth: int) -> Change:
    """Emit the nth emission of a signal later, right after another one."""

    def change(script: list[Emitted]) -> list[Emitted]:
        taken = script[place_of(script, name, nth)]
        rest = without(name, nth)(script)
        at = place_of(rest, after, after_nth)
        return [*rest[: at + 1], taken, *rest[at + 1 :]]

    return change


def inserted(what: Iterable[Emitted], after: str, nth: int = 1) -> Change:
    """Emit something more after the nth emission of a signal."""

    def change(script: list[Emitted]) -> list[Emitted]:
        at = place_of(script, after, nth)
        return [*script[: at + 1], *what, *script[at + 1 :]]

    return change


def place_of(script: list[Emitted], name: str, nth: int) -> int:
    return [at for at, (each, _) in enumerate(script) if each == name][nth - 1]


# -- looking at it


def watched(script: Iterable[tuple[str, Mapping[str, Any]]], **context: Any) -> Report:
    """Emit a script under watch; return what was found."""
    bus = EventBus()
    with watch_loop(bus) as report:
        play(bus, script, **context)
    return report
