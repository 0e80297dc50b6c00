"""The sparse U-Net: voxels in, a feature for every point out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.encoders import create_encoder
from mmssl.encoders.sparse_unet import mean_of, voxelize
from mmssl.errors import UserError
from mmssl.modalities.points import Cloud
from mmssl.nn import sparse
from mmssl.types import Encoder, Ragged

SMALL: dict[str, Any] = {"planes": (8, 12, 12, 8), "voxel": 0.2}


def made(**options: Any) -> Encoder:
    """Returns a small network whose normalisation has seen some clouds, ready to judge."""
    encoder = create_encoder("sparse_unet", **{**SMALL, **options})
    encoder(packed(*(torch.rand(80, encoder.preprocess.blank().shape[1]) for _ in range(3))))
    return encoder.eval()


def packed(*clouds: Tensor) -> Ragged:
    return Ragged.pack(clouds)


def weights_of(planes: tuple[int, ...], layers: tuple[int, ...]) -> int:
    """Counts by hand: convolutions without bias, a scale and a shift behind each, no last layer; one channel in."""

    def conv(inputs: int, outputs: int, cells: int) -> int:
        return cells * inputs * outputs + 2 * outputs

    def blocks(inputs: int, outputs: int, count: int) -> int:
        short = conv(inputs, outputs, 1) if inputs != outputs else 0
        return short + conv(inputs, outputs, 27) + (2 * count - 1) * conv(outputs, outputs, 27)

    total, width, kept = conv(1, planes[0], 27), planes[0], []
    for plane, layer in zip(planes[:4], layers[:4], strict=True):
        kept.append(width)
        total += conv(width, width, 8) + blocks(width, plane, layer)
        width = plane
    for plane, layer in zip(planes[4:], layers[4:], strict=True):
        total += conv(width, plane, 8) + blocks(plane + kept.pop(), plane, layer)
        width = plane
    return total


def test_res16unet34c_is_as_large_as_the_original() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in create_encoder("sparse_unet:res16unet34c").parameters())
    assert count == weights_of((32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2))
    assert round(count / 1e6, 1) == 37.8


@pytest.mark.parametrize("variant", ["res16unet18a", "res16unet14a", "tiny"])
def test_variants_are_smaller(variant: str) -> None:
    encoder = create_encoder(f"sparse_unet:{variant}", voxel=0.2)
    assert encoder.dim == (32 if variant == "tiny" else 96)
    assert sum(p.numel() for p in encoder.parameters()) < 22e6
    assert encoder(packed(torch.rand(60, 3))).pooled.shape == (1, encoder.dim)


def test_tokens_follow_the_order_of_the_points_and_are_shared_in_a_voxel() -> None:
    encoder, cloud = made(), torch.rand(50, 3)
    tokens = encoder(packed(cloud)).tokens
    order = torch.randperm(50)
    torch.testing.assert_close(encoder(packed(cloud[order])).tokens, tokens[order])
    cell = torch.floor(cloud.double() / 0.2)
    same = (cell[:, None] == cell).all(2)
    together = (tokens[:, None] == tokens).all(2)
    assert same.sum() > 50 and torch.equal(together, same)


def test_a_cloud_is_encoded_alike_in_any_batch_and_whole_voxels_away() -> None:
    encoder, (a, b) = made(voxel=0.25), torch.rand(2, 40, 3)
    alone, both = encoder(packed(b)), encoder(packed(a, b))
    torch.testing.assert_close(both.pooled[1:], alone.pooled)
    torch.testing.assert_close(both.tokens[40:], alone.tokens)
    assert both.lengths.tolist() == [40, 40]
    torch.testing.assert_close(encoder(packed(b + torch.tensor([2.0, -0.5, 100.0]))).tokens, alone.tokens)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pooling_counts_voxels_not_points(pool: str) -> None:
    encoder, cloud = made(pool=pool), torch.rand(50, 3)
    once = encoder(packed(cloud))
    torch.testing.assert_close(encoder(packed(torch.cat([cloud, cloud[:20]]))).pooled, once.pooled)
    each = torch.unique(once.tokens, dim=0)
    voxels = len(torch.unique(torch.floor(cloud.double() / 0.2), dim=0))
    assert len(each) == voxels
    torch.testing.assert_close(once.pooled[0], each.mean(0) if pool == "mean" else each.amax(0))


def test_means_of_many_hold_in_half_precision() -> None:
    ones = torch.ones(5000, 1, dtype=torch.bfloat16)
    assert mean_of(ones, torch.zeros(5000, dtype=torch.long), 2).tolist() == [[1.0], [0.0]]


def test_features_are_averaged_in_a_voxel() -> None:
    encoder = made(features=("color",))
    xyz = torch.tensor([[0.05, 0.05, 0.05], [0.1, 0.1, 0.1], [0.5, 0.5, 0.5]])
    colors = torch.tensor([[0.0, 0.2, 0.4], [1.0, 0.4, 0.0], [0.3, 0.3, 0.3]])
    mean = colors.clone()
    mean[:2] = colors[:2].mean(0)
    given, averaged = (encoder(packed(torch.cat([xyz, c], dim=1))).tokens for c in (colors, mean))
    torch.testing.assert_close(given, averaged)
    assert not torch.allclose(given, encoder(packed(torch.cat([xyz, 1 - mean], dim=1))).tokens)


def test_coordinates_are_features_only_when_asked() -> None:
    near, far = torch.rand(30, 3), torch.tensor([4.0, 0.0, 0.0])
    for asked in (False, True):
        encoder = made(coordinates=asked, voxel=0.25)
        unmoved = torch.allclose(encoder(packed(near)).pooled, encoder(packed(near + far)).pooled, atol=1e-5)
        assert unmoved is not asked


def test_clouds_of_one_point_and_batches_of_none_are_welcome() -> None:
    encoder = create_encoder("sparse_unet", **SMALL)
    none = Ragged(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    for x in (packed(torch.zeros(1, 3)), none, packed(torch.zeros(1, 3), torch.zeros(0, 3), torch.rand(9, 3))):
        features = encoder.train()(x)
        assert features.pooled.shape == (len(x), 8) and features.tokens.shape == (len(x.values), 8)
        features.pooled.sum().backward()
        assert features.pooled.isfinite().all()
    blanks = encoder.preprocess.collate([encoder.preprocess.blank()] * 2)
    assert encoder(blanks).lengths.tolist() == [1, 1]
    assert encoder.encode([Cloud(np.zeros((1, 3)))]).shape == (1, 8)


@pytest.mark.parametrize("far", [5e5, 1e30])
def test_points_too_far_apart_are_refused(far: float) -> None:
    with pytest.raises(UserError, match="take larger voxels or smaller clouds"):
        made()(packed(torch.tensor([[0.0, 0.0, 0.0], [0.0, far, 0.0]])))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"planes": (8, 8, 8)}, "3 planes, 3 layers; give as many, an even number"),
        ({"layers": (1, 1)}, "8 planes, 2 layers"),
        ({"voxel": 0.0}, "expected a size in metres above 0"),
        ({"features": ("smell",)}, "points have no feature 'smell'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_encoder("sparse_unet", **options)


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'res16unet34c'"):
        create_encoder("sparse_unet:res16unet34")


def outcome(device: str, precision: torch.dtype | None) -> list[Tensor]:
    """Returns tokens and the gradient of all weights of a small network, in float32 or by autocast."""
    torch.manual_seed(0)
    network = create_encoder("sparse_unet:tiny", voxel=0.2).to(device)
    x = network.preprocess.collate([torch.rand(300, 3), torch.rand(200, 3)]).to(device)
    with torch.autocast(device, precision, enabled=precision is not None):
        tokens = network(x).tokens
    assert tokens is not None and tokens.dtype == (precision or torch.float32)
    tokens.float().square().mean().backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    assert len(gradients) == len(list(network.parameters()))
    return [tokens.detach().float().cpu(), torch.cat(gradients).cpu()]


def check_alike(found: list[Tensor], expected: list[Tensor], most: float) -> None:
    for mine, reference in zip(found, expected, strict=True):
        assert float((mine - reference).norm()) <= most * float(reference.norm())


@pytest.mark.parametrize(("precision", "most"), [(None, 1e-4), (torch.bfloat16, 0.2)])
def test_the_way_of_a_gpu_gives_the_same(
    precision: torch.dtype | None, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome("cpu", None)
    monkeypatch.setattr(sparse, "_Pairs", sparse._Columns)
    check_alike(outcome("cpu", precision), expected, most)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("precision", "most"), [(None, 1e-2), (torch.bfloat16, 0.2)])
def test_a_gpu_gives_the_same(precision: torch.dtype | None, most: float) -> None:
    check_alike(outcome("cuda", precision), outcome("cpu", None), most)


def shown(xyz: Tensor, features: Tensor) -> Ragged:
    return packed(torch.cat([xyz, features], dim=1))


@pytest.mark.parametrize("isotropic", [True, False])
def test_quarter_turns_change_nothing_where_kernels_are_isotropic(isotropic: bool) -> None:
    """A cube of 8 voxels a side, so that coarser voxels turn onto each other as well, with its corners occupied."""
    encoder = made(features=("shape",), isotropic=isotropic)
    cells = torch.cat([torch.randint(8, (150, 3)), torch.tensor([[0, 0, 0], [7, 7, 7]])])
    xyz, features = (cells + 0.5) * 0.2 - 0.8, torch.rand(152, 9)
    tokens = encoder(shown(xyz, features)).tokens
    for axes, sign in (((1, 0, 2), (-1, 1, 1)), ((0, 2, 1), (1, 1, -1)), ((2, 1, 0), (-1, 1, 1))):
        turned = encoder(shown(xyz[:, axes] * torch.tensor(sign), features)).tokens
        assert torch.allclose(turned, tokens, atol=1e-5) == isotropic


def test_isotropic_kernels_share_a_matrix_by_distance() -> None:
    """3 cubed: the middle, 6 faces, 12 edges, 8 corners; 2 cubed: all 8 equally far; gradients add up."""
    conv = sparse.SparseConv(2, 3)
    sparse.make_isotropic(conv)
    assert conv.weight.shape == (4, 2, 3)
    own = sparse.SparseConv(2, 3)
    distance = [abs(x) + abs(y) + abs(z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    own.weight.data = conv.weight.data[distance].clone()
    sites, _ = voxelize(torch.rand(60, 3), torch.zeros(60, dtype=torch.long), 1, 0.2)
    x = torch.rand(len(sites), 2)
    torch.testing.assert_close(conv(x, sites), own(x, sites))
    for each in (conv, own):
        each(x, sites).square().sum().backward()
    assert own.weight.grad is not None
    expected = torch.zeros(4, 2, 3).index_add(0, torch.tensor(distance), own.weight.grad)
    torch.testing.assert_close(conv.weight.grad, expected)
    down = sparse.SparseConv(2, 3, 2, stride=2)
    sparse.make_isotropic(down)
    assert down.weight.shape == (1, 2, 3)
    wide = sparse.SparseConv(1, 1, 5)
    sparse.make_isotropic(wide)
    assert len(wide.weight) == 10, "squared distances 0 1 2 3 4 5 6 8 9 12"


def test_isotropic_encoders_are_saved(tmp_path: Path) -> None:
    encoder = made(features=("shape",), isotropic=True)
    save_encoder(encoder, tmp_path / "e")
    again, x = load_encoder(tmp_path / "e").eval(), torch.rand(40, 12)
    torch.testing.assert_close(again(packed(x)).tokens, encoder(packed(x)).tokens)
