"""What image and sound tell without learning, by numpy, and what a linear model is asked about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.evals.parts import low_level


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_looks_are_brightness_contrast_and_motion(kind: torch.dtype) -> None:
    film = torch.randint(256, (3, 3, 4, 5, 6), dtype=torch.uint8)
    unit = film.numpy() / 255
    given = film if kind == torch.uint8 else film.float() / 255
    for row, x in zip(low_level.look(given), unit, strict=True):
        expected = [x.mean(), x.std(ddof=1), np.abs(np.diff(x, axis=1)).mean()]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)
    still = low_level.look(given[:, :, 0])
    for row, x in zip(still, unit[:, :, 0], strict=True):
        assert row.tolist() == pytest.approx([x.mean(), x.std(ddof=1), 0.0], abs=1e-5)


def test_loudness_is_mean_power_and_peak() -> None:
    sounds = torch.randn(3, 50)
    power = sounds.numpy().astype(float) ** 2
    expected = np.log(np.stack([power.mean(1), power.max(1)], axis=1) + 1e-8)
    np.testing.assert_allclose(low_level.loudness(sounds), expected, rtol=1e-4)
    whole = (sounds * 20_000).short()  # whose squares a short does not hold
    assert torch.equal(low_level.loudness(whole), low_level.loudness(whole.float()))
    film = torch.rand(3, 3, 4, 2, 2)
    assert torch.equal(low_level.together(film, whole), low_level.together(film, whole.float()))
    assert low_level.loudness(torch.zeros(1, 9))[0].tolist() == pytest.approx([np.log(1e-8)] * 2, rel=1e-5)


def test_motion_and_loudness_go_together_or_not() -> None:
    film, sounds = torch.rand(4, 3, 6, 2, 2), torch.randn(4, 53)
    film[3] = 0.5  # stands still
    found = low_level.together(film, sounds)
    assert found.shape == (4, 1)
    for row, x, sound in zip(found[:3, 0].tolist(), film.numpy(), sounds.numpy(), strict=False):
        motion = np.abs(np.diff(x, axis=1)).mean(axis=(0, 2, 3))  # five steps, of ten samples each
        loud = np.log((sound[:50].reshape(5, 10) ** 2).mean(1) + 1e-8)
        assert row == pytest.approx(np.corrcoef(motion, loud)[0, 1], abs=1e-4)
    assert found[3].item() == 0.0
    assert low_level.together(film[:, :, :3], sounds).shape == (4, 1)
    for short in (film[:, :, :2], film[:, :, 0]):
        assert low_level.together(short, sounds).shape == (4, 0)


def test_a_pair_has_both_sides_squares_and_products() -> None:
    seen, heard, curves = torch.randn(2, 3), torch.randn(2, 2), torch.randn(2, 1)
    found = low_level.pair_features(seen, heard, curves)
    for row, s, h, c in zip(found.tolist(), seen.tolist(), heard.tolist(), curves.tolist(), strict=True):
        assert row == pytest.approx([*s, *h, *(x * x for x in h), *(a * b for a in s for b in h), *c])


def asked(monkeypatch: pytest.MonkeyPatch, answers: Tensor) -> dict[str, Any]:
    """Stands in for the linear model: notes what it is asked, and answers that."""
    told: dict[str, Any] = {}

    def linear(features: Tensor, labels: Tensor, *, groups: Tensor) -> Tensor:
        told.update(features=features, labels=labels, groups=groups)
        return answers

    monkeypatch.setattr(low_level, "linear_answers", linear)
    return told


def test_a_preference_is_asked_by_the_difference_with_a_coin_for_the_side(monkeypatch: pytest.MonkeyPatch) -> None:
    true, false, clip = torch.randn(64, 3), torch.randn(64, 3), torch.arange(64) // 2
    told = asked(monkeypatch, torch.ones(64))
    assert torch.equal(low_level.prefers(true, false, clip), torch.ones(64))
    sign = torch.where(told["labels"] == 1, 1.0, -1.0)[:, None]
    torch.testing.assert_close(told["features"], (true - false) * sign)
    assert set(told["labels"].tolist()) == {0, 1} and 20 < told["labels"].sum() < 44
    assert torch.equal(told["groups"], clip)
    first = told["labels"]
    torch.manual_seed(9)
    low_level.prefers(true, false, clip)
    assert torch.equal(told["labels"], first), "the coin falls the same each time"


def test_yes_or_no_is_asked_of_both_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    true, false, clip = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([5, 5, 2, 1])
    told = asked(monkeypatch, torch.tensor([1.0, 1, 0, 0, 1, 0, 1, 0]))
    assert low_level.tells(true, false, clip).tolist() == [1.0, 0.5, 0.5, 0.0]
    torch.testing.assert_close(told["features"], torch.cat([true, false]))
    assert told["labels"].tolist() == [1] * 4 + [0] * 4
    assert told["groups"].tolist() == [5, 5, 2, 1] * 2, "both questions about a clip lie in one fold"
