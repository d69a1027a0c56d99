"""Accelerate: gradient accumulation as a `Run` counts it, on an `Accelerator`.

A loop with an Accelerator stays a loop by hand: it has its `Run`, prepares what it trains, and
calls `accelerator.backward(loss)`. Nothing of that needs an adapter but the one thing that both
count, which is where `accumulate` makes them agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

    from eventbus.loops.run import Run

__all__ = ["accumulate"]


@contextmanager
def accumulate(run: Run, accelerator: Accelerator, *models: Any) -> Iterator[None]:
    """Hold the gradients of micro-batches back until the `Run` is at the boundary of a step.

    In the place of `accelerator.accumulate(model)`, which counts by itself: a `SkipBatch` moves
    the boundary, and Accelerate would not know. Inside it, the prepared optimizer and scheduler
    step only at the boundary, as they do in Accelerate's own.

    Parameters
    ----------
    run
        Whose `run.batches(loader, accumulate=n)` is under way.
    accelerator
        Made with `gradient_accumulation_steps=n`: its `backward` divides the loss by that.
    models
        Whose gradients wait for the boundary before ranks exchange them.

    Raises
    ------
    ValueError
        The Accelerator divides the loss by another number than the Run accumulates.

    Examples
    --------
    >>> import torch
    >>> from accelerate import Accelerator
    >>> from eventbus import EventBus
    >>> from eventbus.loops import Run
    >>> from eventbus.loops.accelerate import accumulate
    >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    >>> model = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> loader = torch.utils.data.DataLoader(torch.ones(4, 1))
    >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    >>> with Run(EventBus(), model=model, optimizer=optimizer) as run:
    ...     for epoch in run.epochs(1):
    ...         for batch in run.batches(loader, accumulate=2):
    ...             with accumulate(run, accelerator, model):
    ...                 loss = model(batch).mean()
    ...                 accelerator.backward(loss)
    ...                 optimizer.step()
    ...                 optimizer.zero_grad()
    ...             run.report(loss=loss)
    >>> run.step
    2
    """
    ours, theirs = run.accumulate, accelerator.gradient_accumulation_steps
    if ours != theirs:
        raise ValueError(
            f"run.batches(loader, accumulate={ours}) with "
            f"Accelerator(gradient_accumulation_steps={theirs}): give both the same number"
        )
    accelerator.sync_gradients = run.boundary
    with ExitStack() as held_back:
        if not run.boundary:
            for model in models:
                held_back.enter_context(accelerator.no_sync(model))
        yield
