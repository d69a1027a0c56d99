"""The task by hand, with `Run` and an Accelerator."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy

from eventbus import EventBus
from eventbus.loops import Run
from eventbus.loops.accelerate import accumulate

from .task import Task, Trained

NAME = "Accelerate"
OWN_STATE = "`Checkpoint` is its own, as in any loop by hand"


def train(bus: EventBus, task: Task) -> Trained:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=task.accumulate)
    bare = task.model()
    model, optimizer, train_loader, validation_loader = accelerator.prepare(
        bare, task.optimizer(bare), task.train_loader, task.validation_loader
    )
    with Run(bus, model=accelerator.unwrap_model(model), optimizer=optimizer) as run:
        for _ in run.epochs(task.epochs):
            model.train()
            for inputs, targets in run.batches(train_loader, task.accumulate):
                with accumulate(run, accelerator, model):
                    loss = cross_entropy(model(inputs), targets)
                    accelerator.backward(loss)
                    skip = run.boundary and run.emit("backward_finished", loss=loss).skip
                    if not skip:
                        optimizer.step()
                    optimizer.zero_grad()
                run.report(loss=loss)
            if task.validates:
                model.eval()
                with torch.no_grad():
                    for inputs, targets in run.validate(validation_loader):
                        run.report(loss=cross_entropy(model(inputs), targets))
    return Trained.of(bare)
