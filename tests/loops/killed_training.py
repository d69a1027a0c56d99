"""A training with everything in it that a resumed run must put back, to be ended by a signal.

Run as a script this is a process that has imported torch and nothing else: it forks a life for each
line on its standard input, signals it once it has told of so many steps, and tells on its standard
output the exit code and the last step that it heard of.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from eventbus import EventBus, every
from eventbus.handlers import EMA, Checkpoint, CSVLog, JSONLLog, Preemption
from eventbus.loops import ResumableSampler, Run

EPOCHS, STEPS, ACCUMULATE = 4, 7, 2  # STEPS: optimizer steps per epoch
BATCH = 3


@dataclass(frozen=True)
class Plan:
    """What a life does: which loader, when it saves, and after how many steps it is ended.

    By SIGKILL; or, where it is `asked`, so many seconds later by SIGTERM; or by a SIGTERM at so
    many lines of the loop after it has told of a step: `asked_at`, a step and a number of lines.
    `probes`: it validates within steps as well, which a `Stop` leaves out.
    """

    folder: str
    loader: str
    every: int = 1
    asynchronous: bool = False
    kill_after: int | None = None
    asked: float | None = None
    asked_at: tuple[int, int] | None = None
    probes: bool = True


class Pictures(Dataset[Any]):
    """Samples, augmented by draws of Python's and numpy's generators unless workers load them."""

    def __init__(self, augmented: bool) -> None:
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(STEPS * ACCUMULATE * BATCH, 6, generator=generator)
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        shift = random.random() + float(np.random.normal()) if self.augmented else 0.0
        return self.inputs[index] + 0.1 * shift, self.inputs[index].sum()


def loader_of(kind: str) -> Iterable[Any]:
    """Return a loader by its name: how it is resumed, and by how many workers it is read."""
    name, _, workers = kind.partition(" ")
    data = Pictures(augmented=not workers)
    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": int(workers or 0)}
    torch.manual_seed(2)  # StatefulDataLoader's sampler draws a seed when it is made
    if name == "stateful":
        from torchdata.stateful_dataloader import StatefulDataLoader

        stateful: Iterable[Any] = StatefulDataLoader(data, shuffle=True, **options)
        return stateful
    if name == "shuffled":
        return DataLoader(data, shuffle=True, **options)
    return DataLoader(data, sampler=ResumableSampler(data, seed=5), **options)


class Training:
    """Dropout, bfloat16, scaled and accumulated gradients, a schedule by steps, an average."""

    def __init__(self, probes: bool) -> None:
        self.probes = probes
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        layers = [torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Dropout(0.3)]
        self.model = torch.nn.Sequential(*layers, torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.02, EPOCHS * STEPS)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        self.ema = EMA(0.9)

    def run(self, bus: EventBus, loader: Iterable[Any]) -> None:
        bus.attach(self.ema)
        known: dict[str, Any] = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        extra = {"scaler": self.scaler}
        with Run(bus, model=self.model, **known, state=extra, run_id="killed") as run:
            for _ in run.epochs(EPOCHS):
                for batch in run.batches(loader, accumulate=ACCUMULATE):
                    self._step(run, *batch)
                self._validate(run, "val")

    def _step(self, run: Run, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.model.train()
        noise = random.random() * float(np.random.random())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (self.model(inputs + noise).squeeze(1) - targets).square().mean()
        self.scaler.scale(loss / ACCUMULATE).backward()
        if run.boundary:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.scheduler.step()
            if self.probes and run.step % 3 == 0:
                self._validate(run, "probe")  # before the report: a part of the step
        run.report(loss=loss, noise=noise)

    def _validate(self, run: Run, name: str) -> None:
        self.model.eval()
        for number in run.validate([1.0, 2.0], name):
            with torch.no_grad():
                loss = self.model(torch.full((1, 6), number)).square().mean()
            run.report(loss=loss, draw=random.random())

    def results(self) -> dict[str, Any]:
        """Return all that must be the same however often the training was killed."""
        numpy_state: Any = np.random.get_state()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": [numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]],
        }


def live(plan: Plan, tell: Callable[[int], object]) -> None:
    """Train with a checkpoint in this process; leave the results in the folder at the end."""
    folder, bus, training = Path(plan.folder), EventBus(strict=True), Training(plan.probes)
    when = every(plan.every)
    saver = Checkpoint(
        folder / "saved",
        on="batch_finished",
        when=when,
        keep=2,
        best="val_loss",
        resume="auto",
        asynchronous=plan.asynchronous,
    )
    bus.attach(saver)
    if plan.asked is not None or plan.asked_at is not None:
        bus.attach(Preemption())
    bus.attach(CSVLog(folder / "epochs.csv"))
    bus.attach(CSVLog(folder / "steps.csv", on=["batch_finished"]), name="steps")
    kinds = ["batch_finished", "validation_done", "epoch_finished"]
    bus.attach(JSONLLog(folder / "log.jsonl", on=kinds, clock=lambda: 0.0))
    bus.on("batch_finished", priority=-10_000)(lambda step: tell(step))
    if plan.asked_at is not None:
        last, lines = plan.asked_at
        bus.on("batch_finished", when=lambda step: step == last)(lambda: ask_after(lines))
    training.run(bus, loader_of(plan.loader))
    torch.save(training.results(), folder / "saving.pt")
    (folder / "saving.pt").rename(folder / "results.pt")


def ask_after(lines: int) -> None:
    """Have this process get a SIGTERM when so many lines of the loop and of its body have run."""
    left = lines

    def at_line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        left -= event == "line"
        if left > 0:
            return at_line
        sys.settrace(None)
        if left == 0:
            left = -1  # frames that were begun before are still traced
            signal.raise_signal(signal.SIGTERM)
        return None

    def at_call(frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_code.co_filename
        return at_line if name == __file__ or f"eventbus{os.sep}loops" in name else None

    sys.settrace(at_call)


# -- lives that are killed


class Nursery:
    """Has lives lived in children of a fresh process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def live(self, plan: Plan) -> tuple[int, int]:
        """Return the exit code of a life and the last step that it told of."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self.process.stdin.flush()
        code, step = self.process.stdout.readline().split()
        return int(code), int(step)


@contextmanager
def nursery() -> Iterator[Nursery]:
    """Start the process that forks lives."""
    command, pipe = [sys.executable, __file__], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.write("\n")  # closing alone is no end where others have inherited the pipe
        process.stdin.close()


def _fork_lives() -> None:
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        live(Plan(folder, "sampler"), lambda step: None)  # imports what is imported late, for all
    for line in iter(sys.stdin.readline, "\n"):
        print(*_one_life(Plan(**json.loads(line))), flush=True)


def _one_life(plan: Plan) -> tuple[int, int]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _live_in_child(plan, write)
    os.close(write)
    step = _ended_in_time(child, read, plan)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(read)
    return code, step


def _ended_in_time(child: int, read: int, plan: Plan) -> int:
    step = told = 0
    while told != plan.kill_after and (data := os.read(read, 2)):
        step, told = int.from_bytes(data), told + 1
    if told == plan.kill_after and plan.asked is None:
        os.kill(child, signal.SIGKILL)  # the workers of a loader live on for some seconds
    elif told == plan.kill_after:
        time.sleep(plan.asked or 0.0)
        os.kill(child, signal.SIGTERM)
        while data := os.read(read, 2):
            step = int.from_bytes(data)
    return step


def _live_in_child(plan: Plan, told: int) -> None:
    os.dup2(2, 1)  # what a handler prints is no answer
    try:
        live(plan, lambda step: os.write(told, step.to_bytes(2)))
        os._exit(0)
    except SystemExit as wanted:
        os._exit(int(wanted.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    _fork_lives()
