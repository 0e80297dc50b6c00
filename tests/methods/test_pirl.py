"""PIRL's view of patches, its two terms by formula (Misra & van der Maaten, CVPR 2020), and its bank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.methods.pirl import PIRL, ShuffledPatches, method
from mmssl.objectives.bank import reserve
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch, Pretext, View

sys.path.insert(0, str(Path(__file__).parent))
from two_views import (
    DIM,
    HERE,
    INDEX,
    ROWS,
    SAMPLES,
    Tiny,
    defaults,
    detached,
    first_draw,
    nce_by_hand,
    normaliser,
    outline,
    same,
    shown,
    stir,
    unit,
)

PICTURES = {"image": ImagePreprocess(32)}
STILL = {"color_jitter": None, "grayscale": None}


def joined(image: dict[str, Any], patches: dict[str, Any], **grid: int) -> View:
    """The method's view with changes to the crop's steps and to those of the patches."""
    return method.view(PICTURES, image=image, patches={"image": {"shuffled_patches": grid, **patches}})


def pictures(views: int) -> Batch:
    """The batch of vectors, as if they were images."""
    made = shown(views)
    return Batch({"image": made.views["pulse"]}, extra={"image_present": HERE, "index": INDEX})


@pytest.mark.parametrize("bf16", [False, True])
def test_picture_and_joined_patches_are_told_from_noise_and_the_picture_is_remembered(bf16: bool) -> None:
    encoders, batch, drawn = {"other": Tiny(3), "image": Tiny()}, pictures(5), first_draw(5)
    options = {"patches": 4, "temperature": 0.5, "negatives": 5, "momentum": 0.75, "patch_weight": 0.2}
    objective = PIRL(encoders, embed_dim=4, **options)
    reserve(objective, SAMPLES)
    stir(objective)
    rows = objective.bank.rows.clone()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # for the networks alone
        picture, *patches = encoders["image"](torch.cat(batch.views["image"])).pooled.split(ROWS)
        whole = unit(objective.head.layers(picture).float())
        joined = unit(objective.join(torch.cat([objective.patch_head.layers(x) for x in patches], dim=1)).float())
        loss = objective(encoders, batch)
    log_z = normaliser(whole[HERE], rows, drawn, 0.5)
    terms = [nce_by_hand(x[HERE], rows, INDEX[HERE], drawn, log_z, 0.5).mean() for x in (whole, joined)]
    same(loss.total, 0.8 * terms[0] + 0.2 * terms[1], objective, encoders["image"])
    detached(loss, "image", whole)
    assert set(loss.logs) == {"loss_picture", "loss_patches"}
    torch.testing.assert_close(loss.logs["loss_picture"], terms[0].detach())
    torch.testing.assert_close(loss.logs["loss_patches"], terms[1].detach())
    assert not any(value.requires_grad for value in loss.logs.values())
    objective.after_step(encoders, 0.5)
    expected = rows.clone()
    expected[INDEX[HERE]] = unit(0.75 * rows[INDEX[HERE]] + 0.25 * whole.detach()[HERE])
    torch.testing.assert_close(objective.bank.rows, expected)
    objective.eval()(encoders, batch)
    objective.after_step(encoders, 0.5)
    torch.testing.assert_close(objective.bank.rows, expected, msg="an evaluation leaves none")
    with pytest.raises(UserError, match="5 patches are shown, 4 expected"):
        objective(encoders, pictures(6))


def test_heads_are_linear() -> None:
    objective = PIRL({"image": Tiny()}, embed_dim=4, patches=4)
    assert outline(objective.head.layers) == outline(objective.patch_head.layers) == [f"{DIM}-4 +bias"]
    assert outline([objective.join]) == ["16-4 +bias"]
    assert objective.spaces() == {"image": objective.head}
    assert PIRL({"image": Tiny(), "image_b": Tiny(3)}, encoder="image_b").uses == ("image_b",)
    with pytest.raises(UserError, match="not counted"):
        reserve(objective, None)


@pytest.mark.parametrize(("size", "cell", "side"), [(224, 85, 64), (112, 42, 32), (32, 12, 9), (448, 170, 128)])
def test_cells_and_patches_have_the_papers_share_of_the_crop(size: int, cell: int, side: int) -> None:
    """Patches of 64 from cells of 85 pixels in a 3 x 3 grid of 255, beside a crop of 224."""
    view = method.view({"image": ImagePreprocess(size)})
    crop, whole = view.blanks("image")
    assert crop.shape == (3, size, size) and whole.shape == (3, 3 * cell, 3 * cell)
    _, *patches = view.on_device(Batch({"image": [crop[None], whole[None]]})).views["image"]
    assert [x.shape for x in patches] == [(1, 3, side, side)] * 9
    given = joined({}, {}, grid=2, cell=11, patch=10)
    crop, whole = given.blanks("image")
    _, *patches = given.on_device(Batch({"image": [crop[None], whole[None]]})).views["image"]
    assert whole.shape == (3, 22, 22) and [x.shape for x in patches] == [(1, 3, 10, 10)] * 4


def test_the_view_jitters_as_the_paper_does() -> None:
    colors = [ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2), Grayscale(p=0.2)]
    crop, patches = method.view(PICTURES).steps["image"]
    assert crop == [Crop(scale=(0.08, 1.0)), Flip(p=0.5), *colors]
    assert patches == [Crop(scale=(0.6, 1.0)), Flip(p=0.5), ShuffledPatches(grid=3), *colors]


def test_the_objective_says_how_many_patches_there_are() -> None:
    encoders: dict[str, Any] = {"image": Tiny()}
    encoders["image"].preprocess = PICTURES["image"]
    view = Pretext(PIRL(encoders, patches=4), method.view, {}).show(encoders)
    assert view.blanks("image")[1].shape == (3, 24, 24)
    with pytest.raises(UserError, match="patch is 4; expected at most a cell's side, 3 of 8 pixels"):
        method.view({"image": ImagePreprocess(8)}, patches={"image": {"shuffled_patches": {"patch": 4}}})
    method.view({"image": ImagePreprocess(8)}, patches={"image": {"shuffled_patches": {"patch": 3}}})
    with pytest.raises(UserError, match=r"shuffled_patches\.grid is 3, but the objective makes it 2"):
        wrong = {"patches": {"image": {"shuffled_patches": {"grid": 3}}}}
        Pretext(PIRL(encoders, patches=4), method.view, wrong).show(encoders)
    with pytest.raises(UserError, match="patches is 8; expected a square"):
        PIRL(encoders, patches=8)


def ramps(size: int) -> Tensor:
    """An image whose red is its column and green its row, in steps of one of 255."""
    across = torch.arange(size).expand(size, size)
    return torch.stack([across, across.T, torch.zeros_like(across)]).to(torch.uint8)


def test_a_sample_is_cropped_twice_each_by_its_own_share_of_the_area() -> None:
    one, other = ({"crop": {"scale": (scale, scale), "ratio": (1.0, 1.0)}, **STILL} for scale in (0.25, 1.0))
    view = joined(one, other)
    crop, whole = view({"image": ramps(200)})["image"]
    assert crop.shape == (3, 32, 32) and whole.shape == (3, 36, 36)
    for x, extent in ((crop, 100), (whole, 200)):  # pixels of the image, the half ones at the rim left out
        seen = x[:2].flatten(1).int()
        spread = (seen.amax(1) - seen.amin(1)).tolist()
        assert spread == pytest.approx([extent, extent], abs=extent * 0.06)
    assert "image" not in view({})


def test_each_patch_comes_from_a_cell_of_its_own_in_an_order_of_each_samples() -> None:
    view = joined(STILL, STILL, grid=2, cell=6, patch=4)
    whole = torch.arange(144.0).view(12, 12).expand(16, 3, 12, 12) / 255
    crop = torch.rand(16, 3, 32, 32)
    same_crop, *patches = view.on_device(Batch({"image": [crop, whole]})).views["image"]
    torch.testing.assert_close(same_crop, crop)
    assert [x.shape for x in patches] == [(16, 3, 4, 4)] * 4
    orders, offsets = set(), set()
    for sample in range(16):
        order = []
        for patch in patches:
            first = round(patch[sample, 0, 0, 0].item() * 255)
            top, left = divmod(first, 12)
            torch.testing.assert_close(patch[sample], whole[sample, :, top : top + 4, left : left + 4])
            order.append((top // 6, left // 6))
            offsets.add((top % 6, left % 6))
            assert top % 6 <= 2 and left % 6 <= 2, "within the cell"
        assert sorted(order) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        orders.add(tuple(order))
    assert len(orders) > 6 and len(offsets) == 9


def test_crop_and_patches_are_recoloured_each_on_its_own() -> None:
    bright = {"p": 1.0, "brightness": 0.4, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    colors = {"color_jitter": bright, "grayscale": None}
    view = joined(colors, colors, grid=2, cell=6, patch=6)
    crop, *patches = view.on_device(
        Batch({"image": [torch.full((3, 3, 32, 32), 0.5), torch.full((3, 3, 12, 12), 0.5)]})
    ).views["image"]
    colours = [x[:, 0, 0, 0] for x in (crop, *patches)]
    for x, colour in zip((crop, *patches), colours, strict=True):
        torch.testing.assert_close(x, colour[:, None, None, None].expand_as(x))
    assert len({round(float(c), 5) for colour in colours for c in colour}) == 15
    assert all(0.3 <= float(c) <= 0.7 for colour in colours for c in colour)


@pytest.mark.parametrize("wrong", [{"grid": 0}, {"cell": 8, "patch": 9}])
def test_a_grid_that_holds_no_patches_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="holds no patches"):
        joined({}, {}, **wrong)
    joined({}, {}, grid=1)
    joined({}, {}, cell=9, patch=9)


def test_the_defaults_are_the_papers() -> None:
    """128 dimensions, 0.07, 32000 negatives, memory weight 0.5, lambda 0.5, nine patches."""
    assert defaults(PIRL) == {
        "embed_dim": 128,
        "patches": 9,
        "temperature": 0.07,
        "negatives": 32000,
        "momentum": 0.5,
        "patch_weight": 0.5,
        "encoder": None,
    }
    assert method.objective is PIRL
