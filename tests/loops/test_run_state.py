"""A run's state goes over the bus, and comes back."""

from __future__ import annotations

import io
import logging
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eventbus import AttachError, EventBus, Restored, RestoredState, Stop
from eventbus.handlers._checkpoint_payload import offender
from eventbus.loops import Run
from eventbus.loops._generators import RandomGenerators

from .transcripts import Transcript, answer_on


class Counter:
    """Anything with a state."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class Saver:
    """A checkpoint handler in memory; it knows no loop."""

    def __init__(self, bus: EventBus, signal: str = "epoch_finished", **options: Any) -> None:
        self.saved: list[bytes] = []
        bus.on(signal, **options)(self.save)

    def save(self, bus: EventBus) -> None:
        file = io.BytesIO()
        torch.save(dict(bus.emit("state_requested").state), file)
        self.saved.append(file.getvalue())

    def parts(self, place: int = -1) -> dict[str, Any]:
        parts = torch.load(io.BytesIO(self.saved[place]), weights_only=True)
        assert isinstance(parts, dict)
        return parts


def restore(bus: EventBus, parts: dict[str, Any]) -> None:
    """Have the next run go on from `parts`."""

    def resume(bus: EventBus) -> Restored:
        bus.emit("state_restored", state=RestoredState(parts), path="runs/1")
        return Restored("runs/1")

    bus.once("run_opened")(resume)


class Trainer:
    """A small model with dropout and a shuffled order: all that a resume can get wrong."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)
        self.counter = Counter()
        self.losses: list[float] = []

    def train(self, bus: EventBus, epochs: int) -> Run:
        with Run(
            bus,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            state={"counter": self.counter},
        ) as run:
            for _ in run.epochs(epochs):
                order = torch.randperm(6).tolist()
                for _ in run.batches(order):
                    x = torch.randn(2, 4) * random.random() + float(np.random.rand())
                    loss = self.model(x).square().mean()
                    loss.backward()
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    self.counter.count += 1
                    self.losses.append(loss.item())
                    run.report(loss=loss)
                for _ in run.validate([1]):
                    run.report(loss=1.0)
                if not run.interrupted:
                    self.scheduler.step()
        return run


def test_the_parts_of_a_run_are_plain_enough_for_the_safe_loader(bus: EventBus) -> None:
    saver = Saver(bus)
    Trainer().train(bus, epochs=2)
    parts = saver.parts()
    assert set(parts) == {"model", "optimizer", "scheduler", "counter", "random", "loop"}
    loop = parts["loop"]
    assert (loop["epoch"], loop["step"], loop["rounds"]) == (2, 12, {"val": 2})
    assert loop["position"] == {"epoch": 0, "batch_index": 0, "done": [], "used": 0}
    assert set(parts["random"]) == {"python", "torch", "numpy"}
    assert isinstance(parts["random"]["numpy"][1], torch.Tensor)
    assert offender(parts) is None


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


def test_random_generators_go_on_from_their_state() -> None:
    state = RandomGenerators().state_dict()
    drawn = draws()
    RandomGenerators().load_state_dict(state)
    assert draws() == drawn


def test_random_generators_take_words_as_they_were_first_kept() -> None:
    numpy_state: Any = np.random.get_state()
    kind, words, *rest = numpy_state
    torch_state = torch.get_rng_state()
    state = {
        "python": random.getstate(),
        "torch": torch_state,
        "numpy": [kind, words.tolist(), *rest],
    }
    drawn = draws()
    RandomGenerators().load_state_dict(state)
    assert draws() == drawn


def test_a_resumed_run_goes_on_bit_by_bit_at_the_next_epoch(
    bus: EventBus, transcript: Transcript
) -> None:
    saver = Saver(bus)
    whole = Trainer()
    whole.train(bus, epochs=4)
    transcript.events.clear()
    resumed = Trainer()
    restore(bus, saver.parts(1))
    run = resumed.train(bus, epochs=4)
    assert resumed.losses == whole.losses[12:]
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
        )
    )
    assert (run.epoch, run.step, resumed.counter.count) == (4, 24, 24)
    assert transcript.of("run_started")[0]["resumed_from"] == "runs/1"
    assert [fields["epoch"] for fields in transcript.of("epoch_started")] == [3, 4]
    assert transcript.of("batch_started")[0]["step"] == 13
    assert [fields["round"] for fields in transcript.of("validation_done")] == [3, 4]


def test_a_run_that_was_done_has_nothing_left_to_do(bus: EventBus) -> None:
    saver = Saver(bus)
    Trainer().train(bus, epochs=2)
    restore(bus, saver.parts())
    again = Trainer()
    assert again.train(bus, epochs=2).outcome == "completed"
    assert again.losses == []


def test_loops_by_steps_go_on_after_the_last_step(bus: EventBus) -> None:
    saver = Saver(bus, "run_finished")
    with Run(bus) as run:
        list(run.steps(3))
    restore(bus, saver.parts())
    with Run(bus) as run:
        assert list(run.steps(5)) == [4, 5]


def restored_parts(trainer: Trainer, *names: str) -> dict[str, Any]:
    parts = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    return {name: parts[name] for name in names}


def test_a_checkpoint_that_says_nothing_of_its_place_is_warned_of(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    restore(bus, restored_parts(Trainer(), "model", "optimizer"))
    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        run = Trainer().train(bus, epochs=2)
    assert (run.epoch, run.step) == (2, 12)
    (told,) = [text for text in caplog.messages if "'loop'" in text]
    assert "runs/1 has 'model', 'optimizer' but no part 'loop'" in told
    assert "counts from epoch 1" in told


def test_a_place_in_counts_alone_is_gone_on_from(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    parts = restored_parts(Trainer(), "model", "optimizer")
    restore(bus, {**parts, "loop": {"epoch": 1, "step": 6}})
    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        again = Trainer()
        run = again.train(bus, epochs=2)
    assert (run.epoch, run.step, len(again.losses)) == (2, 12, 6)
    assert not any("'loop'" in text for text in caplog.messages)


def test_weights_that_somebody_gives_a_run_are_no_place(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.on("run_opened")
    def give(bus: EventBus) -> None:
        bus.emit("state_restored", state=RestoredState(restored_parts(Trainer(), "model")))

    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        assert Trainer().train(bus, epochs=1).step == 6
    assert not any("'loop'" in text for text in caplog.messages)


def test_an_interrupted_epoch_goes_on_where_it_was_cut(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(bus, "run_finished")
    answer_on(bus, "batch_finished", Stop("SIGTERM"), step=8)
    Trainer().train(bus, epochs=4)
    parts = saver.parts()
    assert parts["loop"]["epoch"] == 1
    assert parts["loop"]["position"]["epoch"] == 2
    assert parts["loop"]["position"]["batch_index"] == 2
    restore(bus, parts)
    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        run = Trainer().train(bus, epochs=2)
    assert (run.epoch, run.step) == (2, 12)
    assert (
        "first 2 batches, as many as were trained on before, are read again and dropped"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("signal", "epoch", "step"), [("batch_finished", 0, 1), ("epoch_started", 0, 0)]
)
def test_a_checkpoint_within_an_epoch_knows_its_place(
    bus: EventBus, signal: str, epoch: int, step: int
) -> None:
    saver = Saver(bus, signal)
    Trainer().train(bus, epochs=1)
    loop = saver.parts(0)["loop"]
    assert (loop["epoch"], loop["step"], loop["position"]["epoch"]) == (epoch, step, 1)


def test_counts_stay_when_state_is_put_back_in_the_middle_of_a_run(bus: EventBus) -> None:
    saver = Saver(bus, "batch_finished")
    model = nn.Linear(1, 1)
    with Run(bus, model=model) as run:
        for step in run.steps(3):
            run.report(x=1.0)
            if step == 3:
                with torch.no_grad():
                    model.weight.fill_(9.0)
                bus.emit("state_restored", state=RestoredState(saver.parts(0)))
    assert run.step == 3
    assert model.weight.item() != 9.0


def test_several_models_keep_their_state_by_name(bus: EventBus) -> None:
    models = {"generator": nn.Linear(1, 1), "critic": nn.Linear(1, 1)}
    optimizers = {key: torch.optim.SGD(m.parameters(), lr=0.1) for key, m in models.items()}
    saver = Saver(bus, "run_finished")
    with Run(bus, models=models, optimizers=optimizers):
        pass
    assert set(saver.parts()) == {
        "models.generator",
        "models.critic",
        "optimizers.generator",
        "optimizers.critic",
        "random",
        "loop",
    }
    fresh = {"generator": nn.Linear(1, 1), "critic": nn.Linear(1, 1)}
    restore(bus, saver.parts())
    with Run(bus, models=fresh, optimizers=optimizers):
        pass
    assert torch.equal(fresh["critic"].weight, models["critic"].weight)


def test_an_inner_run_keeps_its_state_under_its_name(bus: EventBus) -> None:
    outer_saver, inner_saver = (
        Saver(bus, "text_written"),
        Saver(bus, "run_finished", sender="search"),
    )
    model = nn.Linear(1, 1)
    with Run(bus, model=model) as outer, Run(bus, name="search", model=model) as inner:
        list(inner.steps(2))
        outer.emit("text_written", tag="now", text="save")
    inner_keys = {"search.model", "search.random", "search.loop"}
    assert set(inner_saver.parts()) == inner_keys
    assert set(outer_saver.parts()) == inner_keys | {"model", "random", "loop"}


def test_an_inner_run_opened_after_the_restore_takes_its_part(bus: EventBus) -> None:
    model = nn.Linear(1, 1)
    saver = Saver(bus, "text_written")
    with Run(bus) as outer, Run(bus, name="search", model=model) as inner:
        list(inner.steps(2))
        outer.emit("text_written", tag="now", text="save")
    restore(bus, saver.parts())
    fresh = nn.Linear(1, 1)
    with Run(bus), Run(bus, name="search", model=fresh) as inner:
        assert list(inner.steps(3)) == [3]
    assert torch.equal(fresh.weight, model.weight)


@pytest.mark.parametrize("kind", ["model", "optimizer"])
def test_a_run_does_not_go_on_without_a_part_that_is_trained(bus: EventBus, kind: str) -> None:
    saver, trainer = Saver(bus), Trainer()
    trainer.train(bus, epochs=1)
    parts = saver.parts()
    parts[f"{kind}s.a"] = parts.pop(kind)
    weights = [parameter.clone() for parameter in trainer.model.parameters()]
    restore(bus, {**parts, "counter": {"count": 99}})
    message = rf"has a '{kind}', and the checkpoint runs/1 has no such part; it has: .*{kind}s\.a"
    with pytest.raises(ValueError, match=message):
        trainer.train(bus, epochs=2)
    assert trainer.counter.count == 6  # nothing was taken
    assert all(torch.equal(*pair) for pair in zip(weights, trainer.model.parameters(), strict=True))


def test_a_run_goes_on_without_a_part_that_is_not_trained_and_says_so(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(bus)
    Trainer().train(bus, epochs=1)
    parts = saver.parts()
    del parts["counter"]
    restore(bus, parts)
    assert Trainer().train(bus, epochs=2).step == 12
    assert "has no part 'counter', which goes on as it is" in caplog.text


def test_a_part_that_does_not_fit_fails_the_run_and_names_the_part(
    bus: EventBus, transcript: Transcript
) -> None:
    saver = Saver(bus)
    Trainer().train(bus, epochs=1)
    restore(bus, saver.parts())
    with pytest.raises(RuntimeError) as caught, Run(bus, model=nn.Linear(1, 1)):
        pass
    assert caught.value.__notes__[0] == (
        "while restoring 'model' from runs/1: is it made as it was when that was saved, of the "
        "same class and sizes?"
    )
    assert transcript.lines[-1] == "run_closed (failed)"


OPTIMIZERS = ["SGD", "Adam", "RMSprop", "LBFGS"]


@pytest.mark.parametrize("after", OPTIMIZERS)
@pytest.mark.parametrize("before", OPTIMIZERS)
def test_the_state_of_another_optimizer_is_refused_before_it_steps(
    bus: EventBus, before: str, after: str
) -> None:
    model = nn.Linear(1, 1)
    made = {kind: getattr(torch.optim, kind)(model.parameters(), lr=0.1) for kind in OPTIMIZERS}
    restore(bus, {"optimizer": made[before].state_dict()})
    if before == after:
        with Run(bus, optimizer=made[after]):
            return
    match = f"that of another optimizer than {after}, which needs "
    with pytest.raises(ValueError, match=match) as caught, Run(bus, optimizer=made[after]):
        pass
    assert caught.value.__notes__[0].startswith("while restoring 'optimizer' from runs/1: ")


@pytest.mark.parametrize("key", ["model", "loop", "models.generator", "random"])
def test_state_of_the_users_own_takes_no_key_of_the_runs(bus: EventBus, key: str) -> None:
    with pytest.raises(ValueError, match="a key of the Run's own"):
        Run(bus, state={key: Counter()})


def test_state_needs_something_with_a_state(bus: EventBus) -> None:
    with pytest.raises(TypeError, match="needs a state_dict"):
        Run(bus, state={"scaler": 3})


def test_a_model_without_a_state_dict_is_context_and_no_state(bus: EventBus) -> None:
    saver = Saver(bus, "run_finished")
    with Run(bus, model=lambda x: x):
        pass
    assert set(saver.parts()) == {"random", "loop"}


def test_two_states_under_one_key_are_an_error(bus: EventBus) -> None:
    class model(Counter):  # noqa: N801 - attached under its class's name
        pass

    bus.attach(model())
    Saver(bus, "run_finished")
    with pytest.raises(AttachError, match="'model'"), Run(bus, model=nn.Linear(1, 1)):
        pass


@pytest.mark.parametrize("given", ["models", "optimizers", "state"])
def test_what_is_given_by_name_is_a_dict(bus: EventBus, given: str) -> None:
    wrong: dict[str, Any] = {given: [nn.Linear(1, 1)]}
    with pytest.raises(TypeError, match=f"{given}= takes a dict"):
        Run(bus, **wrong)
