"""A loop that is all yours: it binds an emitter, says what happens, and looks at the answers.

`with_run.py` is the same with `Run`, which also skips, resumes and closes whatever is raised.
Run it with: python examples/by_hand.py [--epochs 20] [--run-dir runs/by_hand]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from eventbus import EventBus, Stop
from eventbus.handlers import ConsoleLog, CSVLog

Batches = Iterable[tuple[Tensor, Tensor]]


def train(bus: EventBus, model: nn.Module, data: Batches, epochs: int) -> None:
    """Train the model; emit what happens, and end when a handler asks for it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loop = bus.bind(sender="train", model=model, optimizer=optimizer)
    epoch, step, means, outcome = 0, 0, {}, "failed"
    loop.emit("run_opened")
    try:
        loop.emit("run_started", epochs=epochs)
        for epoch in range(1, epochs + 1):
            loop.emit("epoch_started", epoch=epoch, step=step)
            losses = []
            for points, labels in data:
                loop.emit("batch_started", epoch=epoch, step=step + 1)
                loss = cross_entropy(model(points), labels)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                losses.append(loss.detach())
                told = {"loss": losses[-1], "metrics": {"loss": losses[-1]}}
                if loop.emit("batch_finished", epoch=epoch, step=step, **told).stop:
                    break
            means = {"loss": torch.stack(losses).mean()}
            ended = {"epoch": epoch, "step": step, "metrics": means}
            if stop := loop.answers.stop:
                loop.emit("epoch_interrupted", reason=stop.reason, **ended)
                break
            if loop.emit("epoch_finished", complete=True, **ended).stop:
                break
        stop = loop.answers.stop
        outcome = "stopped" if stop else "completed"
        reason = stop.reason if stop else outcome
        loop.emit("run_finished", reason=reason, epoch=epoch, step=step, metrics=means)
    finally:
        loop.emit("run_closed", outcome=outcome)


def make_bus(folder: Path) -> EventBus:
    """Attach the handlers; they fit both loops, this one and that of `with_run.py`."""
    bus = EventBus()
    bus.attach(ConsoleLog())
    bus.attach(CSVLog(folder / "losses.csv", on="batch_finished"))

    @bus.on("epoch_finished")
    def good_enough(metrics: Mapping[str, float]) -> Stop | None:
        return Stop("the loss is below 0.1") if metrics["loss"] < 0.1 else None

    return bus


def disc() -> tuple[nn.Module, Batches]:
    """Make a small network, and points with labels that say whether they lie within a disc."""
    torch.manual_seed(0)
    points = torch.randn(512, 2)
    labels = (points.norm(dim=1) < 1).long()
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    return model, DataLoader(TensorDataset(points, labels), batch_size=64, shuffle=True)


def parse(name: str, description: str | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--run-dir", type=Path, default=Path("runs") / name)
    return parser.parse_args()


def main() -> None:
    """Train with the loop above."""
    options = parse("by_hand", __doc__)
    train(make_bus(options.run_dir), *disc(), epochs=options.epochs)


if __name__ == "__main__":
    main()
