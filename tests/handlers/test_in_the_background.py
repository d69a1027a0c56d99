"""Which handlers stay on the loop's thread: who decides, and who looks at what it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventbus import EventBus, EventBusError, every
from eventbus.handlers import (
    EMA,
    AlterBatch,
    Checkpoint,
    ConsoleLog,
    CutMix,
    EarlyStopping,
    GradientClipping,
    LRSchedule,
    MixUp,
    NonFiniteGuard,
    Preemption,
    TensorBoard,
)


def _with_histograms() -> TensorBoard:
    pytest.importorskip("tensorboard")
    return TensorBoard(histograms=every(10))


MAKES: dict[str, Callable[[], Any]] = {
    "Checkpoint": lambda: Checkpoint("runs"),
    "EarlyStopping": lambda: EarlyStopping(restore_best=True),
    "Preemption": Preemption,
    "MixUp": lambda: MixUp(10),
    "CutMix": lambda: CutMix(10),
    "AlterBatch": lambda: AlterBatch(lambda batch: batch),
    "EMA": EMA,
    "LRSchedule": lambda: LRSchedule(lambda optimizer: optimizer),
    "GradientClipping": lambda: GradientClipping(1.0),
    "NonFiniteGuard": NonFiniteGuard,
    "NonFiniteGuard, skipping": lambda: NonFiniteGuard("skip"),
    "ConsoleLog": ConsoleLog,
    "TensorBoard, with histograms": _with_histograms,
}


@pytest.mark.parametrize("name", MAKES)
def test_a_handler_that_works_with_the_loop_is_refused_in_the_background(name: str) -> None:
    bus = EventBus()
    with pytest.raises(EventBusError, match="on the loop's thread alone: attach it without"):
        bus.attach(MAKES[name](), background=True)
    assert not bus.subscriptions
    bus.attach(MAKES[name]())
