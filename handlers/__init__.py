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
    from .alter_batch import AlterBatch
    from .checkpoint import Checkpoint
    from .confusion_matrix import ConfusionMatrix
    from .console_log import ConsoleLog
    from .csv_log import CSVLog
    from .cut_mix import CutMix
    from .early_stopping import EarlyStopping
    from .ema import EMA
    from .gradient_clipping import GradientClipping
    from .history import History
    from .jsonl_log import JSONLLog
    from .lr_schedule import LRSchedule
    from .mix_up import MixUp
    from .non_finite_guard import NonFiniteGuard
    from .notify import Notify
    from .plot import Plot
    from .preemption import Preemption
    from .progress_bar import ProgressBar
    from .tensorboard import TensorBoard
    from .weights_and_biases import WandB

__all__ = [
    "EMA",
    "AlterBatch",
    "CSVLog",
    "Checkpoint",
    "ConfusionMatrix",
    "ConsoleLog",
    "CutMix",
    "EarlyStopping",
    "GradientClipping",
    "History",
    "JSONLLog",
    "LRSchedule",
    "MixUp",
    "NonFiniteGuard",
    "Notify",
    "Plot",
    "Preemption",
    "ProgressBar",
    "TensorBoard",
    "WandB",
]

_MODULES = {
    "AlterBatch": "alter_batch",
    "CSVLog": "csv_log",
    "Checkpoint": "checkpoint",
    "ConfusionMatrix": "confusion_matrix",
    "ConsoleLog": "console_log",
    "CutMix": "cut_mix",
    "EMA": "ema",
    "EarlyStopping": "early_stopping",
    "GradientClipping": "gradient_clipping",
    "History": "history",
    "JSONLLog": "jsonl_log",
    "LRSchedule": "lr_schedule",
    "MixUp": "mix_up",
    "NonFiniteGuard": "non_finite_guard",
    "Notify": "notify",
    "Plot": "plot",
    "Preemption": "preemption",
    "ProgressBar": "progress_bar",
    "TensorBoard": "tensorboard",
    "WandB": "weights_and_biases",
}

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(
                f"module {__name__!r} has no handler {name!r}; see {__name__}.__all__"
            )
        handler = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = handler  # the next look-up does not come here
        return handler


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
