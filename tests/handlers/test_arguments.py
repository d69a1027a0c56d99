"""What handlers take alike: paths, signals by name or declaration, filters and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, every, handlers
from eventbus.handlers import (
    Checkpoint,
    CSVLog,
    EarlyStopping,
    History,
    JSONLLog,
    NonFiniteGuard,
    Plot,
    TensorBoard,
)
from eventbus.signals import epoch_finished, epoch_interrupted, validation_done


@pytest.mark.parametrize("make", [CSVLog, JSONLLog, Plot, TensorBoard, Checkpoint])
@pytest.mark.parametrize("path", [5, None, b"log"])
def test_what_is_no_path_is_refused_in_a_line(make: Callable[[Any], object], path: Any) -> None:
    if make is Plot:
        pytest.importorskip("matplotlib")
    if make is TensorBoard:
        pytest.importorskip("tensorboard")
    with pytest.raises(TypeError) as caught:
        make(path)
    name = getattr(make, "__name__", "")
    told = f"{name} takes a path, a string or a pathlib.Path; got {path!r}"
    assert str(caught.value) == told


MAKE: list[Callable[[Any], object]] = [
    lambda on: History(on=on),
    lambda on: EarlyStopping(on=on),
    lambda on: NonFiniteGuard(on=on),
    lambda on: Checkpoint("checkpoints", on=on),
    lambda on: CSVLog("log.csv", on=on),
]


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("on", [5, [5], ["epoch_finished", None], [""]])
def test_what_names_no_signal_is_refused_in_a_line(make: Callable[[Any], object], on: Any) -> None:
    with pytest.raises(TypeError) as caught:
        make(on)
    assert str(caught.value) == f"on= takes the name of a signal, or several; got {on!r}"


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("on", [(), [], {}])
def test_no_signal_at_all_is_refused_in_a_line(make: Callable[[Any], object], on: Any) -> None:
    with pytest.raises(ValueError, match="on= names at least one signal; got none"):
        make(on)


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("on", [epoch_finished, [epoch_finished], ("epoch_finished",)])
def test_a_signal_may_be_given_by_its_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], object], on: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    bus = EventBus(strict=True)
    bus.attach(make(on))
    assert "epoch_finished" in {name for one in bus.subscriptions for name in one.signals}


# -- numbers, and what is to be one or several of something


def _make(name: str, *positional: Any, **named: Any) -> Callable[[], object]:
    return lambda: getattr(handlers, name)(*positional, **named)


WRONG: list[tuple[Callable[[], object], str]] = [
    (_make("EMA", "0.9"), "EMA: decay is a number; got '0.9'"),
    (_make("GradientClipping", "1"), "GradientClipping: max_norm is a number; got '1'"),
    (
        _make("GradientClipping", 1.0, norm_type="2"),
        "GradientClipping: norm_type is a number; got '2'",
    ),
    (
        _make("NonFiniteGuard", max_skips="3"),
        "NonFiniteGuard: max_skips is a whole number; got '3'",
    ),
    (_make("NonFiniteGuard", watch=None), "NonFiniteGuard: watch is a name, or several; got None"),
    (_make("CutMix", 10, probability="x"), "CutMix: probability is a number; got 'x'"),
    (_make("MixUp", 10, alpha=None), "MixUp: alpha is a number; got None"),
    (_make("MixUp", 10, seed=0.5), "MixUp: seed is a whole number; got 0.5"),
    (_make("AlterBatch", print, seed="x"), "AlterBatch: seed is a whole number; got 'x'"),
    (
        _make("LRSchedule", print, warmup_steps=1.5),
        "LRSchedule: warmup_steps is a whole number; got 1.5",
    ),
    (
        _make("ProgressBar", refreshes_per_s="x"),
        "ProgressBar: refreshes_per_s is a number; got 'x'",
    ),
    (_make("WandB", timeout_s="x"), "WandB: timeout_s is a number; got 'x'"),
    (
        _make("Notify", "json://localhost", limit="5"),
        "Notify: limit is a whole number; got '5'",
    ),
    (_make("Notify", None), "Notify takes a URL, a string, or several; got NoneType"),
    (_make("Notify", ["json://localhost", None]), "Notify takes a URL, a string, or several; "),
    (_make("Preemption", None), "Preemption: signals is a sequence of names; got None"),
]
LIBRARIES = {"ProgressBar": "rich", "WandB": "wandb", "Notify": "apprise"}


@pytest.mark.parametrize(("make", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_is_of_the_wrong_type_is_told_with_handler_and_argument(
    make: Callable[[], object], told: str
) -> None:
    library = LIBRARIES.get(told.partition(":")[0].partition(" ")[0])
    if library:
        pytest.importorskip(library)
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


# -- filters and signals, as a type checker sees them: mypy reads this file too


def _is_late(epoch: int) -> bool:
    return epoch > 3


def _is_of_test(name: str) -> bool:
    return name == "test"


def _several(folder: Path) -> Iterator[object]:
    """Make what takes signals and filters, with a declaration and with a function."""
    yield Checkpoint(folder, on=validation_done, when=_is_of_test)
    yield EarlyStopping(on=[validation_done], when=_is_of_test)
    yield CSVLog(folder / "log.csv", on=epoch_finished, when=_is_late)
    yield JSONLLog(folder / "log.jsonl", on={epoch_finished: _is_late, "run_finished": None})
    yield History(on=(epoch_finished,), when=_is_late)
    yield handlers.EMA(on=epoch_finished, when=_is_late)
    yield handlers.EMA(on=["epoch_finished", epoch_interrupted], when=every(2))
    yield NonFiniteGuard(on=epoch_finished, when=_is_late)
    yield handlers.LRSchedule(print, on=validation_done, when=_is_of_test)
    yield handlers.GradientClipping(1.0, when=_is_late)
    yield handlers.MixUp(2, when=_is_late)
    yield handlers.CutMix(2, when=_is_late)
    yield handlers.AlterBatch(print, when=_is_late)
    yield handlers.ConsoleLog(when=_is_late)


def _several_with_libraries(folder: Path) -> Iterator[object]:
    for library in ("matplotlib", "tensorboard", "wandb", "apprise"):
        pytest.importorskip(library)
    yield Plot(folder / "curves.png", when=_is_late)
    yield handlers.ConfusionMatrix(2, when=_is_of_test)
    yield TensorBoard(folder, when=_is_late, histograms=_is_late)
    yield handlers.WandB(when=_is_late)
    yield handlers.Notify("json://localhost", on=epoch_finished, when=_is_late)


@pytest.mark.parametrize("made", [_several, _several_with_libraries])
def test_signals_and_filters_may_be_declarations_and_functions_everywhere(
    tmp_path: Path, made: Callable[[Path], Iterator[object]]
) -> None:
    for number, handler in enumerate(made(tmp_path)):
        EventBus(strict=True).attach(handler, name=f"handler-{number}")


@pytest.mark.parametrize("name", handlers.__all__)
def test_arguments_of_one_meaning_are_of_one_type(name: str) -> None:
    parameters = inspect.signature(getattr(handlers, name)).parameters
    types = {each: str(one.annotation) for each, one in parameters.items()}
    assert types.get("when", "When | None") == "When | None"
    assert types.get("on", "On") in ("On", "OnEach", "On | None")
