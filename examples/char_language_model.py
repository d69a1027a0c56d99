"""A language model by steps, in the manner of nanoGPT: `train` is the loop, all else is handlers.

Learning rate, clipping, console, CSV, best checkpoint, resuming and sampling are on the bus.
Run it with: python examples/char_language_model.py [--steps 300] [--resume] [--count-loop-lines]
"""

from __future__ import annotations

import argparse
import inspect
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tiny_gpt import TinyGPT, crops, texts
from torch.optim.lr_scheduler import CosineAnnealingLR

from eventbus import EventBus, every
from eventbus.handlers import Checkpoint, ConsoleLog, CSVLog, GradientClipping, LRSchedule
from eventbus.loops import Run

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16 if DEVICE == "cuda" else torch.bfloat16


def train(bus: EventBus, model: TinyGPT, options: argparse.Namespace) -> Run:
    """Train with gradient accumulation and mixed precision; validate every so many steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    scaler = torch.amp.GradScaler(DEVICE, enabled=DTYPE is torch.float16)
    training, held_out = texts()
    batches = crops(training, options.batch_size, DEVICE)
    fixed = torch.Generator().manual_seed(1)
    validation = list(islice(crops(held_out, 32, DEVICE, fixed), 4))
    with Run(bus, model=model, optimizer=optimizer, state={"scaler": scaler}) as run:
        for step in run.steps(options.steps):
            mean_loss = torch.zeros((), device=DEVICE)
            for tokens, targets in islice(batches, options.accumulate):
                with torch.autocast(DEVICE, DTYPE):
                    loss = model(tokens, targets) / options.accumulate
                scaler.scale(loss).backward()
                mean_loss += loss.detach()
            scaler.unscale_(optimizer)
            if not run.emit("backward_finished", loss=mean_loss).skip:
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            run.report(loss=mean_loss, batch_size=options.batch_size * options.accumulate)
            if step % options.validate_every == 0:
                model.eval()
                with torch.no_grad(), torch.autocast(DEVICE, DTYPE):
                    for tokens, targets in run.validate(validation):
                        run.report(loss=model(tokens, targets))
                model.train()
    return run


def attach_handlers(bus: EventBus, options: argparse.Namespace) -> Checkpoint:
    """Attach all that happens besides the training; return the one that knows the best weights."""
    folder: Path = options.run_dir
    decay = partial(CosineAnnealingLR, T_max=options.decay_steps, eta_min=3e-4)
    checkpoint = Checkpoint(
        folder / "checkpoints",
        on="validation_done",
        best="val_loss",
        keep=1,
        resume="auto" if options.resume else "never",
    )
    bus.attach(checkpoint)
    bus.attach(ConsoleLog(when=every(50)))
    rows = {"batch_finished": every(10), "validation_done": None}
    bus.attach(CSVLog(folder / "log.csv", on=rows))
    bus.attach(GradientClipping(max_norm=1.0))
    bus.attach(LRSchedule(decay, per="step", warmup_steps=options.warmup_steps))

    @bus.on("run_finished")
    def write_sample(model: TinyGPT) -> None:
        print("\n" + model.sample("The ", 200) + "\n")

    return checkpoint


def loop_lines() -> int:
    """Count the lines of the loop: in `train`, from `with Run` to the last one inside of it."""
    lines = inspect.getsource(train).splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("    with Run("))
    return sum(line.startswith("        ") for line in lines[begin:]) + 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes: dict[str, Any] = {
        "steps": 300,
        "warmup-steps": 20,
        "decay-steps": 280,
        "validate-every": 100,
        "accumulate": 2,
        "batch-size": 8,
    }
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/char_language_model"))
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--count-loop-lines", action="store_true", help="say how long the loop is")
    return parser.parse_args()


def main() -> None:
    """Train, and say where the best weights are."""
    options = parse()
    if options.count_loop_lines:
        print(loop_lines())
        return
    torch.manual_seed(0)
    bus = EventBus()
    checkpoint = attach_handlers(bus, options)
    run = train(bus, TinyGPT().to(DEVICE), options)
    print(f"{run.outcome} after {run.step} steps; the best weights: {checkpoint.best_path}")


if __name__ == "__main__":
    main()
