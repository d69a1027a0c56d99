"""`fit`: the ready supervised loop. An example to copy, not a trainer to inherit from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from eventbus import EventBus
from eventbus.loops._nested import moved
from eventbus.loops.run import Run

__all__ = ["fit"]


def fit(
    bus: EventBus,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    train_loader: Iterable[Any],
    validation_loader: Iterable[Any] | None = None,
    epochs: int,
    scheduler: Any = None,
    metrics: Mapping[str, Any] | None = None,
    device: torch.device | str = "auto",
    accumulate: int = 1,
) -> Run:
    """Train `model` on batches of `(inputs, targets)`; return the Run.

    Reports `loss`, `val_loss`, and `val_<name>` for each of `metrics`.

    Parameters
    ----------
    bus
        What is attached to it sees, changes, saves and stops the training.
    model, optimizer
        The model is moved to `device`; the optimizer was made from its parameters.
    loss_fn
        Of `(outputs, targets)`; a scalar tensor, the mean over the batch. Targets may be class
        probabilities, as mixup makes them, where it takes them (`nn.CrossEntropyLoss` does).
    train_loader, validation_loader
        Inputs and targets may be nested: tuples, lists, dicts of tensors.
    epochs
        In all, those of a checkpoint included.
    scheduler
        Stepped once at the end of each epoch that was not interrupted; `ReduceLROnPlateau` with
        `val_loss`.
    metrics
        By name: callables of `(outputs, targets)` that return a scalar, averaged by batch size, or
        objects with `update(outputs, targets)`, `compute()` and `reset()`, as in torchmetrics.
    device
        "auto" is CUDA where there is a device, else the CPU.
    accumulate
        Micro-batches per optimizer step; the loss of each is divided by it.

    Examples
    --------
    >>> import torch
    >>> from eventbus import EventBus
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def show(epoch, metrics): print(epoch, sorted(metrics))
    >>> model = torch.nn.Linear(2, 2)
    >>> data = [(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))]
    >>> run = fit(
    ...     bus, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...     loss_fn=torch.nn.functional.cross_entropy, train_loader=data, validation_loader=data,
    ...     epochs=1, metrics={"accuracy": lambda out, y: (out.argmax(1) == y).float().mean()},
    ... )
    1 ['loss', 'val_accuracy', 'val_loss']
    >>> run.outcome
    'completed'
    """
    _check(scheduler, validation_loader, metrics)
    place = _chosen(device)
    model.to(place)
    with Run(bus, model=model, optimizer=optimizer, scheduler=scheduler) as run:
        for _ in run.epochs(epochs):
            model.train()
            optimizer.zero_grad()
            for batch in run.batches(train_loader, accumulate):
                inputs, targets = moved(batch, place)
                outputs = model(inputs)
                loss = loss_fn(outputs, targets)
                (loss / accumulate).backward()  # type: ignore[no-untyped-call]  # torch's
                if run.boundary:
                    if run.emit("backward_finished", loss=loss).skip is None:
                        optimizer.step()
                    optimizer.zero_grad()
                run.report(loss=loss, outputs=outputs, targets=targets)
            if validation_loader is not None:
                _validate(
                    run,
                    model=model,
                    loss_fn=loss_fn,
                    loader=validation_loader,
                    metrics=metrics or {},
                    place=place,
                )
            if scheduler is not None and not run.interrupted:
                scheduler.step(*_wanted_by(scheduler, run))
    return run


def _validate(
    run: Run,
    *,
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    loader: Iterable[Any],
    metrics: Mapping[str, Any],
    place: torch.device,
) -> None:
    kept = {name: metric for name, metric in metrics.items() if hasattr(metric, "compute")}
    for metric in kept.values():
        moved(metric, place).reset()
    model.eval()
    with run.validation(), torch.no_grad():
        for batch in run.validate(loader):
            inputs, targets = moved(batch, place)
            outputs = model(inputs)
            values = {"loss": loss_fn(outputs, targets)}
            for name, metric in metrics.items():
                if name in kept:
                    metric.update(outputs, targets)
                else:
                    values[name] = metric(outputs, targets)
            run.report(**values, outputs=outputs, targets=targets)
        if not run.interrupted:
            run.report(**{name: metric.compute() for name, metric in kept.items()})


def _wanted_by(scheduler: Any, run: Run) -> tuple[float, ...]:
    if isinstance(scheduler, ReduceLROnPlateau):
        return (run.metrics["val_loss"],)  # waits for the device, once an epoch
    return ()


def _check(scheduler: Any, validation_loader: Any, metrics: Any) -> None:
    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"fit: metrics= takes a dict, by name; got {metrics!r}")
    if scheduler is not None and not _is_scheduler(scheduler):
        raise TypeError(
            "fit: scheduler= takes a scheduler that is made already, StepLR(optimizer, 30); "
            f"got {scheduler!r}"
        )
    if isinstance(scheduler, ReduceLROnPlateau) and validation_loader is None:
        raise ValueError("ReduceLROnPlateau reads val_loss: give fit a validation_loader")


def _is_scheduler(given: Any) -> bool:
    return callable(getattr(given, "step", None)) and not isinstance(given, type)


def _chosen(device: torch.device | str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
