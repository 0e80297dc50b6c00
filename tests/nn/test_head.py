"""Heads against their formulas, what each option builds, and that they are built again; and transformer blocks."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.nn.blocks import Attention, Blocks, DropPath
from mmssl.nn.head import Cells, Dilated, Leading, Middle, Projection, append_coordinates, similarity_map
from mmssl.types import Features, Head


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()


def kinds(head: Any) -> list[str]:
    """Names layer by layer: a linear one with + for a bias, BatchNorm with + for a scale."""
    return [
        f"{type(x).__name__}{'+' if getattr(x, 'bias', None) is not None else ''}"
        if isinstance(x, nn.Linear | nn.BatchNorm1d)
        else type(x).__name__
        for x in head.layers
    ]


def stir(head: nn.Module) -> None:
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.5 * torch.randn_like(p))


def again(head: Head, features: Features) -> None:
    """Builds the head again of its config, and holds that it gives the same."""
    config = head.config()
    made = type(head)(config.pop("dim"), **config)
    made.load_state_dict(head.state_dict(), strict=True)
    assert made.config() == head.config() and "dim" not in config, "what is returned is a copy"
    torch.testing.assert_close(made.eval()(features), head.eval()(features))


LINEAR = ["Linear", "BatchNorm1d+", "ReLU"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Linear"]),
        ({"bias": True}, ["Linear+"]),
        ({"last_norm": True}, ["Linear", "BatchNorm1d+"]),
        ({"last_norm": True, "affine": False}, ["Linear", "BatchNorm1d"]),
        ({"hidden": (5,)}, [*LINEAR, "Linear"]),
        ({"hidden": (5,), "norm": False}, ["Linear+", "ReLU", "Linear"]),
        ({"hidden": (5, 4), "gelu": True}, ["Linear", "BatchNorm1d+", "GELU"] * 2 + ["Linear"]),
        ({"out": None}, []),
    ],
)
def test_a_projection_is_its_layers_at_unit_length_and_is_built_again(
    options: dict[str, Any], expected: list[str]
) -> None:
    head = Projection(6, **{"out": 3, **options})
    assert kinds(head) == expected
    stir(head)
    features = Features(torch.randn(7, 6))
    projected = head.layers(features.pooled)
    assert projected.shape == (7, 3 if expected else 6)
    torch.testing.assert_close(head.project(features.pooled), projected)
    torch.testing.assert_close(head(features), unit(projected))
    again(head, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert head.project(features.pooled).dtype == head(features).dtype == torch.float32


def test_the_defaults_of_a_projection() -> None:
    given = {p.name: p.default for p in inspect.signature(Projection).parameters.values() if p.name != "dim"}
    assert given == {
        "out": 512,
        "hidden": (),
        "norm": True,
        "bias": False,
        "last_norm": False,
        "affine": True,
        "gelu": False,
        "dropout": 0.0,
    }
    assert Projection(6).config() == {"dim": 6, **given, "hidden": []}
    with pytest.raises(UserError, match="no hidden layers either"):
        Projection(6, out=None, hidden=(3,))


def test_the_middle_is_the_first_hidden_layer_behind_its_relu() -> None:
    head = Projection(6, out=3, hidden=(5, 4))
    stir(head)
    middle, features = Middle.of(head), Features(torch.randn(7, 6))
    expected = unit(head.layers[1](features.pooled @ head.layers[0].weight.T).relu())
    torch.testing.assert_close(middle(features), expected)
    assert middle.layers[0] is head.layers[0] and middle.config() == {"dim": 6, "out": 5}
    assert kinds(middle) == LINEAR
    again(middle, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert middle(features).dtype == torch.float32
    for without in ({"hidden": ()}, {"hidden": (5,), "norm": False}):
        with pytest.raises(UserError, match="has no middle"):
            Middle.of(Projection(6, out=3, **without))
    Middle.of(Projection(6, out=3, hidden=(5,)))


def test_the_leading_numbers_alone_are_kept() -> None:
    x = torch.randn(7, 6)
    head = Leading(6, out=4)
    torch.testing.assert_close(head(Features(x)), unit(x[:, :4]))
    assert head(Features(x.bfloat16())).dtype == torch.float32 and head.config() == {"dim": 6, "out": 4}
    for out in (1, 6):
        Leading(6, out=out)
    for out in (0, 7):
        with pytest.raises(UserError, match=f"takes {out} of 6 numbers; expected 1 to 6"):
            Leading(6, out=out)


PLACES = torch.tensor([[-2 / 3, -0.5], [0, -0.5], [2 / 3, -0.5], [-2 / 3, 0.5], [0, 0.5], [2 / 3, 0.5]])  # x, y


@pytest.mark.parametrize("frames", [1, 2])
def test_cells_know_their_places_row_by_row_in_every_frame(frames: int) -> None:
    tokens = torch.randn(3, frames * 6, 4)
    grid = (2, 3) if frames == 1 else (frames, 2, 3)
    placed = append_coordinates(tokens, grid)
    torch.testing.assert_close(placed[..., :4], tokens)
    torch.testing.assert_close(placed[..., 4:], PLACES.repeat(frames, 1).expand(3, -1, -1))
    assert append_coordinates(tokens.bfloat16(), grid).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Linear"]),
        ({"bias": True}, ["Linear+"]),
        ({"hidden": (5,)}, [*LINEAR, "Linear"]),
        ({"hidden": (5,), "norm": False, "coordinates": True}, ["Linear+", "ReLU", "Linear"]),
        ({"hidden": (5,), "norm": False, "gelu": True}, ["Linear+", "GELU", "Linear"]),
        ({"coordinates": True}, ["Linear"]),
    ],
)
def test_every_cell_is_projected_on_its_own(options: dict[str, Any], expected: list[str]) -> None:
    head = Cells(4, out=3, **options)
    assert kinds(head) == expected
    stir(head)
    features = Features(torch.zeros(2, 4), torch.randn(2, 6, 4), grid=(2, 3))
    tokens = features.tokens
    if options.get("coordinates"):
        tokens = torch.cat([tokens, PLACES.expand(2, -1, -1)], dim=2)
    torch.testing.assert_close(head(features), unit(head.layers(tokens.reshape(12, -1))).reshape(2, 6, 3))
    again(head, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features).dtype == torch.float32


def test_the_defaults_of_cells_and_what_they_need() -> None:
    given = {p.name: p.default for p in inspect.signature(Cells).parameters.values() if p.name != "dim"}
    assert given == {"out": 64, "hidden": (), "norm": True, "bias": False, "coordinates": False, "gelu": False}
    assert Cells(6).config() == {"dim": 6, **given, "hidden": []}
    packed = Features(torch.zeros(2, 4), torch.randn(5, 4), lengths=torch.tensor([2, 3]))
    head = Cells(4, out=3)
    torch.testing.assert_close(head(packed), unit(packed.tokens @ head.layers[0].weight.T))
    with pytest.raises(UserError, match="gives none"):
        Cells(4)(Features(torch.zeros(1, 4)))
    with pytest.raises(UserError, match="lie on no grid"):
        Cells(4, coordinates=True)(Features(torch.zeros(1, 4), torch.zeros(1, 6, 4)))


@pytest.mark.parametrize("grid", [(5, 4), (3, 5, 4)])
def test_the_dilated_head_is_convolutions_over_a_frame_and_then_over_frames(grid: tuple[int, ...]) -> None:
    head = Dilated(2, out=3, width=5, dilations=(1, 3))
    stir(head)
    cells = grid[-2] * grid[-1] * (grid[0] if len(grid) == 3 else 1)
    tokens = torch.randn(2, cells, 2)
    x = append_coordinates(tokens, grid).transpose(1, 2).reshape(2, 4, -1, 5, 4)
    layers = list(head.layers)
    for start, step in ((0, 1), (4, 3)):
        x = F.conv3d(x, layers[start].weight, padding=(0, step, step), dilation=(1, step, step))
        x = F.conv3d(x, layers[start + 1].weight, padding=(1, 0, 0))
        norm = layers[start + 2]
        x = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True).relu()
    x = F.conv3d(x, layers[8].weight, layers[8].bias)
    features = Features(torch.zeros(2, 2), tokens, grid=grid)
    torch.testing.assert_close(head(features), unit(x.flatten(2).transpose(1, 2)), rtol=1e-4, atol=1e-5)
    shapes = [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Conv3d)]
    frame, frames = (1, 3, 3), (3, 1, 1)
    assert shapes == [(5, 4, *frame), (5, 5, *frames), (5, 5, *frame), (5, 5, *frames), (3, 5, 1, 1, 1)]
    assert [layer.bias is None for layer in layers if isinstance(layer, nn.Conv3d)] == [True] * 4 + [False]
    again(head, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features).dtype == torch.float32


def test_the_defaults_of_the_dilated_head_are_the_papers() -> None:
    """Vondrick et al., ECCV 2018: five layers of 256 channels to 64, dilated 1, 2, 4, 8 and 16."""
    assert Dilated(4).config() == {"dim": 4, "out": 64, "width": 256, "dilations": [1, 2, 4, 8, 16]}
    with pytest.raises(UserError, match="lie on no grid"):
        Dilated(4)(Features(torch.zeros(1, 4), torch.zeros(1, 6, 4)))
    with pytest.raises(UserError, match="gives none"):
        Dilated(4)(Features(torch.zeros(1, 4), grid=(2, 3)))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("grid", [(2, 3), (1, 2, 3)])
def test_a_map_is_each_cells_product_with_what_it_is_told(dense: bool, grid: tuple[int, ...]) -> None:
    seen, told = Features(torch.randn(4, 5), torch.randn(4, 6, 5), grid=grid), torch.randn(4, 3)
    head = (Cells if dense else Projection)(5, out=3)
    found = similarity_map(seen, told, head)
    assert found.shape == (4, *grid)
    for sample in range(4):
        for cell in range(6):
            expected = unit(seen.tokens[sample, cell] @ head.layers[0].weight.T) @ told[sample]
            torch.testing.assert_close(found[sample].flatten()[cell], expected)


@pytest.mark.parametrize("lacking", [{"grid": (2, 3)}, {"tokens": torch.zeros(4, 6, 5)}])
def test_without_cells_on_a_grid_there_is_no_map(lacking: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no map without cells"):
        similarity_map(Features(torch.randn(4, 5), **lacking), torch.randn(4, 3), Projection(5, out=3))


def test_projection_starts_as_in_clip_and_can_be_left_out() -> None:
    torch.manual_seed(0)
    (layer,) = Projection(256, out=512).layers
    assert layer.bias is None
    assert layer.weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    x = torch.randn(3, 5)
    torch.testing.assert_close(Projection(5, out=None)(Features(x)), x / x.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_softmax_of_allowed_scores(causal: bool, masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if masked else None
    q, k, v = attention.qkv(x).view(2, 5, 3, 2, 4).unbind(2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / 4**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    if causal:
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    expected = attention.proj(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(2, 5, 8))
    torch.testing.assert_close(attention(x, mask=mask, causal=causal), expected)


def test_blocks_keep_the_variance_at_any_depth() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 10, 64)
    for depth in (1, 24):
        assert 0.8 < Blocks(64, depth=depth, heads=4)(x).std().item() < 2


def test_drop_path_keeps_the_mean_and_skips_whole_samples() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2)
    assert drop.eval()(x) is x
    out = drop.train()(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out[:, 0] == out[:, 1]).all()
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(Blocks(8, depth=3, heads=2, drop_path=0.2).layers[-1].drop_path.rate, 0.2)
