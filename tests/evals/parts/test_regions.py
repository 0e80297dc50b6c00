"""J and F of masks against plain loops and scipy's dilation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from mmssl.evals.parts.regions import boundary, jaccard, outline

Mask = np.ndarray


def blob(height: int, width: int, top: int, left: int, size: int) -> Mask:
    mask = np.zeros((height, width), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def edges(mask: Mask) -> Mask:
    """seg2bmap of the DAVIS 2017 evaluation."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ wide[:-1, 1:]) | (mask ^ wide[1:, :-1]) | (mask ^ wide[1:, 1:])


def f_measure(mask: Mask, truth: Mask, radius: int) -> float:
    mine, theirs = edges(mask), edges(truth)
    if not mine.any() or not theirs.any():
        return float(mine.any() == theirs.any())
    reach = np.arange(-radius, radius + 1)
    disk = reach[:, None] ** 2 + reach**2 <= radius**2
    precision = (mine & binary_dilation(theirs, disk)).sum() / mine.sum()
    recall = (theirs & binary_dilation(mine, disk)).sum() / theirs.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def stacked(masks: list[Mask]) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks))


def test_region_similarity_is_intersection_over_union() -> None:
    one = stacked([blob(6, 8, 0, 0, 4), blob(6, 8, 0, 0, 0), blob(6, 8, 0, 0, 0), blob(6, 8, 1, 1, 2)])
    two = stacked([blob(6, 8, 2, 0, 4), blob(6, 8, 0, 0, 0), blob(6, 8, 0, 0, 2), blob(6, 8, 1, 1, 2)])
    assert jaccard(one, two).tolist() == pytest.approx([8 / 24, 1, 0, 1])


def test_the_outline_is_davis_own() -> None:
    noise = np.random.default_rng(0).random((3, 7, 9)) < 0.5
    found = outline(torch.from_numpy(noise))
    assert found.dtype == torch.bool
    for mask, i, j in itertools.product(range(3), range(7), range(9)):
        below, right = min(i + 1, 6), min(j + 1, 8)
        near = [noise[mask, i, right], noise[mask, below, j], noise[mask, below, right]]
        assert bool(found[mask, i, j]) == any(noise[mask, i, j] != other for other in near)


@pytest.mark.parametrize(
    ("shape", "radius", "tolerance"),
    [((24, 32), 1, None), ((42, 56), 1, None), ((84, 112), 2, None), ((24, 32), 3, 0.06)],  # diagonals 40, 70, 140
)
def test_boundaries_may_be_off_by_a_share_of_the_diagonal(
    shape: tuple[int, int], radius: int, tolerance: float | None
) -> None:
    pairs = [(blob(*shape, 4, 5, 10), blob(*shape, 4 + off, 5 + off // 2, 10 + off % 2)) for off in range(6)]
    noise = np.random.default_rng(0).random((4, *shape)) < 0.03
    pairs += [(noise[0], noise[1]), (noise[2], noise[3] & noise[2])]
    options = {} if tolerance is None else {"tolerance": tolerance}
    found = boundary(stacked([a for a, _ in pairs]), stacked([b for _, b in pairs]), **options)
    assert found.tolist() == pytest.approx([f_measure(a, b, radius) for a, b in pairs], abs=1e-6)
    assert found.min() < 0.6 < found[0] == 1.0


def test_one_mask_without_outline_scores_nothing_and_two_are_alike() -> None:
    none, some = blob(24, 32, 0, 0, 0), blob(24, 32, 4, 4, 8)
    far, corner = blob(24, 32, 20, 28, 3), blob(24, 32, 0, 0, 1)  # the latter's outline is a single pixel
    found = boundary(stacked([none, none, some, some, corner]), stacked([none, some, none, far, corner]))
    assert found.tolist() == pytest.approx([1, 0, 0, 0, 1])
