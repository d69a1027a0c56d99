"""The handlers of the demo: what a person who trains models would attach on a usual day."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eventbus import EventBus
from eventbus.cli.demo import CHECKPOINTS
from eventbus.handlers.checkpoint import Checkpoint
from eventbus.handlers.console_log import ConsoleLog
from eventbus.handlers.csv_log import CSVLog
from eventbus.handlers.early_stopping import EarlyStopping
from eventbus.handlers.history import History
from eventbus.handlers.plot import Plot
from eventbus.handlers.progress_bar import ProgressBar

PATIENCE = 5  # epochs


@dataclass(frozen=True)
class Handlers:
    """A bus with all attached, and those that the summary asks afterwards."""

    bus: EventBus
    history: History
    stopping: EarlyStopping

    @classmethod
    def into(cls, folder: Path, *, resume: bool) -> Handlers:
        """Attach all to a new bus; what they write goes into `folder`."""
        checkpoints = folder / CHECKPOINTS
        history = History()
        stopping = EarlyStopping(
            "val_loss", on="epoch_finished", patience=PATIENCE, restore_best=True
        )
        bus = EventBus()
        for handler in (
            stopping,
            history,
            ProgressBar(),
            ConsoleLog(),
            CSVLog(folder / "metrics.csv"),
            Plot(folder / "curves.png"),
            Checkpoint(checkpoints, keep=1, resume=checkpoints if resume else "never"),
        ):
            bus.attach(handler)
        return cls(bus, history, stopping)
