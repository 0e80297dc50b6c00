"""Heads on cells, k-means, and colour spaces."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.nn.head import Cells, Dilated, append_coordinates
from mmssl.numerics import kmeans as clustering
from mmssl.numerics.color import gray, lab, srgb
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.types import Features


@pytest.mark.parametrize("options", [{}, {"hidden": (20,)}, {"coordinates": True}])
def test_cells_are_projected_one_by_one_to_unit_length(options: dict) -> None:
    head = Cells(12, out=8, **options).eval()
    features = Features(torch.randn(3, 12), torch.randn(3, 24, 12), grid=(4, 2, 3))
    out = head(features)
    assert out.shape == (3, 24, 8)
    torch.testing.assert_close(out.norm(dim=2), torch.ones(3, 24))
    again = Cells(**head.config()).eval()
    again.load_state_dict(head.state_dict(), strict=True)
    torch.testing.assert_close(again(features), out)
    assert features.tokens is not None
    features.tokens[0, 5] += 1
    changed = (head(features) != out).any(dim=2).nonzero().tolist()
    assert changed == [[0, 5]]


def test_packed_cells_stay_packed_and_match_the_plain_formula() -> None:
    head = Cells(12, out=8)
    tokens = torch.randn(7, 12)
    expected = F.normalize(tokens @ head.layers[0].weight.T, dim=1)
    out = head(Features(torch.randn(2, 12), tokens, lengths=torch.tensor([3, 4])))
    torch.testing.assert_close(out, expected)


def test_heads_say_which_encoder_they_need() -> None:
    with pytest.raises(UserError, match="gives none"):
        Cells(4)(Features(torch.zeros(1, 4)))
    with pytest.raises(UserError, match="lie on no grid"):
        Dilated(4)(Features(torch.zeros(1, 4), torch.zeros(1, 6, 4)))


def test_coordinates_run_from_side_to_side_in_every_frame() -> None:
    placed = append_coordinates(torch.zeros(1, 12, 1), (2, 2, 3))[0].view(2, 2, 3, 3)
    torch.testing.assert_close(placed[1, 0, :, 1], torch.tensor([-2 / 3, 0, 2 / 3]))
    torch.testing.assert_close(placed[0, :, 1, 2], torch.tensor([-0.5, 0.5]))


def test_the_dilated_head_reaches_as_far_as_its_dilations() -> None:
    torch.manual_seed(0)
    head = Dilated(4, out=8, width=6, dilations=(1, 2)).eval()
    tokens = torch.randn(1, 3 * 9 * 9, 4, requires_grad=True)
    out = head(Features(torch.zeros(1, 4), tokens, grid=(3, 9, 9)))
    assert out.shape == (1, 243, 8)
    torch.testing.assert_close(out.norm(dim=2), torch.ones(1, 243))
    (gradient,) = torch.autograd.grad(out[0, 81 + 4 * 9 + 4, 0], tokens)
    seen = gradient.abs().sum(2).view(3, 9, 9) > 0
    assert seen.any(dim=2).any(dim=1).all()
    assert seen.any(0)[4].tolist() == [False, True, True, True, True, True, True, True, False]
    again = Dilated(**head.config())
    again.load_state_dict(head.state_dict(), strict=True)
    assert Dilated(4).config()["dilations"] == [1, 2, 4, 8, 16]


def test_kmeans_finds_the_blobs_and_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = torch.tensor([[-9.0, 0.0], [-3.0, 8.0], [0.0, 0.0], [7.0, 7.0]])
    x = truth.repeat_interleave(50, dim=0) + 0.3 * torch.randn(200, 2)
    for seed in range(5):
        found = kmeans(x, 4, seed=seed)
        torch.testing.assert_close(found, x.view(4, 50, 2).mean(dim=1))
    torch.testing.assert_close(kmeans(x, 7, seed=1), kmeans(x, 7, seed=1), rtol=0, atol=0)
    labels, distances = nearest(x, truth)
    expected = (x[:, None] - truth).square().sum(2).min(dim=1)
    torch.testing.assert_close(distances, expected.values)
    assert torch.equal(labels, expected.indices)
    monkeypatch.setattr(clustering, "CHUNK", 17)  # a few points at a time
    assert torch.equal(nearest(x, truth)[0], labels)


def test_kmeans_moves_empty_clusters_and_takes_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[0.0], [0.1], [10.0], [10.2], [50.0]])
    monkeypatch.setattr(clustering, "_spread", lambda *_: torch.tensor([[0.0], [900.0], [901.0]]))
    assert kmeans(x, 3)[:, 0].tolist() == pytest.approx([0.05, 10.1, 50.0])
    monkeypatch.undo()
    assert kmeans(torch.ones(3, 2), 5).unique().tolist() == [1.0]
    with pytest.raises(UserError, match="at least one point"):
        kmeans(torch.zeros(0, 2), 2)


# sRGB -> CIE Lab under D65, as colour tables have it.
KNOWN = {
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (128, 128, 128): (53.59, 0.0, 0.0),
}


def test_lab_has_the_known_values() -> None:
    rgb = torch.tensor(list(KNOWN), dtype=torch.uint8)
    expected = torch.tensor(list(KNOWN.values()))
    torch.testing.assert_close(lab(rgb), expected, rtol=0, atol=0.03)
    clip = rgb.T[None, :, :, None].expand(2, 3, len(rgb), 4)
    torch.testing.assert_close(lab(clip)[1, :, :, 2].T, lab(rgb), rtol=0, atol=1e-3)
    torch.testing.assert_close(lab(rgb / 255), lab(rgb), rtol=0, atol=1e-3)


def test_dark_colours_lie_on_the_straight_part_of_the_curve() -> None:
    red, green, blue = (value / 255 / 12.92 for value in (3, 2, 1))
    x = (0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047
    y = 0.2126729 * red + 0.7151522 * green + 0.0721750 * blue
    z = (0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883
    expected = torch.tensor([[903.2963 * y, 500 * 7.787037 * (x - y), 200 * 7.787037 * (y - z)]])
    found = lab(torch.tensor([[3, 2, 1]], dtype=torch.uint8))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_lab_and_back() -> None:
    torch.manual_seed(0)
    rgb = torch.rand(50, 3, 7)
    torch.testing.assert_close(srgb(lab(rgb)), rgb, rtol=1e-4, atol=1e-4)
    wide = torch.cat([torch.full((50, 1), 50.0), 90 * torch.randn(50, 2)], dim=1)
    assert srgb(wide).min() < 0 and srgb(wide).max() > 1
    torch.testing.assert_close(lab(srgb(wide)), wide, rtol=1e-3, atol=0.05)


def test_gray_keeps_the_luma_in_three_equal_channels() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 5, 5), dtype=torch.uint8)
    y = gray(x)
    assert y.dtype == torch.uint8 and torch.equal(y[:, 0], y[:, 2])
    expected = 0.299 * x[:, 0].float() + 0.587 * x[:, 1].float() + 0.114 * x[:, 2].float()
    torch.testing.assert_close(y[:, 1].float(), expected, rtol=0, atol=0.51)
    torch.testing.assert_close(gray(x / 255)[:, 1], expected / 255)
    assert lab(gray(x))[:, 1:].abs().max() < 0.05, "no colour is left"
