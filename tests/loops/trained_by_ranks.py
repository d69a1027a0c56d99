"""Trainings by several ranks over gloo, in processes that this one forks.

Run as a script this is a process that has imported torch and nothing else: for each line on its
standard input it forks the ranks of one training, which meet over a file, waits until all of them
are gone, and tells their exit codes on its standard output. What a rank saw is in its report. A
rank that hangs writes its stack to its log and leaves with the code `HUNG`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from eventbus import Event, EventBus, SkipBatch, Stop, StopEpoch, every
from eventbus.handlers import (
    Checkpoint,
    ConsoleLog,
    CSVLog,
    History,
    JSONLLog,
    Plot,
    Preemption,
    ProgressBar,
    TensorBoard,
)
from eventbus.loops import ResumableSampler, Run

HUNG = 1  # as `faulthandler` leaves
PATIENCE_S = 60
"""So long the ranks of one training may take; on two busy cores one takes a second."""


@dataclass(frozen=True)
class Deed:
    """What a handler on one rank does at a signal: it answers, fails, or ends its process."""

    rank: int
    deed: str
    on: str = "batch_finished"
    step: int = 3
    sender: str | None = None


@dataclass(frozen=True)
class Plan:
    """A training.

    Attributes
    ----------
    batches
        Of each rank, in an epoch; a loader has a length if `sized`.
    sampler
        "" for batches by hand, else "resumable" or "distributed".
    validates
        The ranks that validate at the end of each epoch; `in_body`: after each report instead.
    backward
        The loop emits `backward_finished`.
    inner
        The ranks that open a Run inside theirs after each epoch.
    saves, savers, every, asynchronous
        The signal on which a checkpoint is saved, in `folder`, none for ""; and how.
    observed
        Observers are made on all ranks, and attached on rank 0.
    wish, group_timeout_s
        How the Run goes with other ranks; over a group of its own where that has a timeout.
    second_save
        What befalls rank 0 as it writes the second checkpoint.
    """

    folder: str
    ranks: int = 2
    epochs: int = 2
    batches: tuple[int, ...] = (4, 4)
    sized: bool = True
    sampler: str = ""
    accumulate: int = 1
    validates: tuple[int, ...] = ()
    in_body: bool = False
    backward: bool = True
    inner: tuple[int, ...] = ()
    saves: str = ""
    savers: tuple[int, ...] = (0, 1)
    every: int = 1
    asynchronous: bool = False
    second_save: str = ""
    deeds: tuple[Deed, ...] = ()
    observed: bool = False
    wish: str = "agree"
    group_timeout_s: float | None = None


@dataclass
class Report:
    """What a rank saw."""

    outcome: str | None = None
    step: int = 0
    stop: list[str] | None = None
    told: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)
    resumed_at: int = 0
    inner: list[str] = field(default_factory=list)
    error: str = ""
    notes: list[str] = field(default_factory=list)


TOLD = (
    "epoch_started",
    "epoch_finished",
    "epoch_interrupted",
    "batch_skipped",
    "stop_requested",
    "checkpoint_saved",
    "validation_done",
    "run_failed",
)


class Training:
    """One rank's training."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.bus, self.report = EventBus(), Report()
        torch.manual_seed(7)
        layers = [torch.nn.Linear(3, 8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 1)]
        self.model = torch.nn.Sequential(*layers)
        self.ddp = DistributedDataParallel(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        torch.manual_seed(100 + rank)  # each rank has a dropout of its own
        random.seed(100 + rank)
        self.loader = self._loader() if plan.sampler else None

    def attach(self) -> None:
        self.bus.attach(Preemption())
        observers = self._observers() if self.plan.observed else []  # made on all ranks
        for observer in observers if self.rank == 0 else []:
            self.bus.attach(observer)
        if self.plan.saves and self.rank in self.plan.savers:
            self.bus.attach(self._saver())
        self.bus.on(*TOLD, priority=-10_000)(self._tell)
        for deed in self.plan.deeds:
            if deed.rank == self.rank:
                self.bus.on(deed.on, sender=deed.sender, priority=300, name=deed.deed)(
                    self._doing(deed)
                )

    def _observers(self) -> list[Any]:
        folder = Path(self.plan.folder) / str(self.rank)
        return [
            ConsoleLog(),
            CSVLog(folder / "epochs.csv"),
            History(),
            JSONLLog(folder / "log.jsonl"),
            Plot(folder / "curves.svg"),
            ProgressBar(),
            TensorBoard(folder / "events"),
        ]

    def _saver(self) -> Checkpoint:
        folder, when = Path(self.plan.folder) / "saved", every(self.plan.every)
        saver = Checkpoint(
            folder,
            on=self.plan.saves,
            when=when,
            best=None,
            resume="auto",
            asynchronous=self.plan.asynchronous,
        )
        if self.plan.second_save:
            befalls = DISKS[self.plan.second_save]
            saver.files.fsync = _first_then(saver.files.fsync, befalls)  # type: ignore[method-assign]
        return saver

    def _tell(self, event: Event) -> None:
        where = f"{event.name} {event.fields.get('step')}"
        reason = event.fields.get("reason")
        by = event.fields.get("handler")
        self.report.told.append(" ".join(filter(None, [where, reason, by and f"by {by}"])))

    def _doing(self, deed: Deed) -> Callable[..., Any]:
        done: list[bool] = []

        def do(event: Event) -> Any:
            step = event.fields.get("step", self.report.step)
            if done or step < deed.step:
                return None
            done.append(True)
            return DEEDS[deed.deed]()

        return do

    def train(self) -> None:
        plan = self.plan
        run = Run(self.bus, model=self.model, optimizer=self.optimizer, ranks=_wish_of(plan))
        try:
            with run:
                self.report.resumed_at = run.step
                for _ in run.epochs(plan.epochs):
                    self._epoch(run)
        finally:
            self.report.outcome, self.report.step = run.outcome, run.step
            if run.stop is not None:
                self.report.stop = [run.stop.reason, run.stop.by]
            weights = [each.flatten() for each in self.model.parameters()]
            self.report.weights = torch.cat(weights).tolist()
            self.report.draws = [random.random(), torch.rand(()).item()]

    def _epoch(self, run: Run) -> None:
        for batch in run.batches(self._data(), self.plan.accumulate):
            loss = self.ddp(batch).square().mean()
            loss.backward()
            if run.boundary:
                skip = run.emit("backward_finished", loss=loss).skip if self.plan.backward else None
                if skip is None:
                    self.optimizer.step()
                self.optimizer.zero_grad()
            run.report(loss=loss, draw=random.random())
            self.report.losses.append(loss.item())
            if self.plan.in_body:
                self._validate(run)
        if not self.plan.in_body:
            self._validate(run)
        if self.rank in self.plan.inner:
            with Run(self.bus, name="inner") as inner:
                for _ in inner.steps(4):
                    inner.report(loss=1.0)
            self.report.inner.append(f"{inner.outcome} after {inner.step}")

    def _validate(self, run: Run) -> None:
        if self.rank in self.plan.validates:
            for number in run.validate([1.0, 2.0]):
                run.report(loss=number)

    def _data(self) -> Any:
        if self.loader is not None:
            return self.loader
        generator = torch.Generator().manual_seed(3)
        batches = self.plan.batches[self.rank]
        made = [torch.randn(2, 3, generator=generator) for _ in range(batches)]
        return made if self.plan.sized else iter(made)

    def _loader(self) -> Any:
        count = 2 * self.plan.batches[self.rank] * self.plan.ranks
        samples: Any = torch.randn(count, 3, generator=torch.Generator().manual_seed(3))
        if self.plan.sampler == "stateful":
            own = samples[self.rank :: self.plan.ranks]
            return StatefulDataLoader(own, 2, shuffle=True)
        return DataLoader(samples, 2, sampler=self._sampler(samples))

    def _sampler(self, samples: Any) -> Any:
        if self.plan.sampler == "distributed":
            return DistributedSampler(samples, self.plan.ranks, self.rank, seed=5)
        return ResumableSampler(len(samples), seed=5, rank=self.rank, ranks=self.plan.ranks)


def _wish_of(plan: Plan) -> Any:
    if plan.group_timeout_s is None:
        return plan.wish
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=plan.group_timeout_s))


def _hang() -> None:
    signal.alarm(12)  # ends it
    signal.pause()


def _raise() -> None:
    raise ValueError("a bad step")


def _first_then(fsync: Callable[..., Any], befalls: Callable[[], Any]) -> Callable[..., Any]:
    calls: list[Any] = []

    def sync(file: Any) -> Any:
        calls.append(file)
        if len(calls) > 3:  # state, manifest and `latest` of the first save
            befalls()
        return fsync(file)

    return sync


def _fill_the_disk() -> None:
    raise OSError(28, "No space left on device")


DISKS: dict[str, Callable[[], Any]] = {
    "full disk": _fill_the_disk,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


DEEDS: dict[str, Callable[[], Any]] = {
    "stop": lambda: Stop("enough", exit_code=7),
    "stop epoch": lambda: StopEpoch("enough of it"),
    "skip": lambda: SkipBatch("an odd batch"),
    "raise": _raise,
    "hang": _hang,
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
}


# -- the processes


def train(plan: Plan, rank: int) -> None:
    """Train as one rank, and leave the report."""
    dist.init_process_group(
        "gloo", init_method=f"file://{plan.folder}/meeting", rank=rank, world_size=plan.ranks
    )
    training = Training(plan, rank)
    try:
        training.attach()
        training.train()
    except Exception as error:
        training.report.error = f"{type(error).__name__}: {error}"
        training.report.notes = list(getattr(error, "__notes__", ()))
        raise
    finally:
        path = Path(plan.folder) / f"report-{rank}.json"
        path.write_text(json.dumps(asdict(training.report)))


def _live(plan: Plan, rank: int) -> None:
    log = os.open(f"{plan.folder}/log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=sys.stderr)
    train(plan, rank)


def _fork(plan: Plan, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _live(plan, rank)
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _fork_trainings() -> None:
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    # A shell that starts the tests in its background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import_module("torch._dynamo")  # which DDP imports at its first step, for seconds
    for line in sys.stdin:
        plan = json.loads(line)
        plan["deeds"] = tuple(Deed(**deed) for deed in plan["deeds"])
        told = Plan(**plan)
        children = [_fork(told, rank) for rank in range(told.ranks)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


# -- in the test


@dataclass
class Trained:
    """What came of a training: exit codes and reports, by rank."""

    codes: list[int]
    reports: list[Report]
    logs: str

    def told(self, rank: int, *names: str) -> list[str]:
        """Return what a rank was told of the signals of these names."""
        return [line for line in self.reports[rank].told if line.split()[0] in names]


class Barracks:
    """Has trainings done by ranks that are forked from a fresh process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def train(self, folder: Path, **plan: Any) -> Trained:
        """Train to the end, whatever that is."""
        folder.mkdir(exist_ok=True)
        for left in [folder / "meeting", *folder.glob("report-*.json")]:
            left.unlink(missing_ok=True)
        told = Plan(str(folder), **plan)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(told)) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        logs = "".join(path.read_text() for path in sorted(folder.glob("log-*.txt")))
        reports = [_report(folder / f"report-{rank}.json") for rank in range(told.ranks)]
        return Trained(codes, reports, logs)


def _report(path: Path) -> Report:
    return Report(**json.loads(path.read_text())) if path.exists() else Report()


@contextmanager
def barracks() -> Iterator[Barracks]:
    """Start the process that forks ranks."""
    command, pipe = [sys.executable, __file__], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield Barracks(process)
        assert process.stdin is not None
        process.stdin.close()


if __name__ == "__main__":
    _fork_trainings()
