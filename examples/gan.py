"""A GAN on eight spots of a ring: two models and two optimizers in one run, which is one bus.

Handlers name `models` and pick theirs; the generator is looked at every 500 steps, by a handler.
Run it with: python examples/gan.py [--steps 1500] [--run-dir runs/gan]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from eventbus import EventBus, every
from eventbus.handlers import CSVLog
from eventbus.loops import Run

BATCH, NOISE, SPOTS, WIDTH = 128, 8, 8, 0.2


def train(bus: EventBus, steps: int) -> None:
    """Train both; a step is one of the discriminator and one of the generator."""
    generator, discriminator = network(NOISE, 2), network(2, 1)
    optimizers = {
        "generator": torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.99)),
        "discriminator": torch.optim.Adam(discriminator.parameters(), lr=3e-3, betas=(0.0, 0.99)),
    }
    models = {"generator": generator, "discriminator": discriminator}
    with Run(bus, models=models, optimizers=optimizers) as run:
        for _ in run.steps(steps):
            fakes = generator(torch.randn(BATCH, NOISE))
            scores = discriminator(torch.cat([ring(), fakes.detach()])).squeeze(1)
            loss_d = binary_cross_entropy_with_logits(scores, REAL_THEN_FAKE)
            update(optimizers["discriminator"], loss_d)
            loss_g = softplus(-discriminator(fakes)).mean()
            update(optimizers["generator"], loss_g)
            run.report(loss_generator=loss_g, loss_discriminator=loss_d, batch_size=BATCH)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step of one optimizer; what the loss leaves in the other's gradients is dropped."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's
    optimizer.step()


def network(inputs: int, outputs: int) -> nn.Module:
    """Make either of the two."""
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


ANGLES = torch.arange(SPOTS) * (2 * math.pi / SPOTS)
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1) * 2
REAL_THEN_FAKE = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)])


def ring() -> Tensor:
    """Draw real points, `(BATCH, 2)`: a normal distribution around each of the spots."""
    return CENTRES[torch.randint(SPOTS, (BATCH,))] + WIDTH * torch.randn(BATCH, 2)


def watch(bus: EventBus) -> None:
    """Attach what looks at the generator, and what prints its findings."""
    # Drawn once: a handler that drew anew would use up random numbers of the loop.
    noise = torch.randn(1000, NOISE, generator=torch.Generator().manual_seed(1))

    @bus.on("run_started")
    @bus.on("batch_finished", when=every(500))
    def look(models: Mapping[str, nn.Module], bus: EventBus) -> None:
        with torch.no_grad():
            distances = torch.cdist(models["generator"](noise), CENTRES)
        nearest = distances.min(dim=1)
        hits = nearest.indices[nearest.values < 2 * WIDTH].bincount(minlength=SPOTS)
        found = {"spots": (hits > 20).sum(), "distance": nearest.values.mean()}
        bus.emit("metrics_measured", metrics=found)

    @bus.on("metrics_measured")
    def show(metrics: Mapping[str, float], step: int = 0) -> None:
        spots, distance = metrics["spots"], metrics["distance"]
        print(f"step {step:4}: {spots} of {SPOTS} spots; to the nearest: {distance:.2f}")


def main() -> None:
    """Train, and say how many of the spots the generator has found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/gan"))
    options = parser.parse_args()
    torch.manual_seed(0)
    bus = EventBus()
    watch(bus)
    log = CSVLog(options.run_dir / "log.csv", on={"batch_finished": every(50)})
    with bus.attach(log):
        train(bus, options.steps)


if __name__ == "__main__":
    main()
