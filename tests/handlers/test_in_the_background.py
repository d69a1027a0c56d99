"""Which handlers may not be taken off the loop's thread: those that decide what the loop does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventbus import EventBus, EventBusError
from eventbus.handlers import (
    EMA,
    AlterBatch,
    Checkpoint,
    CutMix,
    EarlyStopping,
    GradientClipping,
    LRSchedule,
    MixUp,
    NonFiniteGuard,
    Preemption,
)

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
}


@pytest.mark.parametrize("name", MAKES)
def test_a_handler_that_works_with_the_loop_is_refused_in_the_background(name: str) -> None:
    bus = EventBus()
    with pytest.raises(EventBusError, match=r"on the loop's thread alone|is in the background"):
        bus.attach(MAKES[name](), background=True)
    assert not bus.subscriptions
    bus.attach(MAKES[name]())
