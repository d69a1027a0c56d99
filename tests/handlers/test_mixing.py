"""What MixUp and CutMix share: proportions, partners, soft targets, batches of every form."""

from __future__ import annotations

import io
import math
import statistics
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from eventbus import EventBus, RestoredState
from eventbus.handlers import CutMix, MixUp
from eventbus.handlers._mixing import drawn_proportion, soft
from eventbus.loops import fit

from .mixing import mixed, numbered, share_of
from .unread import Unread, read, unread

Maker = Callable[..., MixUp | CutMix]
both = pytest.mark.parametrize("make", [MixUp, CutMix])


class Pair(NamedTuple):
    """A batch with names."""

    images: Tensor
    labels: Tensor


class Batch(UserDict[str, Any]):
    """A batch with methods, as a tokenizer returns it."""


# -- proportions


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_proportions_are_drawn_from_a_beta_distribution(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [drawn_proportion(alpha, generator) for _ in range(4000)]
    assert all(0 <= draw <= 1 for draw in draws)
    assert statistics.mean(draws) == pytest.approx(0.5, abs=0.03)
    # the variance of Beta(a, a) is 1 / (4 (2 a + 1))
    assert statistics.variance(draws) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


@both
def test_each_batch_has_a_proportion_of_its_own(make: Maker) -> None:
    handler = make(6, alpha=1.0, seed=1)
    shares = {share_of(mixed_again(handler)[1]) for _ in range(5)}
    assert len(shares) > 2


def mixed_again(handler: MixUp | CutMix) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = handler.alter(numbered())
    return result


# -- batches and targets


@both
def test_batch_that_came_is_not_changed(make: Maker) -> None:
    images, labels = numbered()
    mixed(make(6, alpha=1.0), (images, labels))
    assert torch.equal(images, numbered()[0])
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]


@both
@pytest.mark.parametrize("kind", [tuple, list])
def test_batch_keeps_its_kind_and_its_other_parts(make: Maker, kind: Any) -> None:
    images, labels = numbered()
    result = mixed(make(6), kind([images, labels, "names"]))
    assert type(result) is kind
    assert result[2] == "names"


@both
def test_batch_may_be_a_dict_or_have_names(make: Maker) -> None:
    images, labels = numbered()
    batch = {"pixels": images, "id": labels, "label": labels}
    result = mixed(make(6, inputs="pixels", targets="label"), batch)
    assert result["id"] is labels
    assert result["label"].shape == (6, 6)
    assert batch["label"] is labels
    named = mixed(make(6), Pair(images, labels))
    assert isinstance(named, Pair)
    assert named.labels.shape == (6, 6)


@both
@pytest.mark.parametrize("kind", [OrderedDict, partial(defaultdict, list), UserDict, Batch])
def test_batch_of_a_class_of_its_own_keeps_it(make: Maker, kind: Any) -> None:
    images, labels = numbered()
    batch = kind({"pixels": images, "label": labels})
    result = mixed(make(6, inputs="pixels", targets="label"), batch)
    assert type(result) is type(batch)
    assert result["label"].shape == (6, 6)
    assert batch["label"] is labels
    assert list(result) == ["pixels", "label"]


@both
def test_batch_that_takes_no_other_items_becomes_a_dict(make: Maker) -> None:
    images, labels = numbered()
    batch = MappingProxyType({"pixels": images, "label": labels})
    result = mixed(make(6, inputs="pixels", targets="label"), batch)
    assert type(result) is dict
    assert result["label"].shape == (6, 6)


@both
def test_soft_targets_are_mixed_as_they_are(make: Maker) -> None:
    images, labels = numbered()
    smooth = 0.4 * torch.eye(6) + 0.1
    _, hard_mixed = mixed(make(6, alpha=1.0, seed=2), (images, labels))
    _, soft_mixed = mixed(make(6, alpha=1.0, seed=2), (images, smooth))
    torch.testing.assert_close(soft_mixed, 0.4 * hard_mixed + 0.1)


def test_mixup_and_cutmix_may_follow_each_other() -> None:
    bus = EventBus(strict=True)
    bus.attach(MixUp(6, alpha=1.0))
    bus.attach(CutMix(6))
    _, targets = bus.bind(sender="train").transform("batch_loaded", numbered(), epoch=1, step=1)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


@both
def test_cross_entropy_takes_the_targets(make: Maker) -> None:
    _, targets = mixed(make(6), numbered())
    assert math.isfinite(cross_entropy(torch.randn(6, 6), targets).item())


@both
def test_batch_that_is_not_mixed_has_soft_targets_too(make: Maker) -> None:
    images, labels = numbered()
    inputs, targets = mixed(make(6, probability=0.0), (images, labels))
    assert inputs is images
    assert torch.equal(targets, torch.eye(6))


@both
def test_probability_is_that_of_a_batch(make: Maker) -> None:
    handler = make(6, alpha=1.0, probability=0.25)
    count = sum(share_of(mixed_again(handler)[1]) < 1 for _ in range(400))
    assert 60 <= count <= 140  # 100 ± 4.6 σ, some boxes being empty


@both
@pytest.mark.parametrize("count", [0, 1])
def test_smallest_batches_are_no_special_case(make: Maker, count: int) -> None:
    inputs, targets = mixed(make(6), numbered(count))
    assert inputs.shape == (count, 3, 8, 10)
    assert torch.equal(targets, torch.eye(6)[:count])


@both
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (7, "there is no 0 in a batch that is a int"),
        ((torch.zeros(2, 1, 1),), "there is no 1 in a batch that is a tuple"),
        ({"x": 1}, "there is no 0 in a batch that is a dict"),
        ((torch.zeros(2, 1, 1), [0, 1]), "1 of a batch must be a tensor, got a list"),
        ((torch.zeros(2, 1, 1), torch.zeros(2)), r"class numbers of shape \(N,\) or probabilities"),
        ((torch.zeros(2, 1, 1), torch.zeros(2, 5)), r"shape \(N, 6\); got torch.float32 of shape"),
    ],
)
def test_batch_of_another_form_is_an_error_that_says_so(
    make: Maker, batch: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        mixed(make(6), batch)


def test_class_number_that_is_too_large_is_an_error_on_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="index 3 is out of bounds"):
        soft(torch.tensor([3]), classes=3)


# -- chance


@both
def test_same_seed_mixes_the_same(make: Maker) -> None:
    one, other = (mixed_again(make(6, alpha=1.0, seed=3)) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@both
def test_resumed_run_mixes_as_one_that_was_not_cut(make: Maker) -> None:
    whole = make(6, alpha=1.0)
    expected = [mixed_again(whole)[1] for _ in range(4)]
    first = make(6, alpha=1.0)
    found = [mixed_again(first)[1] for _ in range(2)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    bus, second = EventBus(strict=True), make(6, alpha=1.0)
    bus.attach(second, name="mixing")
    state = RestoredState({"mixing": torch.load(file, weights_only=True)})
    bus.emit("state_restored", state=state, path="x")
    bus.bind(sender="train").emit("run_started", resumed_from="x")
    found += [mixed_again(second)[1] for _ in range(2)]
    assert all(map(torch.equal, found, expected))


@both
def test_fresh_run_begins_with_the_seed_again(make: Maker) -> None:
    bus, handler = EventBus(strict=True), make(6, alpha=1.0)
    bus.attach(handler)
    first = mixed_again(handler)[0]
    bus.bind(sender="train").emit("run_started")
    assert torch.equal(mixed_again(handler)[0], first)


# -- training


@both
def test_ready_loop_trains_on_mixed_batches(make: Maker) -> None:
    bus = EventBus(strict=True)
    bus.attach(make(6))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(240, 6))
    run = fit(
        bus,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        loss_fn=cross_entropy,
        train_loader=[numbered()] * 3,
        epochs=2,
        device="cpu",
    )
    assert (run.outcome, run.step) == ("completed", 6)


@both
def test_nobody_waits_for_the_device(make: Maker) -> None:
    images, labels = numbered()
    inputs, targets = mixed(make(6, alpha=1.0, seed=4), (unread(images), unread(labels)))
    assert isinstance(inputs, Unread)
    assert isinstance(targets, torch.Tensor)
    assert read(targets).sum() == pytest.approx(6.0)


@pytest.mark.gpu
@both
def test_cuda_is_not_waited_for(make: Maker) -> None:
    images, labels = (part.cuda() for part in numbered())
    handler = make(6, alpha=1.0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        inputs, targets = handler.alter((images, labels))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert inputs.is_cuda
    assert targets.is_cuda


@both
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "takes the number of classes, from 1; got 0"),
        ({"classes": True}, "takes the number of classes"),
        ({"alpha": 0.0}, "alpha is finite and above 0, got 0.0"),
        ({"alpha": math.inf}, "alpha is finite and above 0"),
        ({"probability": 1.5}, "probability is from 0 to 1, got 1.5"),
    ],
)
def test_wrong_argument_is_refused_when_it_is_made(
    make: Maker, arguments: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"classes": 3, **arguments})
