"""Soft encoding, rebalancing and decoding of colours against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl.errors import UserError
from mmssl.losses.soft_bins import soft_nll
from mmssl.nn import bins as binning
from mmssl.nn.bins import Bins, ab_grid, sampled
from mmssl.nn.color import lab


def test_the_grid_holds_what_srgb_reaches() -> None:
    grid = ab_grid()
    assert grid.shape == (261, 2) and grid.remainder(10).abs().max() == 0
    torch.manual_seed(0)
    colors = lab(torch.randint(0, 256, (100_000, 3), dtype=torch.uint8))[:, 1:]
    cells = {tuple(cell) for cell in ((colors / 10).round() * 10).add(0.0).unique(dim=0).tolist()}
    assert cells <= {tuple(cell) for cell in grid.tolist()}
    assert len(cells) > 200


def test_values_are_shared_by_the_nearest_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    grid = ab_grid()
    bins, values = Bins(grid), 60 * torch.randn(20, 2)
    indices, shares = bins.soften(values)
    for value, index, share in zip(values.tolist(), indices.tolist(), shares.tolist(), strict=True):
        squared = [(value[0] - a) ** 2 + (value[1] - b) ** 2 for a, b in grid.tolist()]
        near = sorted(range(len(squared)), key=squared.__getitem__)[:5]
        assert sorted(index) == sorted(near) and index[0] == near[0]
        lowest = squared[near[0]]  # only ratios count
        raw = {k: math.exp(-(squared[k] - lowest) / (2 * 5.0**2)) for k in near}
        assert share == pytest.approx([raw[k] / sum(raw.values()) for k in index], abs=1e-4)
    monkeypatch.setattr(binning, "CHUNK", 1000)  # a few values at a time
    torch.testing.assert_close(bins.soften(values)[1], shares)


def test_rare_bins_weigh_more() -> None:
    torch.manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [40.0, 40.0]])
    values = centers[torch.tensor([0] * 70 + [1] * 20 + [2] * 9 + [3])] + torch.randn(100, 2)
    bins = Bins(centers, neighbors=2)
    bins.learn(values, find=False, uniform=0.5)
    shares = [0.7, 0.2, 0.09, 0.01]
    smooth = [0.0] * 4
    for j in range(4):
        kernel = [
            math.exp(-(math.dist(centers[i].tolist(), centers[j].tolist()) ** 2) / (2 * 5.0**2)) for i in range(4)
        ]
        for i in range(4):
            smooth[i] += shares[j] * kernel[i] / sum(kernel)
    raw = [1 / (0.5 * p + 0.5 / 4) for p in smooth]
    scale = sum(p * w for p, w in zip(smooth, raw, strict=True))
    assert bins.weights.tolist() == pytest.approx([w / scale for w in raw], rel=1e-5)
    bins.learn(values, find=False, uniform=1.0)
    assert bins.weights.tolist() == pytest.approx([1.0] * 4)


def test_centres_are_found_in_the_values() -> None:
    truth = torch.tensor([[-50.0, 0.0], [0.0, 30.0], [60.0, 10.0]])
    bins = Bins(torch.zeros(3, 2), neighbors=1)
    bins.learn(truth.repeat_interleave(40, dim=0), find=True, uniform=0.5)
    torch.testing.assert_close(bins.centers, truth)
    torch.testing.assert_close(bins.weights, torch.ones(3))


def test_the_loss_is_the_weighed_cross_entropy_of_every_place() -> None:
    torch.manual_seed(0)
    bins = Bins(20 * torch.randn(7, 2), neighbors=3)
    bins.weights.copy_(torch.rand(7))
    raw, values = torch.randn(2, 7, 2, 3), 20 * torch.randn(2, 2, 2, 3)

    def plain(logits: torch.Tensor) -> torch.Tensor:
        losses = []
        for row in range(2):
            places = []
            for i in range(2):
                for j in range(3):
                    apart = (bins.centers - values[row, :, i, j]).square().sum(dim=1)
                    share = (-apart / 50).exp() * (apart <= apart.sort().values[2])
                    share = share / share.sum()
                    log = logits[row, :, i, j] - logits[row, :, i, j].exp().sum().log()
                    places.append(-bins.weights[apart.argmin()] * (share * log).sum())
            losses.append(torch.stack(places).mean())
        return torch.stack(losses)

    found = []
    for loss in (lambda x: soft_nll(x, *bins.target(values)), plain):
        x = raw.clone().requires_grad_()
        value = loss(x)
        value.sum().backward()
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_the_nearest_bins_and_the_annealed_mean() -> None:
    bins = Bins(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), neighbors=1)
    values = torch.tensor([[1.0, 9.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    logits = torch.tensor([[5.0, 0.0], [0.0, 0.0], [0.0, 5.0]]).view(1, 3, 1, 2)
    assert bins.numbers(values).tolist() == [[[0, 1]]]
    sharp = bins.annealed_mean(logits, temperature=0.01)
    torch.testing.assert_close(sharp, torch.tensor([[0.0, 0.0], [0.0, 10.0]]).view(1, 2, 1, 2))
    p = torch.tensor([math.exp(5 / 0.38), 1.0, 1.0]) / (math.exp(5 / 0.38) + 2)
    torch.testing.assert_close(bins.annealed_mean(logits)[0, :, 0, 0], p @ bins.centers)


def test_sampling_takes_a_little_of_many_parts_and_stops() -> None:
    taken = []

    def parts() -> object:
        for number in range(100):
            taken.append(number)
            yield torch.full((50, 2), float(number))

    found = sampled(parts(), 40)
    assert found.shape == (40, 2) and found[:, 0].unique().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert len(taken) == 7


def test_bad_options() -> None:
    with pytest.raises(UserError, match="cannot be shared by 5 of 3 bins"):
        Bins(torch.zeros(3, 2))
