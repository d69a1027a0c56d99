"""`docs/elsewhere.md` says what the package does: hooks are answered so, calls can be made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch.optim.lr_scheduler import StepLR

from eventbus import EventBus, SignalError, every, handlers
from eventbus.signals import STANDARD

PAGE = Path(__file__).parents[2] / "docs" / "elsewhere.md"
CODE = re.compile(r"`([^`]+)`")
CALLBACKS, HOOKS = (
    [[CODE.findall(cell) for cell in row.strip("|").split("|")] for row in rows.split("\n")[2:-1]]
    for rows in re.findall(r"(?:^\|.*\n)+", PAGE.read_text("utf-8"), re.MULTILINE)
)
ANSWERED = [(hook, ours[0]) for hooks, ours in HOOKS for hook in hooks]
MADE = [call for _, ours in CALLBACKS for call in ours if call.split("(")[0] in handlers.__all__]


@pytest.mark.parametrize(("hook", "ours"), ANSWERED)
def test_a_hook_is_answered_with_the_signal_beside_it(hook: str, ours: str) -> None:
    assert ours in STANDARD
    with pytest.raises(SignalError, match=f"unknown signal '{hook}': did you mean '{ours}'"):
        EventBus().on(hook)(lambda: None)


@pytest.mark.parametrize("call", MADE)
def test_a_handler_is_made_as_the_page_says(call: str) -> None:
    known: dict[str, Any] = {name: getattr(handlers, name) for name in handlers.__all__}
    assert eval(call, {**known, "every": every, "StepLR": StepLR})
