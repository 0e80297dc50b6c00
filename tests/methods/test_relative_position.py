"""Relative position against its formula, and what its options show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import relative_position
from mmssl.methods.relative_position import Neighbors, RelativePosition, drop_colors, project_colors
from mmssl.transforms.color import Grayscale
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch, View

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, check_answered, check_embedding, compare, defaults, pictures

IMAGE = {"image": ImagePreprocess(size=16)}


def neighbors(patch: int, gap: int, jitter: int, color: str = "keep", **image: Any) -> View:
    """The method's view with a grid of its own."""
    options = {"patch": patch, "gap": gap, "jitter": jitter, "color": color}
    return relative_position.method.view(IMAGE, neighbors=options, image=image)


def test_the_loss_is_the_cross_entropy_of_the_place() -> None:
    encoder, full = PictureCells(), pictures(views=3)
    objective = RelativePosition({"other": PictureCells(dim=2), "image": encoder}, hidden=(7, 6))
    assert objective.uses == ("image",)
    pooled = [encoder(view).pooled for view in full.views["image"][:2]]
    scores = objective.answer(torch.cat(pooled, dim=1))
    full.target = scores.argmax(dim=1)
    full.target[1:5] = torch.tensor([0, 7, 5, 3])
    found = objective({"image": encoder}, full)
    assert objective.answer[-1].bias is not None
    assert scores.shape == (6, 8) and [objective.answer[i].out_features for i in (0, 3, 6)] == [7, 6, 8]
    compare(found.total, F.cross_entropy(scores, full.target, reduction="none")[PRESENT].mean(), encoder, objective)
    check_answered(found, scores.argmax(dim=1) == full.target, classes=8)
    check_embedding(found, pooled[0])


def test_the_defaults_are_the_papers() -> None:
    """Doersch et al., ICCV 2015: patches of 96, gaps of 48, 7 pixels of jitter, two layers of 4096."""
    assert defaults(Neighbors) == {"patch": 96, "gap": 48, "jitter": 7, "color": "drop"}
    assert defaults(RelativePosition) == {"hidden": (4096, 4096)}
    view = relative_position.method.view(IMAGE)
    assert view.steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0))]] and view.chance == 1 / 8
    guards = {"gap": {"gap": 0}, "jitter": {"jitter": 0}, "chromatic": {"color": "keep"}}
    assert view.guards == {name: {"neighbors": down} for name, down in guards.items()}


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"patch": 1, "gap": 0, "jitter": 0}, False),
        ({"patch": 0, "gap": 0, "jitter": 0}, True),
        ({"patch": 1, "gap": -1, "jitter": 1}, True),
        ({"patch": 1, "gap": 1, "jitter": -1}, True),
    ],
)
def test_sides_are_pixels(options: dict[str, int], refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="expected pixels, 0 or more"):
            neighbors(**options)
    else:
        assert neighbors(**options).blanks("image")[0].shape == (3, 3, 3)


def test_the_grid_fills_the_picture_which_other_steps_change() -> None:
    view = neighbors(5, 3, 2, flip={"p": 0.25}, grayscale={"p": 1.0})
    assert view.steps["image"][0][1:] == [Flip(p=0.25), Grayscale(p=1.0)]
    side = 3 * 5 + 2 * 3 + 2 * 2
    assert view({"image": torch.zeros(3, 50, 60, dtype=torch.uint8)})["image"][0].shape == (3, side, side)
    made = view.on_device(Batch({"image": [torch.rand(4, 3, 25, 25)]}))
    assert all((patch[:, :1] - patch).abs().max() < 1e-5 for patch in made.views["image"]), "grey"


def test_without_jitter_patches_are_cells_a_gap_apart() -> None:
    x = torch.randint(0, 256, (80, 3, 16, 16), dtype=torch.uint8)
    made = neighbors(4, 2, 0).on_device(Batch({"image": [x]}))
    assert made.target is not None and made.target.unique().tolist() == list(range(8))
    middle, other = made.views["image"]
    assert torch.equal(middle, x[:, :, 6:10, 6:10])
    places = [(0, 0), (0, 6), (0, 12), (6, 0), (6, 12), (12, 0), (12, 6), (12, 12)]  # row by row, without the middle
    for row in range(80):
        down, across = places[made.target[row]]
        assert torch.equal(other[row], x[row, :, down : down + 4, across : across + 4])


def test_both_patches_are_off_by_up_to_the_jitter() -> None:
    line = torch.arange(20, dtype=torch.uint8)
    view = neighbors(4, 2, 2)
    made = view.on_device(Batch({"image": [line.expand(300, 3, 20, 20)]}))
    assert made.target is not None
    columns = torch.tensor([0, 6, 12, 0, 12, 0, 6, 12])[made.target]
    middle, other = (patch[:, 0, 0, 0].int() for patch in made.views["image"])
    assert (middle - 6).unique().tolist() == [0, 1, 2, 3, 4] == (other - columns).unique().tolist()
    assert (middle - 6 != other - columns).any()


@pytest.mark.parametrize("scale", [1, 255])
def test_one_channel_is_kept_and_the_others_are_faint_noise_about_imagenets_mean(scale: int) -> None:
    torch.manual_seed(0)
    spread = torch.tensor([0.02, 0.1, 0.5])[:, None, None]  # each channel's own
    unit = (torch.rand(60, 3, 64, 64) * spread * 255).round() / 255
    made = drop_colors((unit * 255).byte() if scale == 255 else unit)
    kept = (made - unit).abs().amax((2, 3)) < 1e-6
    assert (kept.sum(dim=1) == 1).all() and kept.any(dim=0).all()
    for row in range(60):
        (channel,) = kept[row].nonzero()[0].tolist()
        for other in {0, 1, 2} - {channel}:
            noise = made[row, other] - (0.485, 0.456, 0.406)[other]
            expected = float(unit[row, channel].std()) / 100
            assert float(noise.std()) == pytest.approx(expected, rel=0.06) and abs(noise.mean()) < expected / 10


def test_the_colour_between_green_and_magenta_is_taken_out() -> None:
    x = torch.randint(0, 256, (2, 3, 3, 4), dtype=torch.uint8)
    r, g, b = (x / 255).unbind(1)
    along = (2 * g - r - b) / 6  # on the axis (-1, 2, -1)
    torch.testing.assert_close(project_colors(x), torch.stack([r + along, g - 2 * along, b + along], dim=1))


@pytest.mark.parametrize("color", ["drop", "project", "keep"])
def test_both_patches_are_recoloured(color: Any) -> None:
    x = torch.rand(8, 3, 12, 12)
    made = neighbors(4, 0, 0, color).on_device(Batch({"image": [x.clone()]}))
    middle = x[:, :, 4:8, 4:8]
    assert made.target is not None
    around = [(0, 0), (0, 4), (0, 8), (4, 0), (4, 8), (8, 0), (8, 4), (8, 8)]
    other = torch.stack(
        [
            x[row, :, around[t][0] : around[t][0] + 4, around[t][1] : around[t][1] + 4]
            for row, t in enumerate(made.target)
        ]
    )
    for raw, patch in zip((middle, other), made.views["image"], strict=True):
        if color == "drop":
            assert ((raw == patch).all(dim=(2, 3)).sum(dim=1) == 1).all()
        else:
            torch.testing.assert_close(patch, raw if color == "keep" else project_colors(raw))
