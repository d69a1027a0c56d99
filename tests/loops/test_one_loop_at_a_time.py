"""What a Run has once: a loop over epochs, a pass over data, a value for each key of metrics."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventbus import EventBus
from eventbus.loops import Run


def train(body: Callable[[Run], object]) -> Run:
    with Run(EventBus()) as run:
        body(run)
    return run


def test_interleaved_passes_are_refused_with_what_to_write() -> None:
    def interleave(run: Run) -> None:
        for _ in run.epochs(1):
            for _pair in zip(run.batches([1, 2]), run.batches([3, 4]), strict=True):
                run.report(loss=1.0)

    with pytest.raises(RuntimeError, match=r"zip\(run\.batches\(a\), b\)"):
        train(interleave)


@pytest.mark.parametrize("epochs", [True, False])
def test_a_pass_within_a_pass_is_refused(epochs: bool) -> None:
    def nest(run: Run) -> None:
        for _ in run.epochs(1) if epochs else [1]:
            for _outer in run.batches([1, 2]):
                list(run.batches([3, 4]))

    with pytest.raises(RuntimeError, match="while one is open"):
        train(nest)


def test_what_the_refusal_says_to_write_works() -> None:
    with Run(EventBus()) as run:
        for _ in run.epochs(2):
            for _pair in zip(run.batches([1, 2]), [3, 4], strict=True):
                run.report(loss=1.0)
    assert run.step == 4


@pytest.mark.parametrize("epochs", [True, False])
def test_passes_may_follow_each_other_also_after_break(epochs: bool) -> None:
    with Run(EventBus()) as run:
        for _ in run.epochs(2) if epochs else [1, 2]:
            for _batch in run.batches([1, 2]):
                run.report(loss=1.0)
                break
            for _batch in run.batches([1, 2]):
                run.report(loss=1.0)
    assert run.step == 6


def test_a_pass_that_a_variable_keeps_ends_with_its_epoch() -> None:
    with Run(EventBus()) as run:
        kept = []
        for _ in run.epochs(2):
            kept.append(run.batches([1, 2]))
            for _batch in kept[-1]:
                run.report(loss=1.0)
                break
    assert run.step == 2


def test_epochs_within_epochs_are_refused() -> None:
    def nest(run: Run) -> None:
        for _outer in run.epochs(2):
            list(run.epochs(3))

    with pytest.raises(RuntimeError, match=r"run\.epochs\(\) inside .*, of which epoch 1 is open"):
        train(nest)


def test_epochs_may_follow_epochs_that_were_left() -> None:
    with Run(EventBus()) as run:
        for _ in run.epochs(3):
            break
        assert list(run.epochs(3)) == [2, 3]


def test_a_step_may_not_report_what_a_validation_of_its_epoch_has_measured() -> None:
    def collide(run: Run) -> None:
        for _ in run.epochs(1):
            for number in run.batches([1, 2]):
                run.report(**{"loss" if number == 1 else "val_loss": 1.0})
                with run.validation():
                    run.report(loss=2.0)

    with pytest.raises(ValueError, match="'val_loss' was already reported"):
        train(collide)


def test_a_validation_may_not_report_what_a_step_of_its_epoch_has() -> None:
    def collide(run: Run) -> None:
        for _ in run.epochs(1):
            for _batch in run.batches([1, 2]):
                run.report(loss=1.0, val_loss=1.0)
            for _batch in run.validate([1]):
                run.report(loss=2.0)

    with pytest.raises(ValueError, match=r"'val_loss' was already reported for .*, in training"):
        train(collide)


def test_a_key_of_one_epoch_is_free_in_the_next() -> None:
    with Run(EventBus()) as run:
        for epoch in run.epochs(2):
            for _batch in run.batches([1]):
                run.report(**{"loss" if epoch == 1 else "val_loss": 1.0})
            if epoch == 1:
                with run.validation():
                    run.report(loss=2.0)
    assert run.metrics["val_loss"] == 1.0
