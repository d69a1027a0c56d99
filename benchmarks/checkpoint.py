"""How long a training waits for its checkpoints, against `torch.save` of the same state.

    python benchmarks/checkpoint.py --megabytes 500 --device cpu

Each row is a save of a model and nothing else, in one process and on one disk, taken in turns. What
counts is the time from the emission until the loop goes on; the asynchronous save is given the time
to end before the next, as an epoch of training would. The goal is 10 % of `torch.save` or less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from eventbus import EventBus, State
from eventbus.handlers import Checkpoint

LAYERS = 20


def model_of(megabytes: int, device: str) -> torch.nn.Module:
    """Return layers of 4-byte weights, so many megabytes (10^6 bytes) in all."""
    width = int((megabytes * 1e6 / 4 / LAYERS) ** 0.5)
    layers = [torch.nn.Linear(width, width, bias=False) for _ in range(LAYERS)]
    return torch.nn.Sequential(*layers).to(device)


def saver(folder: Path, model: torch.nn.Module, *, asynchronous: bool) -> Callable[[], float]:
    """Return what saves once by a handler, and tells for how many seconds the loop was blocked."""
    bus = EventBus()
    bus.attach(Checkpoint(folder, keep=1, best=None, asynchronous=asynchronous))
    bus.on("state_requested")(lambda: State("model", model.state_dict()))
    told: list[str] = []
    bus.on("checkpoint_saved")(lambda path: told.append(path))
    loop = bus.bind(sender="benchmark")

    def save() -> float:
        before = len(told)
        duration_s = timed(lambda: loop.emit("epoch_finished", epoch=1, step=1, metrics={}))
        while len(told) == before:
            time.sleep(0.01)
            loop.emit("batch_finished", epoch=1, step=1)
        return duration_s

    return save


def plain(folder: Path, model: torch.nn.Module) -> Callable[[], float]:
    """Return what saves once by `torch.save`, as people do."""
    folder.mkdir()
    return lambda: timed(lambda: torch.save({"model": model.state_dict()}, folder / "model.pt"))


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds `work` took, what it had queued on a device before left out."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        torch.cuda.synchronize()
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def main() -> int:
    """Measure, print a line for each way; return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description="Time that a loop is blocked by a save.")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="on the disk to measure", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = model_of(arguments.megabytes, arguments.device)
        ways = {
            "torch.save": plain(Path(folder, "plain"), model),
            "Checkpoint": saver(Path(folder, "waits"), model, asynchronous=False),
            "Checkpoint(asynchronous=True)": saver(
                Path(folder, "beside"), model, asynchronous=True
            ),
        }
        blocked: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(arguments.repeats + 1):
            for name, save in ways.items():
                duration_s = save()
                if repeat:  # the first makes buffers and imports; it is told apart
                    blocked[name].append(duration_s)
                else:
                    print(f"{name:32} first  {duration_s * 1e3:9.1f} ms")
    base_s = statistics.median(blocked["torch.save"])
    for name, durations in blocked.items():
        median_s = statistics.median(durations)
        print(f"{name:32} median {median_s * 1e3:9.1f} ms  {median_s / base_s:7.1%} of torch.save")
    return 0 if statistics.median(blocked["Checkpoint(asynchronous=True)"]) <= base_s / 10 else 1


if __name__ == "__main__":
    sys.exit(main())
