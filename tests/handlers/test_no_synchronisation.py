"""Nobody waits for the device between the steps at which a handler is due.

Every handler in the package is found by itself. Weights, gradients, batches, losses and what a body
reports are tensors that fail the test when somebody reads them, from the first batch of an epoch to
the last one of its validation; on a CUDA device it is torch itself that fails.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import (
    EventBus,
    Priority,
    Stop,
    at,
    at_most_every,
    every,
    from_,
    handles,
    on_rank,
    until,
)
from eventbus.handlers import GradientClipping
from eventbus.loops import Run
from eventbus.testing import FakeClock

from .lives import ARGUMENTS, images, make
from .test_every_handler import HANDLERS
from .unread import Unread, WaitedError


def _live_console() -> Any:
    return pytest.importorskip("rich.console").Console(file=io.StringIO(), force_terminal=True)


NOT_DUE: dict[str, Callable[[], dict[str, Any]]] = {
    "Checkpoint": lambda: {"on": "batch_finished", "when": every(1000), "at_end": False},
    "ConsoleLog": lambda: {"stream": io.StringIO(), "monotonic": FakeClock()},
    "ProgressBar": lambda: {"console": _live_console(), "monotonic": FakeClock()},
}
"""Arguments by which a handler is at work, with no due step among those of a test."""

every_handler = pytest.mark.parametrize("cls", HANDLERS, ids=lambda cls: cls.__name__)

BATCHES, VALIDATION_BATCHES = 4, 3


class Watched(Unread):
    """A tensor that nobody may read while it is watched, and everybody after that."""

    closed = False

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if Watched.closed:
            if func is torch.Tensor.to and "cpu" in args[1:]:
                raise WaitedError("to")
            return super().__torch_function__(func, types, args, kwargs)
        return super(Unread, cls).__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]  # torch's


@contextmanager
def watching_tensors() -> Iterator[None]:
    Watched.closed = True
    try:
        yield
    finally:
        Watched.closed = False


@contextmanager
def watching_cuda() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def watched(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().as_subclass(Watched)


def on_cuda(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cuda")


Put = Callable[[torch.Tensor], torch.Tensor]


def model_for(data: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.nn.Sequential:
    layers = (torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return torch.nn.Sequential(*layers).to(data[0][0].device)


def data_of(batches: int, put: Put) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(put(inputs), put(targets)) for inputs, targets in images(batches)]


class Window:
    """Where nobody may wait: from the first batch of the epoch to the last of its validation."""

    def __init__(self, bus: EventBus, watching: Callable[[], Any]) -> None:
        self.steps = self.validated = 0
        self._watching = watching
        self._watch: Any = None
        bus.on("batch_loaded", priority=Priority.ALTER + 500)(self.begin)
        bus.on("batch_finished")(self.count)
        bus.on("validation_batch_finished", priority=Priority.PERSIST - 500)(self.end)

    def begin(self) -> None:
        if self._watch is None:
            self._watch = self._watching()
            self._watch.__enter__()

    def count(self) -> None:
        self.steps += 1

    def end(self) -> None:
        self.validated += 1
        if self.validated == VALIDATION_BATCHES:
            self._watch.__exit__(None, None, None)


def train(bus: EventBus, put: Put, watching: Callable[[], Any]) -> Window:
    """Train for one epoch on what was `put` where nobody may read it; say how far it came."""
    window = Window(bus, watching)
    training, validation = data_of(BATCHES, put), data_of(VALIDATION_BATCHES, put)
    model = model_for(training)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    gradients = [put(torch.ones_like(parameter)) for parameter in model.parameters()]
    with Run(bus, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(1):
            for inputs, targets in run.batches(training):
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.grad = gradient.clone()
                _step(run, model, optimizer, inputs, targets)
            for inputs, targets in run.validate(validation):
                _report(run, model, inputs, targets)
    return window


def _step(run: Run, model: Any, optimizer: Any, inputs: Any, targets: Any) -> None:
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    run.emit("backward_finished", loss=loss)
    optimizer.step()
    _report(run, model, inputs, targets)


def _report(run: Run, model: Any, inputs: Any, targets: Any) -> None:
    outputs = model(inputs)
    loss = torch.nn.functional.cross_entropy(outputs, targets)
    size = len(inputs)
    run.report(loss=loss, norm=outputs.norm(), outputs=outputs, targets=targets, batch_size=size)


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # where a default path leads
    yield
    Watched.closed = False
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


def with_handler_between_due_steps(
    cls: type, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> EventBus:
    given = ARGUMENTS[cls.__name__](folder) if cls.__name__ in ARGUMENTS else {}
    extra = NOT_DUE[cls.__name__]() if cls.__name__ in NOT_DUE else {}
    monkeypatch.setitem(ARGUMENTS, cls.__name__, lambda folder: {**given, **extra})
    bus = EventBus(strict=True)
    bus.attach(make(cls, folder))
    return bus


# -- tensors that say when they are read


@every_handler
def test_handler_reads_nothing_between_its_due_steps(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = with_handler_between_due_steps(cls, tmp_path, monkeypatch)
    window = train(bus, watched, watching_tensors)
    assert (window.steps, window.validated) == (BATCHES, VALIDATION_BATCHES)


class StepNorm:
    """Measures within each step, unread."""

    @handles("batch_finished", priority=Priority.MEASURE)
    def measure(self, bus: EventBus, loss: Any) -> None:
        bus.emit("metrics_measured", metrics={"step_norm": loss.detach() * 2})


TRACKERS = [cls for cls in HANDLERS if cls.__name__ in ("TensorBoard", "WandB")]


@pytest.mark.parametrize("cls", TRACKERS, ids=lambda cls: cls.__name__)
def test_tracker_reads_nothing_that_is_measured_between_its_due_steps(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = with_handler_between_due_steps(cls, tmp_path, monkeypatch)
    bus.attach(GradientClipping(math.inf))
    bus.attach(StepNorm())
    window = train(bus, watched, watching_tensors)
    assert (window.steps, window.validated) == (BATCHES, VALIDATION_BATCHES)


# -- the bus itself


def nobody(name: str) -> Callable[..., None]:
    def handler(loss: Any) -> None:
        raise AssertionError(f"{name} is not due")

    return handler


FILTERS = {
    "every": every(1000),
    "at": at(1000),
    "from_": from_(1000),
    "until": ~until(1000),
    "on_rank": on_rank(1),
    "both": every(2) & every(1000),
    "either": at(1000) | every(1000),
    "predicate": lambda step: step > 1000,
    "of the loss": lambda loss, step: loss is None,
}


def test_a_tensor_rides_unread_past_handlers_that_are_not_due() -> None:
    bus = EventBus(strict=True)
    for name, filter_ in FILTERS.items():
        bus.on("batch_finished", when=filter_)(nobody(name))
    seen: list[Any] = []
    bus.on("batch_finished", when=at_most_every(1.0) & every(3))(lambda step: seen.append(step))
    loss, loop = watched(torch.tensor(0.5)), bus.bind(sender="train")
    with watching_tensors():
        for step in range(1, 7):
            loop.emit("batch_finished", epoch=1, step=step, loss=loss)
            bus.emit("batch_finished", epoch=1, step=step, loss=loss)
            loop.signal("batch_finished").emit(epoch=1, step=step, loss=loss)
    assert seen[0] == 3


def test_a_tensor_rides_unread_through_handlers_that_do_not_read_it() -> None:
    bus = EventBus(strict=True)
    seen: list[Any] = []
    bus.on("batch_finished")(lambda loss: seen.append(loss))
    bus.on("batch_finished")(lambda event: seen.append(event.fields["loss"]))
    bus.on("batch_finished", on_error="isolate")(lambda **fields: seen.append(fields["loss"]))
    bus.on("batch_finished")(lambda step: Stop("enough") if step == 2 else None)
    bus.on("batch_loaded")(lambda batch: batch * 2)
    bus.signal("batch_finished").connect(
        lambda sender, **fields: seen.append(fields["loss"]), weak=False
    )
    loss, loop = watched(torch.tensor(0.5)), bus.bind(sender="train")
    with watching_tensors():
        batch = loop.transform("batch_loaded", loss, epoch=1, step=1)
        for step in (1, 2):
            answers = loop.emit("batch_finished", epoch=1, step=step, loss=loss)
    assert all(one is loss for one in seen)
    assert len(seen) == 8
    assert batch == 1.0
    assert answers.stop is not None


def test_a_run_averages_what_is_reported_unread() -> None:
    bus = EventBus(strict=True)
    epochs: list[Any] = []
    bus.on("epoch_finished")(lambda metrics: epochs.append(metrics))
    with Run(bus) as run, watching_tensors():
        for _ in run.epochs(2):
            for value in run.batches([1.0, 2.0, 6.0], accumulate=2):
                run.report(loss=watched(torch.tensor(value)), batch_size=2)
            for value in run.validate([1.0, 2.0]):
                run.report(loss=watched(torch.tensor(value)), batch_size=2)
    assert epochs[1] == {"loss": 3.0, "val_loss": 1.5}


READERS: list[Callable[..., object]] = [
    lambda loss: loss.item(),
    lambda loss: loss.cpu(),
    lambda loss: loss.to("cpu"),
    lambda loss: bool(loss > 0),
    lambda loss: float(loss),
    lambda outputs: outputs.tolist(),
    lambda metrics: dict(metrics),
]


@pytest.mark.parametrize("signal", ["batch_finished", "validation_batch_finished"])
@pytest.mark.parametrize("reader", READERS)
def test_reading_within_the_window_is_noticed(signal: str, reader: Callable[..., object]) -> None:
    bus = EventBus(strict=True)
    bus.on(signal)(reader)
    with pytest.raises(WaitedError):
        train(bus, watched, watching_tensors)


# -- a CUDA device


@pytest.mark.gpu
@every_handler
def test_handler_waits_for_no_cuda_device_between_its_due_steps(
    cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(EventBus(), on_cuda, nullcontext)  # what CUDA loads when it is first used waits
    bus = with_handler_between_due_steps(cls, tmp_path, monkeypatch)
    window = train(bus, on_cuda, watching_cuda)
    assert (window.steps, window.validated) == (BATCHES, VALIDATION_BATCHES)


@pytest.mark.gpu
@pytest.mark.parametrize("reader", READERS)
def test_reading_from_a_cuda_device_is_noticed(reader: Callable[..., object]) -> None:
    bus = EventBus(strict=True)
    bus.on("batch_finished")(reader)
    with pytest.raises(RuntimeError, match="synchroniz"):
        train(bus, on_cuda, watching_cuda)
