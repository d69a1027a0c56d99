"""Kill a training with SIGKILL at random moments, again and again; see that nothing is ever lost.

    python benchmarks/kill_test.py --kills 1000

Each life is a process of its own that trains with `Checkpoint(resume="auto")`. After each kill the
newest checkpoint must verify, and hold the very weights that a training that was never cut has
after that epoch; so must a training that comes to its end. Every other training saves beside the
loop. What is printed at the end is expected to be 0 unreadable and 0 wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._checkpoint_loading import CheckpointError, load_checkpoint
from eventbus.handlers._files import Files
from eventbus.loops import Run

EPOCHS, BATCHES, WIDTH = 40, 3, 64
LONGEST_LIFE_S = 0.4
SIGNALS = {signal.SIGALRM, signal.SIGCHLD}


@dataclass
class Tally:
    """What was seen; the last two are to be 0."""

    kills: int = 0
    resumes: int = 0
    finished: int = 0
    unreadable: int = 0
    wrong: int = 0

    def __str__(self) -> str:
        return (
            f"kills {self.kills}, resumes {self.resumes}, trainings finished {self.finished}, "
            f"unreadable newest {self.unreadable}, wrong weights {self.wrong}"
        )


def train(bus: EventBus, after_epoch: Callable[[int, torch.Tensor], object]) -> None:
    """Train a layer with momentum and dropout, so that all of the state matters."""
    torch.manual_seed(0)
    model = torch.nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with Run(bus, model=model, optimizer=optimizer) as run:
        for epoch in run.epochs(EPOCHS):
            for _batch in run.batches(range(BATCHES)):
                inputs = torch.nn.functional.dropout(torch.randn(8, WIDTH))
                loss = model(inputs).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.report(loss=loss)
            after_epoch(epoch, model.weight.detach())


def reference(directory: Path) -> dict[int, torch.Tensor]:
    """Return the weights after each epoch of a training that is never cut."""
    weights: dict[int, torch.Tensor] = {}
    bus = EventBus()
    bus.attach(Checkpoint(directory, best=None))  # imports what is imported late, for all lives
    train(bus, lambda epoch, weight: weights.update({epoch: weight.clone()}))
    return weights


def live(directory: Path, asynchronous: bool, told: int) -> None:
    """Train in this process, telling `told` a byte when it goes on from a checkpoint."""
    bus = EventBus()
    bus.attach(Checkpoint(directory, keep=2, best=None, resume="auto", asynchronous=asynchronous))
    bus.on("state_restored")(lambda state: os.write(told, b"r") and None)
    train(bus, lambda epoch, weight: None)


def one_life(directory: Path, asynchronous: bool, longest_s: float) -> tuple[int, bool]:
    """Fork a life and kill it after a random time; return its exit code and if it was resumed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            live(directory, asynchronous, write)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, longest_s))
    signal.sigwait(SIGNALS)
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.kill(child, signal.SIGKILL)  # one that has ended is still there to be waited for
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    while signal.sigtimedwait(SIGNALS, 0):
        pass  # what its end has left pending must not end the next life at its start
    resumed = bool(os.read(read, 1))
    os.close(read)
    return code, resumed


def look(directory: Path, weights: dict[int, torch.Tensor], tally: Tally) -> None:
    """Load the newest checkpoint, by itself, and compare it."""
    there = Folder(directory, Files()).numbered()
    if not there:
        return
    try:
        state = load_checkpoint(there[-1][1], Files())
    except CheckpointError as error:
        tally.unreadable += 1
        print(error, file=sys.stderr)
        return
    epoch = state["loop"]["epoch"]
    if not torch.equal(state["model"]["weight"], weights[epoch]):
        tally.wrong += 1
        print(f"wrong weights after epoch {epoch} in {there[-1][1]}", file=sys.stderr)


def kill_test(kills: int, folder: Path, seed: int = 0, longest_s: float = LONGEST_LIFE_S) -> Tally:
    """Kill so many lives; a training that ends is followed by a fresh one.

    Lives are forked from this process, which must have no other threads.
    """
    random.seed(seed)
    weights = reference(folder / "reference")
    tally, training = Tally(), 0
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    while tally.kills < kills:
        directory = folder / str(training)
        code, resumed = one_life(directory, training % 2 == 1, longest_s)
        tally.resumes += resumed
        look(directory, weights, tally)
        if code == -signal.SIGKILL:
            tally.kills += 1
        elif code == 0:
            tally.finished += 1
            shutil.rmtree(directory)
            training += 1
        else:
            raise RuntimeError(f"a life ended with exit code {code}")
    return tally


def main() -> int:
    """Run it; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(description="Kill a training at random moments.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    logging.getLogger("eventbus").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_test(arguments.kills, Path(folder), arguments.seed)
    print(tally)
    return 1 if tally.unreadable or tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
