"""The loop of `by_hand.py` with `Run`: the same handlers on the same data, and the same losses.

Run counts, opens and closes what the hand-written loop emits itself; `train` is all that differs.
Run it with: python examples/with_run.py [--epochs 20] [--run-dir runs/with_run]
"""

from __future__ import annotations

import torch
from by_hand import Batches, disc, make_bus, parse
from torch import nn
from torch.nn.functional import cross_entropy

from eventbus import EventBus
from eventbus.loops import Run


def train(bus: EventBus, model: nn.Module, data: Batches, epochs: int) -> None:
    """Train the model; Run emits what happens, and ends when a handler asks for it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with Run(bus, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(epochs):
            for points, labels in run.batches(data):
                loss = cross_entropy(model(points), labels)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
                optimizer.zero_grad()
                run.report(loss=loss)


def main() -> None:
    """Train with the loop above."""
    options = parse("with_run", __doc__)
    train(make_bus(options.run_dir), *disc(), epochs=options.epochs)


if __name__ == "__main__":
    main()
