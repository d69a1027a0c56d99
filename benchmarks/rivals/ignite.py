"""PyTorch Ignite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, EarlyStopping, global_step_from_engine
from ignite.handlers.param_scheduler import LRScheduler
from ignite.metrics import Accuracy, Loss

from benchmarks.rivals import Rival
from benchmarks.task import Task, criterion


def dispatch(handlers: int, every: int | None) -> Callable[[int], None]:
    """Emit by `engine.fire_event`; handlers read the step and the loss off the engine's state."""
    engine = Engine(lambda engine, batch: None)
    event = Events.ITERATION_COMPLETED
    for _ in range(handlers):
        engine.add_event_handler(event if every is None else event(every=every), _handler())
    state = engine.state

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            state.iteration = step
            state.output = 0.5
            engine.fire_event(event)

    return emissions


def _handler() -> Callable[[Engine], None]:
    def handler(engine: Engine) -> None:
        _ = engine.state.iteration, engine.state.output

    return handler


def whole_run(task: Task, folder: Path) -> int:
    """Train with Ignite's engines and handlers."""
    model = task.model()
    optimizer, scheduler = task.optimizer(model)
    train, validation = task.loaders()
    evaluator = _evaluator(model)

    def step(engine: Engine, batch: Any) -> Any:
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    trainer = Engine(step)
    log = task.open_log(folder)

    @trainer.on(Events.ITERATION_COMPLETED(every=task.log_every))
    def write(engine: Engine) -> None:
        state = engine.state
        log.row(state.epoch, state.iteration, state.output.item())

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        model.eval()
        evaluator.run(validation)
        model.train()

    trainer.add_event_handler(Events.EPOCH_STARTED, LRScheduler(scheduler))
    _attach_savers(trainer, evaluator, {"model": model, "optimizer": optimizer}, folder)
    stopping = EarlyStopping(task.patience, _score, trainer)
    evaluator.add_event_handler(Events.COMPLETED, stopping)
    trainer.run(train, max_epochs=task.epochs)
    log.close()
    return int(trainer.state.iteration)


def _evaluator(model: Any) -> Engine:
    def step(engine: Engine, batch: Any) -> Any:
        with torch.no_grad():
            return model(batch[0]), batch[1]

    evaluator = Engine(step)
    Loss(criterion).attach(evaluator, "loss")
    Accuracy().attach(evaluator, "accuracy")
    return evaluator


def _attach_savers(trainer: Engine, evaluator: Engine, parts: dict[str, Any], folder: Path) -> None:
    parts = {**parts, "trainer": trainer}
    step_of = global_step_from_engine(trainer)

    def saver(kind: str, **options: Any) -> Checkpoint:
        disk = DiskSaver(str(folder / kind), require_empty=False)
        return Checkpoint(parts, disk, n_saved=1, global_step_transform=step_of, **options)

    best = saver("best", score_function=_score, score_name="loss")
    evaluator.add_event_handler(Events.COMPLETED, saver("last"))
    evaluator.add_event_handler(Events.COMPLETED, best)


def _score(engine: Engine) -> float:
    return -float(engine.state.metrics["loss"])


RIVAL = Rival(
    "Ignite",
    "ignite.engine",
    "pytorch-ignite",
    "handlers read step and loss off the engine, which the loop sets; the run's rows are written by"
    " a handler of three lines, as Ignite has no CSV log",
    dispatch,
    whole_run,
)
