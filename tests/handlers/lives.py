"""Short trainings with one handler, in this process or in one that is killed.

Run as a script this is a process that forks a life for each line on its standard input, and tells
on its standard output how the life ended. It has imported what lives need, and has one thread and
no service that would be forked with it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import Event, EventBus, Priority
from eventbus.handlers import Checkpoint, ConfusionMatrix, Notify, Plot
from eventbus.loops import Run


def _any_service() -> str:
    name = f"{__package__}.postbox" if __package__ else "postbox"  # where this is a script
    return str(importlib.import_module(name).any_service())


def _same(batch: Any) -> Any:
    return batch


def _halving(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


ARGUMENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "AlterBatch": lambda folder: {"function": _same},
    "CSVLog": lambda folder: {"path": folder / "log.csv"},
    "Checkpoint": lambda folder: {"directory": folder / "checkpoints", "resume": "auto"},
    "CutMix": lambda folder: {"classes": 3},
    "GradientClipping": lambda folder: {"max_norm": 0.5},
    "JSONLLog": lambda folder: {"path": folder / "log.jsonl"},
    "LRSchedule": lambda folder: {"factory": _halving},
    "MixUp": lambda folder: {"classes": 3},
    "Notify": lambda folder: {"urls": _any_service()},
    "Plot": lambda folder: {"path": folder / "curves.svg"},
    "WandB": lambda folder: {"dir": folder},
}
"""Arguments that have no default, what a handler is to be resumed by, and where W&B writes.

Its client remembers the folder in which it was first used, by whichever test.
"""

ENVIRONMENT = dict(os.environ)
"""As it was before any library left there how to reach its helpers in this process."""

VALIDATION_LOSSES = (1.0, 0.5, 0.6, 0.7, 0.8, 0.9)
"""By epoch; so that whoever decides by them has something to decide after the fifth."""


def assert_ends_as_whole(
    cls: type, folder: Path, lives: Nursery, whole: Life, moments: Iterable[tuple[str, int]]
) -> None:
    """Cut a training at these moments, one life after the other; it ends as `whole` did."""
    folder.mkdir()
    for moment in moments:
        lives.die(cls, folder, moment)
    resumed = live(cls, folder)
    assert resumed.trained.weights == whole.trained.weights
    assert resumed.trained.outcome == whole.trained.outcome


def make(cls: Any, folder: Path) -> Any:
    """Construct a handler with its defaults; skip, by name, where its library is missing."""
    arguments = ARGUMENTS.get(cls.__name__, _no_arguments)
    try:
        return cls(**arguments(folder))
    except ImportError as error:
        if "pip install" not in str(error):
            raise  # a missing library is one line that says what to do
        pytest.skip(str(error))


def _no_arguments(folder: Path) -> dict[str, Any]:
    return {}


@dataclass
class Trained:
    """What came of a training."""

    losses: list[float] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    outcome: str | None = None


def images(batches: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of five pictures, 1 x 4 x 4, float32, with their classes, of three."""
    return [(torch.randn(5, 1, 4, 4), torch.randint(3, (5,))) for _ in range(batches)]


def trained_by(bus: EventBus, epochs: int = 3, batches: int = 3) -> Trained:
    """Train a small model with dropout: the same each time, unless a handler interferes."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(16, 8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(8, 3),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = images(batches)
    result = Trained()
    with Run(bus, model=model, optimizer=optimizer, config={"lr": 0.1}) as run:
        for epoch in run.epochs(epochs):
            _train(run, model, optimizer, data, result)
            _validate(run, model, data, epoch)
    result.outcome = run.outcome
    result.weights = [parameter.flatten().tolist() for parameter in model.parameters()]
    return result


def _train(run: Run, model: Any, optimizer: Any, data: Any, result: Trained) -> None:
    model.train()
    for inputs, targets in run.batches(data):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = torch.nn.functional.cross_entropy(outputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        if run.emit("backward_finished", loss=loss).skip:
            continue
        optimizer.step()
        result.losses.append(loss.item())
        run.report(loss=loss, outputs=outputs, targets=targets, batch_size=len(targets))


def _validate(run: Run, model: Any, data: Any, epoch: int) -> None:
    model.eval()
    loss = VALIDATION_LOSSES[epoch - 1]
    for inputs, targets in run.validate(data):
        with torch.no_grad():
            outputs = model(inputs)
        run.report(loss=loss, outputs=outputs, targets=targets, batch_size=len(targets))


def with_handler(cls: type, folder: Path) -> tuple[EventBus, Any]:
    bus = EventBus(strict=True)
    handler = make(cls, folder)
    bus.attach(handler)
    return bus, handler


@dataclass
class Life:
    """What happened between the start of a process and its end."""

    told: list[tuple[Any, ...]]
    trained: Trained


def live(cls: type, folder: Path, kill_at: tuple[str, int] | None = None) -> Life:
    """Train with a handler and a checkpoint; `kill_at` a signal and its step this process ends."""
    bus, _ = with_handler(cls, folder)
    if cls is not Checkpoint:
        bus.attach(Checkpoint(folder / "battery", resume="auto"), name="battery")
    told: list[tuple[Any, ...]] = []

    @bus.on("*", priority=Priority.ALTER + 1)
    def listen(event: Event) -> None:
        places = (event.fields.get(key) for key in ("epoch", "step", "reason"))
        told.append((event.name, *places))

    @bus.on("*", priority=Priority.PERSIST - 1)
    def end(event: Event) -> None:
        if (event.name, event.fields.get("step")) == kill_at:
            os._exit(137)

    return Life(told, trained_by(bus, epochs=6))


# -- lives that are killed


class Nursery:
    """Has a life lived in a child of a fresh process; nothing is closed or flushed at its end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def die(self, cls: type, folder: Path, kill_at: tuple[str, int]) -> None:
        """Live until `kill_at`, a signal and its step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"module": cls.__module__, "name": cls.__name__, "folder": str(folder)}
        self.process.stdin.write(json.dumps({**request, "kill_at": kill_at}) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "137\n", f"{cls.__name__} was not killed"


@contextmanager
def nursery() -> Iterator[Nursery]:
    """Start the process that forks lives."""
    command = [sys.executable, __file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ENVIRONMENT) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.write("\n")  # closing alone is no end where others have inherited the pipe
        process.stdin.close()


def _fork_lives() -> None:
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    for cls in (Checkpoint, ConfusionMatrix, Notify, Plot):
        with suppress(pytest.skip.Exception), tempfile.TemporaryDirectory() as folder:
            live(cls, Path(folder))  # imports what is imported late, once for all children
    with suppress(ImportError):
        importlib.import_module("wandb")  # a life of its handler would start a service
    assert threading.active_count() == 1
    for line in iter(sys.stdin.readline, "\n"):
        child = os.fork()
        if child == 0:
            _live_in_child(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _live_in_child(request: dict[str, Any]) -> None:
    os.dup2(2, 1)  # what a handler prints is no answer
    os.chdir(request["folder"])
    name, step = request["kill_at"]
    try:
        cls = getattr(importlib.import_module(request["module"]), request["name"])
        live(cls, Path(request["folder"]), (name, step))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)  # it should not have come so far


if __name__ == "__main__":
    _fork_lives()
