"""Handlers: one module, one effect. Each is imported when it is first asked for.

Examples
--------
>>> from eventbus.handlers import EarlyStopping
>>> EarlyStopping("val_loss", patience=5).patience
5
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .console_log import ConsoleLog
    from .csv_log import CSVLog
    from .early_stopping import EarlyStopping
    from .history import History
    from .jsonl_log import JSONLLog
    from .plot import Plot
    from .progress_bar import ProgressBar

__all__ = [
    "CSVLog",
    "Checkpoint",
    "ConsoleLog",
    "EarlyStopping",
    "History",
    "JSONLLog",
    "Plot",
    "ProgressBar",
]

_MODULES = {
    "CSVLog": "csv_log",
    "Checkpoint": "checkpoint",
    "ConsoleLog": "console_log",
    "EarlyStopping": "early_stopping",
    "History": "history",
    "JSONLLog": "jsonl_log",
    "Plot": "plot",
    "ProgressBar": "progress_bar",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no handler {name!r}; see {__name__}.__all__")
    handler = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = handler  # the next look-up does not come here
    return handler


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
