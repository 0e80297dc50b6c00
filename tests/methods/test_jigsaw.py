"""Jigsaw against its formula, and what its options show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import jigsaw
from mmssl.methods.jigsaw import Jigsaw, Puzzle
from mmssl.transforms.color import Blur, Grayscale
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.transforms.permutations import far_apart
from mmssl.types import Batch, Pretext, View

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, check_answered, check_embedding, compare, defaults, pictures

IMAGE = {"image": ImagePreprocess(size=16)}


def plain(**options: Any) -> View:
    """The method's view of five orders, without changes of colour."""
    return jigsaw.method.view(IMAGE, puzzle={"permutations": 5, "level": False, **options}, image={"grayscale": None})


def test_the_loss_is_the_cross_entropy_of_the_order() -> None:
    encoder, full = PictureCells(), pictures(views=9, height=4, width=8)
    objective = Jigsaw(
        {"other": PictureCells(dim=2), "image": encoder}, permutations=4, width=6, hidden=(7,), dropout=0.0
    )
    assert objective.uses == ("image",)
    pooled = [encoder(view).pooled for view in full.views["image"]]
    first = objective.patch[0]
    rows = torch.cat([F.relu(F.linear(x, first.weight, first.bias)) for x in pooled], dim=1)  # (B, 9 * 6)
    scores = objective.answer(rows)
    full.target = scores.argmax(dim=1)
    full.target[1:4] = torch.tensor([0, 1, 2])
    found = objective({"image": encoder}, full)
    assert objective.answer[-1].bias is not None
    assert rows.shape == (6, 54) and scores.shape == (6, 4) and objective.answer[0].out_features == 7
    compare(
        found.total,
        F.cross_entropy(scores, full.target, reduction="none")[PRESENT].mean(),
        encoder,
        objective,
    )
    check_answered(found, scores.argmax(dim=1) == full.target, classes=4)
    check_embedding(found, pooled[0])


def test_an_order_that_the_objective_has_not_is_refused() -> None:
    encoders: dict[str, Any] = {"image": PictureCells()}
    objective = Jigsaw(encoders, permutations=4, width=6, hidden=())
    assert Pretext(objective, jigsaw.method.view, {"puzzle": {"patch": 5}}).show(encoders).chance == 1 / 4
    Pretext(objective, jigsaw.method.view, {"puzzle": {"permutations": 4}}).show(encoders)
    for wrong in ({"puzzle": {"permutations": 5}}, {"puzzle": None}):
        with pytest.raises(UserError, match=r"view\.puzzle.* is (5|None), but the objective .*4"):
            Pretext(objective, jigsaw.method.view, wrong).show(encoders)
    with pytest.raises(AssertionError, match="gives its target"):
        objective(encoders, Batch(pictures(views=9, height=4, width=4).views))


def test_dropout_follows_the_first_layer() -> None:
    objective = Jigsaw({"image": PictureCells()}, permutations=4, width=6, hidden=(7,), dropout=0.3)
    assert [m.p for m in objective.modules() if isinstance(m, nn.Dropout)] == [0.3]
    assert isinstance(objective.patch[2], nn.Dropout)


def test_the_defaults_are_the_papers() -> None:
    """Noroozi & Favaro, ECCV 2016: patches of 64 from cells of 75, 1000 orders, fc6 of 1024, fc7 of 4096; colours up to
    2 pixels apart and 30% of grey images, as their section 5 has it."""
    assert defaults(Puzzle) == {"permutations": 1000, "patch": 64, "gap": 7, "shift": 2, "level": True}
    view = jigsaw.method.view(IMAGE)
    assert view.steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5), Grayscale(p=0.3)]]
    assert defaults(Jigsaw) == {"permutations": 1000, "width": 1024, "hidden": (4096,), "dropout": 0.5}
    assert view.guards == {
        "gap": {"puzzle": {"gap": 0, "shift": 0}},
        "level": {"puzzle": {"level": False}},
        "chromatic": {"puzzle": {"shift": 0}, "image": {"grayscale": {"p": 0.0}}},
    }


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"patch": 1, "gap": 0, "shift": 0}, False),
        ({"patch": 0, "gap": 0, "shift": 0}, True),
        ({"patch": 1, "gap": -1, "shift": 1}, True),
        ({"patch": 1, "gap": 1, "shift": -1}, True),
    ],
)
def test_sides_are_pixels(options: dict[str, int], refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="expected pixels, 0 or more"):
            plain(**options)
    else:
        assert plain(**options).blanks("image")[0].shape == (3, 3, 3)


def test_the_grid_fills_the_picture() -> None:
    puzzle = {"permutations": 7, "patch": 6, "gap": 3, "shift": 2}
    view = jigsaw.method.view(IMAGE, puzzle=puzzle, image={"crop": {"scale": (0.2, 0.3)}, "blur": {"p": 0.5}})
    (shown,) = view({"image": torch.zeros(3, 50, 60, dtype=torch.uint8)})["image"]
    assert shown.shape == (3, 3 * (6 + 2 * 2 + 3), 3 * (6 + 2 * 2 + 3)) and view.chance == 1 / 7
    assert view.steps["image"][0][0] == Crop(scale=(0.2, 0.3), ratio=(1.0, 1.0))
    assert view.steps["image"][0][2:] == [Grayscale(p=0.3), Blur(p=0.5)]
    assert jigsaw.Puzzle(permutations=7).orders.equal(far_apart(7))


def test_without_room_patches_are_the_cells_in_the_targets_order() -> None:
    view = plain(patch=4, gap=0, shift=0)
    x = torch.randint(0, 256, (60, 3, 12, 12), dtype=torch.uint8)
    made = view.on_device(Batch({"image": [x.clone()]}))
    assert made.target is not None and made.target.unique().tolist() == list(range(5))
    orders = far_apart(5)
    for row in range(60):
        for place in range(9):
            down, across = divmod(int(orders[made.target[row], place]), 3)
            cell = x[row, :, 4 * down : 4 * down + 4, 4 * across : 4 * across + 4]
            assert torch.equal(made.views["image"][place][row], cell)


def test_channels_lie_up_to_the_shift_either_way_down_and_across() -> None:
    line = torch.arange(24, dtype=torch.uint8)
    for place in (line[:, None].expand(24, 24), line.expand(24, 24)):  # a pixel says where it is
        view = plain(patch=4, gap=0, shift=2)
        made = view.on_device(Batch({"image": [place.expand(300, 3, 24, 24)]}))
        corner = torch.stack(made.views["image"])[:, :, :, 0, 0] % 8  # within the cell of 4 + 2 * 2
        for channel in range(3):
            assert corner[:, :, channel].unique().tolist() == [0, 1, 2, 3, 4]
        assert (corner[:, :, 0] != corner[:, :, 1]).float().mean() > 0.7, "each on its own"
    gap = plain(patch=4, gap=3, shift=0)
    made = gap.on_device(Batch({"image": [line[:21].expand(300, 3, 21, 21)]}))
    assert (torch.stack(made.views["image"])[:, :, :, 0, 0] % 7).unique().tolist() == [0, 1, 2, 3]


def test_patches_are_leveled_where_asked_to() -> None:
    x = torch.randint(0, 256, (5, 3, 15, 15), dtype=torch.uint8)
    options: dict[str, Any] = {"patch": 5, "gap": 0, "shift": 0}
    torch.manual_seed(0)
    raw = plain(**options).on_device(Batch({"image": [x]})).views["image"]
    torch.manual_seed(0)
    even = plain(**options, level=True).on_device(Batch({"image": [x]})).views["image"]
    for one, other in zip(raw, even, strict=True):
        value = one / 255
        value = value - value.mean((2, 3), keepdim=True)
        torch.testing.assert_close(other, 0.45 + 0.225 * value / value.square().mean((2, 3), keepdim=True).sqrt())
    gray = jigsaw.method.view(IMAGE, puzzle={**options, "level": False}, image={"grayscale": {"p": 1.0}})
    grey = gray.on_device(Batch({"image": [x]})).views["image"]
    assert all((patch[:, :1] - patch).abs().max() < 1e-5 for patch in grey)
