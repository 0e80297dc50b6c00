"""CPC: its grid of patches, its network of the rows above, and its loss (Henaff et al., ICML 2020)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.cpc import CPC, Patches, RowsAbove, method
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch, View

sys.path.insert(0, str(Path(__file__).parent))
from two_views import DIM, HERE, INPUTS, ROWS, Tiny, defaults, detached, outline, same, stir

PICTURES = {"image": ImagePreprocess(32)}


def grid(colors: dict[str, Any] | None = None, **options: int) -> View:
    """The method's view with a grid of its own, by default without changes of colour."""
    colors = {"color_jitter": None, "grayscale": None} if colors is None else colors
    return method.view(PICTURES, image={"patches": options, **colors})


def test_a_patch_is_foretold_by_the_rows_above_among_all_patches_of_those_present() -> None:
    encoders = {"other": Tiny(3), "image": Tiny()}
    objective = CPC(encoders, rows=(1, 2), embed_dim=4, scale=0.3, width=5, layers=2)
    stir(objective)
    views = [torch.randn(ROWS, INPUTS) for _ in range(9)]
    latents = torch.stack(encoders["image"](torch.cat(views)).pooled.split(ROWS), dim=1)  # (B, 9, D)
    context = objective.context(latents[HERE].mT.reshape(4, DIM, 3, 3)).relu()
    targets = objective.target(latents[HERE])  # (4, 9, E)
    keys, terms = targets.flatten(0, 1), []
    for below, foretell in zip((1, 2), objective.foretell, strict=True):
        found = [
            F.cross_entropy(
                0.3 * (keys @ foretell(context[i, :, row, column]))[None],
                torch.tensor([i * 9 + (row + below) * 3 + column]),
            )
            for i in range(4)
            for row in range(3 - below)
            for column in range(3)
        ]
        terms.append(torch.stack(found).mean())
    batch = Batch({"image": views}, extra={"image_present": HERE})
    loss = objective(encoders, batch)
    same(loss.total, sum(terms) / 2, objective, encoders["image"])
    detached(loss, "image", latents.mean(dim=1))
    torch.testing.assert_close(loss.logs, {"chance_loss": torch.tensor(4.0 * 9).log()})
    batch.extra["image_present"] = torch.zeros(ROWS, dtype=torch.bool)
    none = objective(encoders, batch)
    assert none.total == 0 and none.logs["chance_loss"] == 0


def test_each_place_sees_those_beside_it_and_one_row_above() -> None:
    layer = RowsAbove(2, 3)
    stir(layer)
    x = torch.randn(1, 2, 3, 4)
    enter, leave = layer.enter.weight[:, :, 0, 0], layer.leave.weight[:, :, 0, 0]
    hidden = {
        (r, c): (enter @ x[0, :, r, c] + layer.enter.bias).relu() if 0 <= c < 4 else torch.zeros(3)
        for r in range(3)
        for c in range(-1, 5)
    }
    nothing = torch.zeros(3)
    found = layer(x)
    for row in range(3):
        for column in range(4):
            beside = {}
            for r in (row - 1, row):
                seen = [layer.across.weight[:, :, 0, k] @ hidden[r, column - 1 + k] for k in range(3)] if r >= 0 else []
                beside[r] = sum(seen) + layer.across.bias if seen else nothing
            above = layer.above.weight[:, :, 0, 0] @ beside[row - 1] + layer.above.weight[:, :, 1, 0] @ beside[row]
            expected = x[0, :, row, column] + leave @ (above + layer.above.bias).relu() + layer.leave.bias
            torch.testing.assert_close(found[0, :, row, column], expected)
    assert [tuple(p.shape) for p in layer.parameters()] == [
        *((3, 2, 1, 1), (3,), (2, 3, 1, 1), (2,), (3, 3, 1, 3), (3,), (3, 3, 2, 1), (3,)),
    ]


def test_the_objective_has_the_sizes_that_are_given() -> None:
    objective = CPC({"image": Tiny()}, rows=[2, 3], embed_dim=4, width=5, layers=3)
    assert [tuple(layer.enter.weight.shape) for layer in objective.context] == [(5, DIM, 1, 1)] * 3
    assert outline([objective.target, *objective.foretell]) == [f"{DIM}-4 +bias"] * 3
    assert objective.rows == (2, 3) and objective.uses == ("image",) and objective.spaces() == {}


@pytest.mark.parametrize(("rows", "patches"), [((2,), 8), ((2,), 10), ((3,), 9), ((1, 3), 9)])
def test_patches_that_are_no_square_or_have_no_row_so_far_below_are_refused(
    rows: tuple[int, ...], patches: int
) -> None:
    objective = CPC({"image": Tiny()}, rows=rows, embed_dim=4, width=5, layers=1)
    with pytest.raises(UserError, match=f"{patches} patches are no square with {max(rows)} rows"):
        objective({"image": Tiny()}, Batch({"image": [torch.randn(2, INPUTS) for _ in range(patches)]}))


@pytest.mark.parametrize("rows", [(), (0,), (2, 0)])
def test_rows_begin_at_the_next(rows: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="rows is"):
        CPC({"image": Tiny()}, rows=rows)
    assert CPC({"image": Tiny()}, rows=(1,)).rows == (1,)


def test_the_grid_is_cut_from_a_crop_that_it_fills() -> None:
    view = grid(grid=3, cell=8, stride=5, patch=8)
    (whole,) = view({"image": torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8)})["image"]
    assert whole.shape == (3, 18, 18)
    picture = torch.rand(2, 3, 18, 18)
    patches = view.on_device(Batch({"image": [picture]})).views["image"]
    assert len(patches) == 9
    for number, patch in enumerate(patches):
        top, left = 5 * (number // 3), 5 * (number % 3)
        assert torch.equal(patch, picture[:, :, top : top + 8, left : left + 8])


def test_a_smaller_patch_lies_anywhere_in_its_cell() -> None:
    view = grid(grid=2, cell=6, stride=3, patch=4)
    picture = (torch.arange(81.0).view(9, 9) / 255).expand(40, 3, 9, 9)
    places = set()
    for number, patch in enumerate(view.on_device(Batch({"image": [picture]})).views["image"]):
        assert patch.shape == (40, 3, 4, 4)
        for sample in range(40):
            top, left = divmod(round(patch[sample, 0, 0, 0].item() * 255), 9)
            torch.testing.assert_close(patch[sample], picture[sample, :, top : top + 4, left : left + 4])
            places.add((top - 3 * (number // 2), left - 3 * (number % 2)))
    assert places == {(top, left) for top in range(3) for left in range(3)}


def test_colours_change_from_patch_to_patch() -> None:
    bright = {"p": 1.0, "brightness": 0.4, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    view = grid({"color_jitter": bright, "grayscale": None}, grid=2, cell=6, stride=3, patch=6)
    patches = view.on_device(Batch({"image": [torch.full((3, 3, 9, 9), 0.5)]})).views["image"]
    colours = torch.stack([patch[:, 0, 0, 0] for patch in patches])
    assert len(colours.flatten().unique()) == 12 and ((colours - 0.5).abs() <= 0.2).all()
    for patch, colour in zip(patches, colours, strict=True):
        torch.testing.assert_close(patch, colour[:, None, None, None].expand_as(patch))


@pytest.mark.parametrize("wrong", [{"grid": 1}, {"cell": 8, "patch": 9}, {"patch": 0}, {"stride": 0}])
def test_a_grid_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="patches no larger"):
        grid(**wrong)
    for allowed in ({"grid": 2}, {"cell": 8, "patch": 8}, {"patch": 1}, {"stride": 1}):
        grid(**allowed)


def test_the_views_options_reach_it() -> None:
    view = method.view(PICTURES)
    jitter = ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    crop = Crop(scale=(0.7, 1.0), ratio=(1.0, 1.0))
    patches = Patches(grid=7, cell=64, stride=32, patch=60)
    assert view.steps["image"] == [[crop, Flip(p=0.5), patches, jitter, Grayscale(p=0.2)]]
    assert view({"image": torch.zeros(3, 300, 300, dtype=torch.uint8)})["image"][0].shape == (3, 256, 256)
    changed = {"crop": {"scale": (0.3, 0.8)}, "flip": None, "grayscale": {"p": 0.4}, "blur": {"p": 0.3}}
    given = grid(changed, grid=3, cell=10, stride=4, patch=7)
    patches = Patches(grid=3, cell=10, stride=4, patch=7)
    crop = Crop(scale=(0.3, 0.8), ratio=(1.0, 1.0))
    assert given.steps["image"] == [[crop, patches, jitter, Grayscale(p=0.4), Blur(p=0.3)]]
    assert given({"image": torch.zeros(3, 60, 60, dtype=torch.uint8)})["image"][0].shape == (3, 18, 18)


def test_the_defaults_are_the_papers() -> None:
    """The pseudocode of Henaff et al.: three rows after two that are left out, 64 dimensions, scale 0.1."""
    assert defaults(CPC) == {"rows": (3, 4, 5), "embed_dim": 64, "scale": 0.1, "width": 256, "layers": 5}
    assert method.objective is CPC
