"""CutMix: one box from the partner, and targets by its exact area."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eventbus.handlers import CutMix

from .mixing import mixed, numbered, share_of


@given(
    seed=st.integers(0, 10**6),
    alpha=st.sampled_from([0.1, 1.0, 8.0]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_cutmix_target_is_the_exact_area(seed: int, alpha: float, height: int, width: int) -> None:
    images, labels = numbered(4, height, width)
    inputs, targets = mixed(CutMix(4, alpha=alpha, seed=seed), (images, labels))
    for row, label in zip(inputs, labels, strict=True):
        for other in range(4):
            area = (row == other).float().mean()
            torch.testing.assert_close(targets[label, other], area)


def test_cutmix_pastes_one_box_at_the_same_place_in_all() -> None:
    images, labels = numbered()
    inputs, targets = mixed(CutMix(6, seed=1), (images, labels))
    foreign = inputs != images
    changed = foreign.any(0)
    assert changed.any()
    rows, columns = changed[0].any(1).nonzero().flatten(), changed[0].any(0).nonzero().flatten()
    box = changed[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.all()
    assert box[0].sum() == changed[0].sum()
    moved = targets.diagonal() < 1
    assert all(torch.equal(foreign[n], changed) == bool(moved[n]) for n in range(6))


def test_cutmix_box_is_as_large_as_the_proportion_says() -> None:
    # Beta(1e6, 1e6) is 0.5 all but exactly; sides of sqrt(0.5) * 100 = 70, inside or cut at an edge
    areas = []
    for seed in range(300):
        images, labels = numbered(2, 100, 100)
        _, targets = mixed(CutMix(2, alpha=1e6, seed=seed), (images[:, :1], labels))
        areas.append(1 - share_of(targets))
    assert max(areas) == pytest.approx(0.49)
    # the mean of what an edge leaves of a side of 70 in 100, squared: (0.7 - 2 * 0.35**2 / 2)**2
    assert statistics.mean(a for a in areas if a > 0) == pytest.approx(0.5775**2, rel=0.06)


def test_cutmix_takes_images_of_any_type() -> None:
    images, labels = numbered()
    result, targets = mixed(CutMix(6, seed=1), (images.to(torch.uint8), labels))
    assert result.dtype == torch.uint8
    assert 0 < share_of(targets) < 1


def test_cutmix_refuses_what_is_no_image() -> None:
    with pytest.raises(TypeError, match=r"images of shape \(N, ..., H, W\), got shape \(2, 5\)"):
        mixed(CutMix(2), (torch.zeros(2, 5), torch.tensor([0, 1])))
