"""Soft encoding, rebalancing and decoding of colours against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl.errors import UserError
from mmssl.losses.soft_bins import soft_nll
from mmssl.numerics import bins as binning
from mmssl.numerics.bins import Bins, ab_grid, sampled
from mmssl.numerics.color import lab


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
    assert bins.numbers(values.double()).tolist() == [[[0, 1]]]
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


@pytest.mark.parametrize(
    ("neighbors", "sigma", "refused"),
    [(1, 0.1, False), (3, 5.0, False), (0, 5.0, True), (4, 5.0, True), (3, 0.0, True)],
)
def test_a_value_is_shared_by_some_bins_and_no_more_than_there_are(neighbors: int, sigma: float, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match=f"by {neighbors} of 3 bins with a width of {sigma}"):
            Bins(torch.zeros(3, 2), neighbors=neighbors, sigma=sigma)
    else:
        Bins(torch.zeros(3, 2), neighbors=neighbors, sigma=sigma)


def test_the_defaults_are_the_papers() -> None:
    """Zhang et al., ECCV 2016: 5 neighbours, a Gaussian of width 5; every bin counts 1 before anything is learnt."""
    bins = Bins(torch.zeros(6, 2).double())
    assert (bins.neighbors, bins.sigma) == (5, 5.0)
    assert bins.weights.tolist() == [1.0] * 6 and bins.centers.dtype == torch.float32
    assert set(bins.state_dict()) == {"centers", "weights"}


def test_the_width_sets_the_shares_and_the_weights() -> None:
    bins = Bins(torch.tensor([[0.0], [3.0], [9.0]]), neighbors=2, sigma=2.0)
    index, share = bins.soften(torch.tensor([[1.0], [8.0]]))
    assert index.tolist() == [[0, 1], [2, 1]]
    near, far = math.exp(-1 / 8), math.exp(-4 / 8)  # at distances of 1 and 2, over 2 sigma^2
    assert share[0].tolist() == pytest.approx([near / (near + far), far / (near + far)])
    near, far = math.exp(-1 / 8), math.exp(-25 / 8)
    assert share[1].tolist() == pytest.approx([near / (near + far), far / (near + far)])
    bins.learn(torch.tensor([[0.0], [0.0], [3.0], [9.0]]), find=False, uniform=0.25)
    kernel = [[math.exp(-((a - b) ** 2) / 8) for a in (0, 3, 9)] for b in (0, 3, 9)]
    smooth = [sum(kernel[j][i] / sum(kernel[j]) * (0.5, 0.25, 0.25)[j] for j in range(3)) for i in range(3)]
    raw = [1 / (0.75 * p + 0.25 / 3) for p in smooth]
    scale = sum(p * w for p, w in zip(smooth, raw, strict=True))
    assert bins.weights.tolist() == pytest.approx([w / scale for w in raw], rel=1e-5)
    assert bins.centers[:, 0].tolist() == [0, 3, 9], "they stay where find is off"


def test_every_place_has_its_bins_its_shares_and_its_nearest_bins_weight() -> None:
    bins = Bins(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), neighbors=2)
    bins.weights.copy_(torch.tensor([1.0, 2.0, 3.0]))
    values = torch.tensor([[[[1.0, 9.0, 2.0]], [[2.0, 1.0, 8.0]]], [[[0.0, 6.0, 4.0]], [[6.0, 1.0, 1.0]]]])
    values.requires_grad_()
    index, shares, weights = bins.target(values)
    assert index.shape == shares.shape == (2, 2, 1, 3) and weights.shape == (2, 1, 3)
    assert index[:, 0, 0].tolist() == [[0, 1, 2], [2, 1, 0]] == bins.numbers(values)[:, 0].tolist()
    assert index[:, 1, 0].tolist() == [[2, 0, 0], [0, 0, 1]]
    assert weights[:, 0].tolist() == [[1, 2, 3], [3, 2, 1]]
    assert not shares.requires_grad and not weights.requires_grad
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2, 1, 3))
    first, second = math.exp(-5 / 50), math.exp(-(1 + 64) / 50)  # of (1, 2), from (0, 0) and (0, 10)
    assert shares[0, 0, 0, 0].item() == pytest.approx(first / (first + second), rel=1e-5)


def test_the_grid_is_as_fine_as_it_is_asked_to_be() -> None:
    """The cells of a step that holds all of ab are one; those of 55 are the few that colours round to."""
    assert ab_grid(300).tolist() == [[0, 0]]
    coarse = ab_grid(55)
    torch.manual_seed(0)
    colors = lab(torch.rand(20_000, 3))[:, 1:]
    found = {tuple(cell) for cell in ((colors / 55).round() * 55).add(0.0).unique(dim=0).tolist()}
    assert found <= {tuple(cell) for cell in coarse.tolist()} and len(coarse) <= len(found) + 2
    assert (coarse.remainder(55) == 0).all()
    assert ab_grid().tolist() == ab_grid(10).tolist()
    corners = lab(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]))[:, 1:]
    grid = {tuple(cell) for cell in ab_grid().tolist()}
    assert all(tuple(cell) in grid for cell in ((corners / 10).round() * 10).add(0.0).tolist())


def test_an_eighth_and_one_of_each_part_are_drawn_at_random_until_there_are_enough() -> None:
    parts = [torch.arange(100.0 * k, 100.0 * k + 60)[:, None] for k in range(20)]
    found = sampled(iter(parts), 64)[:, 0]
    assert len(found) == 64 and len(found.unique()) == 64
    counts = torch.bincount((found / 100).long())
    assert counts.tolist() == [9] * 7 + [1], "64 / 8 + 1 of each, and what is left of the last"
    assert (found[:9] != torch.arange(9)).any()
    few = sampled(iter([torch.zeros(3, 2), torch.ones(2, 2)]), 800)
    assert few.tolist() == [[0, 0]] * 3 + [[1, 1]] * 2, "all that there are"
    assert len(sampled(iter([torch.zeros(3, 2)] * 9), 3)) == 3, "one of each, and no more than are wanted"


def test_the_temperature_of_decoding_is_the_papers() -> None:
    """Zhang et al., ECCV 2016, eq. 5: 0.38."""
    bins = Bins(torch.tensor([[1.0], [5.0]]), neighbors=1)
    logits = torch.tensor([0.3, 0.1]).view(1, 2, 1, 1)
    ratio = math.exp((0.1 - 0.3) / 0.38)
    assert bins.annealed_mean(logits).item() == pytest.approx((1 + 5 * ratio) / (1 + ratio), rel=1e-5)
    ratio = math.exp((0.1 - 0.3) / 2.0)
    assert bins.annealed_mean(logits, temperature=2.0).item() == pytest.approx((1 + 5 * ratio) / (1 + ratio), rel=1e-5)
