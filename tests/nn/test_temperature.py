"""The learnt scale of a contrastive loss (Radford et al., ICML 2021)."""

from __future__ import annotations

import math

import pytest

from mmssl.nn.temperature import LogitScale


def test_it_begins_as_in_clip_and_learns_its_logarithm() -> None:
    scale = LogitScale()
    assert scale().item() == pytest.approx(1 / 0.07) and scale.ceiling == pytest.approx(math.log(100))
    scale().backward()
    assert scale.log.grad.item() == pytest.approx(1 / 0.07)  # d exp(x) / dx
    assert not LogitScale(learn=False).log.requires_grad


@pytest.mark.parametrize(("far", "bound"), [(50.0, 20.0), (-50.0, 1.0), (math.log(3), 3.0), (-0.1, 1.0), (3.1, 20.0)])
def test_it_is_kept_between_one_and_its_ceiling(far: float, bound: float) -> None:
    scale = LogitScale(start=5.0, ceiling=20.0)
    assert scale().item() == pytest.approx(5.0)
    scale.log.data.fill_(far)
    scale.clamp()
    assert scale().item() == pytest.approx(bound)
