"""Two processes train together with DDP: the same handlers, stopped, saved and resumed together.

Run it with: python examples/ddp_digits.py [--epochs 20] [--run-dir runs/ddp_digits]
or, on several ranks, with: torchrun --standalone --nproc-per-node=2 examples/ddp_digits.py
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from digits import digits, reader
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from eventbus import EventBus
from eventbus.handlers import Checkpoint, ConsoleLog, EarlyStopping, Preemption
from eventbus.loops import ResumableSampler, Run


def make_bus(folder: Path) -> EventBus:
    """Attach the same on every rank: what observes keeps to rank 0 by itself."""
    bus = EventBus()
    bus.attach(EarlyStopping("val_loss", patience=3))
    bus.attach(Preemption())
    bus.attach(Checkpoint(folder / "checkpoints", best="val_loss", resume="auto"))
    bus.attach(ConsoleLog())
    return bus


def train(bus: EventBus, epochs: int, rank: int, ranks: int) -> None:
    """Train on this rank's share of the data; every rank validates on all of it."""
    training, validation = digits()
    torch.manual_seed(0)
    bare = reader()
    model = DistributedDataParallel(bare) if ranks > 1 else bare
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
    torch.manual_seed(rank)  # each rank draws its own dropout; a checkpoint brings back each rank's
    share = ResumableSampler(training, rank=rank, ranks=ranks)
    loader = DataLoader(training, 32, sampler=share)
    with Run(bus, model=bare, optimizer=optimizer) as run:  # bare: saved for any number of ranks
        for _ in run.epochs(epochs):
            model.train()
            for scans, targets in run.batches(loader):
                loss = cross_entropy(model(scans), targets)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                if run.emit("backward_finished", loss=loss).skip is None:
                    optimizer.step()
                optimizer.zero_grad()
                run.report(loss=loss)
            bare.eval()
            for scans, targets in run.validate(DataLoader(validation, 256)):
                with torch.no_grad():
                    outputs = bare(scans)
                right = (outputs.argmax(1) == targets).float().mean()
                run.report(loss=cross_entropy(outputs, targets), accuracy=right)


def main() -> None:
    """Train alone, or as one of the ranks that torchrun has started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/ddp_digits"))
    options = parser.parse_args()
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("gloo")
    train(make_bus(options.run_dir), options.epochs, rank, ranks)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
