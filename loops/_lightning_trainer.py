"""What a Lightning Trainer says of a fit, and how it is told what a run has behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer

__all__ = ["context", "count_on", "is_at_end", "limits", "more_state"]


def context(trainer: Trainer, module: LightningModule, config: Any) -> dict[str, Any]:
    """Return what handlers of the fit may name."""
    optimizers = trainer.optimizers
    schedulers = [one.scheduler for one in trainer.lr_scheduler_configs]
    named = {str(place): one for place, one in enumerate(optimizers)}
    return {
        "model": module,
        "config": config if config is not None else dict(module.hparams) or None,
        "scheduler": schedulers[0] if len(schedulers) == 1 else None,
        **({"optimizers": named} if len(optimizers) > 1 else {"optimizer": optimizers[0]}),
    }


def more_state(trainer: Trainer) -> dict[str, Any]:
    """Return what belongs into checkpoints besides the context: by key, as `Run` takes it."""
    schedulers = [one.scheduler for one in trainer.lr_scheduler_configs]
    several = len(schedulers) > 1  # a single one is in the context
    named = {f"lr_scheduler_{place}": one for place, one in enumerate(schedulers) if several}
    precision = trainer.precision_plugin
    return {**named, **({"precision": precision} if precision.state_dict() else {})}


def limits(trainer: Trainer) -> dict[str, int | None]:
    """Return how long the fit will be, in epochs and steps; None where that is open."""
    given = {"epochs": trainer.max_epochs, "steps": trainer.max_steps}
    return {key: None if one == -1 else one for key, one in given.items()}


def count_on(trainer: Trainer, *, epochs: int, steps: int) -> None:
    """Have it count on from so many epochs and optimizer steps."""
    loop = trainer.fit_loop
    loop.epoch_progress.increment_by(epochs)
    progress = loop.epoch_loop.manual_optimization.optim_step_progress
    if trainer.lightning_module.automatic_optimization:
        progress = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    progress.increment_by(steps)


def is_at_end(trainer: Trainer) -> bool:
    """Tell whether the batch under way is the last one of the epoch."""
    loop = trainer.fit_loop.epoch_loop
    return loop.batch_progress.is_last_batch or loop.batch_idx + 1 >= trainer.num_training_batches
