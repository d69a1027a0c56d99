"""What other frameworks get wrong about errors, names and values, shown right here.

The docstring of each test names whose defect it was, found in the sources and the threads of the
frameworks; most were reproduced in the releases that were current then.
"""

from __future__ import annotations

import threading
import traceback
from functools import partial

import pytest
import torch

from eventbus import EventBus, EventBusError, FieldError
from eventbus.handlers._outbox import Outbox

from .training import BrokenError, fail, train


@pytest.mark.parametrize("ending", [BrokenError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_subscriber_to_a_failure_is_told_and_does_not_swallow_it(ending: BaseException) -> None:
    """Ignite: one subscriber swallows the exception. TorchTNT: Ctrl-C skips the exception hook."""
    bus, told = EventBus(), list[BaseException]()
    bus.on("run_failed")(lambda exception: told.append(exception))
    with pytest.raises(type(ending)) as caught:
        fail(bus, ending)
    assert caught.value is ending
    assert told == [ending]


def test_stop_iteration_out_of_a_handler_is_not_the_end_of_the_data() -> None:
    """Ignite, TorchTNT: it is taken for the end of the data; the run ends early, silently."""
    bus = EventBus()
    nothing: list[int] = []
    bus.on("batch_finished", name="leaky")(lambda: next(iter(nothing)))
    with pytest.raises(RuntimeError, match="leaky") as caught:
        train(bus, [1.0])
    assert isinstance(caught.value.__cause__, StopIteration)


def test_failing_handler_keeps_its_traceback() -> None:
    """MMEngine: a failing hook loses its traceback."""
    bus = EventBus()

    @bus.on("epoch_finished")
    def culprit() -> None:
        raise BrokenError("here")

    with pytest.raises(BrokenError) as caught:
        train(bus, [1.0])
    assert "culprit" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "culprit" in "".join(caught.value.__notes__)
    assert "epoch_finished" in "".join(caught.value.__notes__)


def test_exception_without_arguments_arrives_as_itself() -> None:
    """In fastai an exception without arguments is replaced by an `IndexError`."""
    bus, error = EventBus(), BrokenError()

    @bus.on("batch_finished")
    def fail_so() -> None:
        raise error

    with pytest.raises(BrokenError) as caught:
        train(bus, [1.0])
    assert caught.value is error
    assert caught.value.args == ()


def test_failing_logger_does_not_stop_training_and_is_not_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Lightning: a failing logger ends the run. detectron2: failures of a writer are dropped."""
    bus, told = EventBus(), list[str]()
    bus.on("handler_failed")(lambda handler: told.append(handler))

    @bus.on("epoch_finished", on_error="isolate")
    def log() -> None:
        raise BrokenError("no connection")

    assert train(bus, [1.0] * 4).outcome == "completed"
    assert told == ["log"] * 3  # and then it was switched off
    assert "no connection" in caplog.text
    assert "Traceback" in caplog.text
    assert "switched off" in caplog.text


def test_work_in_the_background_keeps_its_errors_its_order_and_its_bounds() -> None:
    """detectron2: its writer drops failures. Keras: its pool is unbounded and unordered."""
    outbox, done, gate = Outbox("lessons", capacity=3), list[int](), threading.Event()
    outbox.put(gate.wait)
    accepted = [outbox.put(partial(done.append, number)) for number in range(9)]
    gate.set()
    outbox.close(timeout_s=60.0)
    outbox.put(partial(done.remove, 99))
    assert outbox.close(timeout_s=60.0) == 0
    assert done == [number for number in range(9) if accepted[number]]
    assert outbox.dropped == accepted.count(False) >= 6
    assert [type(error) for error in outbox.take_errors()] == [ValueError]


def test_misspelt_signal_is_an_error_with_a_suggestion() -> None:
    """Lightning, TorchTNT: a misspelt hook is accepted, and never called."""
    bus = EventBus()
    with pytest.raises(EventBusError, match="did you mean 'epoch_finished'"):
        bus.on("epoch_finnished")(lambda: None)
    with pytest.raises(FieldError, match="did you mean 'loss'"):
        bus.on("batch_finished")(lambda lss: None)


def test_loss_is_in_the_events_of_a_step() -> None:
    """Hugging Face: step events do not carry the loss."""
    bus, losses = EventBus(), list[float]()
    bus.on("batch_finished")(lambda loss: losses.append(loss))
    train(bus, [1.0], losses=[1.0] * 3)
    assert losses == [1.0] * 3


def test_metrics_that_nobody_reads_are_not_converted() -> None:
    """Keras: logs are converted to floats, a device synchronisation, though nobody listens."""
    bus = EventBus()
    bus.on("batch_finished", "epoch_finished")(lambda metrics: metrics.tensors)
    unreadable = torch.ones((), device="meta")
    run = train(bus, [1.0], losses=[unreadable] * 3)
    assert run.outcome == "completed"
    with pytest.raises(RuntimeError):
        run.metrics["loss"]
