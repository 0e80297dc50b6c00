"""Inpainting against its formula, both sides of its adversary, and what holes are cut."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import inpainting
from mmssl.methods.inpainting import Holes, Inpainting
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, check_embedding, compare, defaults, pictures

IMAGE = {"image": ImagePreprocess(size=16)}
MEAN = (0.485, 0.456, 0.406)  # of ImageNet


def holed() -> Batch:
    full = pictures(views=2)
    holes = torch.zeros(6, 1, 8, 12)
    for row in range(6):
        holes[row, 0, 1 : 4 + row % 3, 2 + row : 6 + row] = 1
    full.extra["holes"] = holes
    return full


def weights(holes: Tensor, overlap: int, border: float) -> Tensor:
    """Writes 1 in a hole, `border` on pixels at most `overlap` from it, down, across or both, and 0 elsewhere."""
    counted = torch.zeros_like(holes[:, 0])
    for row, hole in enumerate(holes[:, 0]):
        inside = hole.nonzero()
        for i in range(8):
            for j in range(12):
                apart = (inside - torch.tensor([i, j])).abs().amax(dim=1).min()
                counted[row, i, j] = 1 if apart == 0 else border if apart <= overlap else 0
    return counted


@pytest.mark.parametrize("error", ["l1", "l2"])
@pytest.mark.parametrize("overlap", [0, 2])
def test_the_error_is_that_of_the_hole_and_more_that_of_its_border(error: Any, overlap: int) -> None:
    encoder, full = PictureCells(), holed()
    objective = Inpainting({"image": encoder}, overlap=overlap, border=3.0, error=error, widths=(4, 3))
    found = objective({"image": encoder}, full)
    features = encoder(full.views["image"][0])
    apart = objective.decoder(features, (8, 12)) - full.views["image"][1] / 255
    each = (apart.square() if error == "l2" else apart.abs()).mean(dim=1)
    counted = weights(full.extra["holes"], overlap, 3.0)
    losses = (each * counted).sum((1, 2)) / counted.sum((1, 2))
    compare(found.total, losses[PRESENT].mean(), encoder, objective)
    assert found.logs.keys() == {"error"} and objective.adversary is None
    torch.testing.assert_close(found.logs["error"], losses[PRESENT].mean().detach())
    check_embedding(found, features.pooled)


def test_the_adversary_judges_the_holes_and_moves_only_itself() -> None:
    encoder, full = PictureCells(), holed()
    objective = Inpainting({"image": encoder}, overlap=1, border=3.0, adversarial=0.3, judges=(4, 6), widths=(4, 3))
    adversary, holes = objective.adversary, full.extra["holes"]
    found = objective({"image": encoder}, full)
    truth = full.views["image"][1] / 255
    drawn = objective.decoder(encoder(full.views["image"][0]), (8, 12))
    each = (drawn - truth).square().mean(dim=1)
    counted = weights(holes, 1, 3.0)
    error = ((each * counted).sum((1, 2)) / counted.sum((1, 2)))[PRESENT].mean()
    judge, ones, zeros = F.binary_cross_entropy_with_logits, torch.ones(4), torch.zeros(4)
    fooling = judge(adversary(drawn * holes)[PRESENT], ones)
    judging = (
        judge(adversary(truth * holes)[PRESENT], ones) + judge(adversary(drawn.detach() * holes)[PRESENT], zeros)
    ) / 2
    torch.testing.assert_close(found.total, 0.7 * error + 0.3 * fooling + judging)
    compare(found.total, (0.7 * error + 0.3 * fooling + judging).detach() + judging - judging.detach(), adversary)
    drawing = 0.7 * error + 0.3 * fooling + judging.detach()
    compare(found.total, drawing, encoder, objective.decoder)
    for name, value in {"error": error, "fooling": fooling, "judging": judging}.items():
        torch.testing.assert_close(found.logs[name], value.detach())
    assert [m.out_channels for m in adversary.layers if hasattr(m, "out_channels")] == [4, 6]


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"overlap": 0, "adversarial": 0.0}, False),
        ({"overlap": -1}, True),
        ({"adversarial": -0.1}, True),
    ],
)
def test_weights_are_no_less_than_0(options: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="expected 0 or more"):
            Inpainting({"image": PictureCells()}, **options)
    else:
        assert Inpainting({"image": PictureCells()}, widths=(4,), **options).adversary is None


def test_the_defaults_are_the_papers() -> None:
    """Pathak et al., CVPR 2016: an overlap of 7, weighed 10 times; without the adversary for features, section 4."""
    assert defaults(Inpainting) == {
        "overlap": 7,
        "border": 10.0,
        "error": "l2",
        "adversarial": 0.0,
        "judges": (64, 128, 256, 512),
        "widths": (512, 256, 128, 64, 32),
    }
    assert defaults(Holes) == {"blocks": 5, "hole": 0.5}
    view = inpainting.method.view(IMAGE)
    assert view.steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5)]]
    decoder = Inpainting({"image": PictureCells()}, widths=(4,)).decoder
    assert decoder.stages[-1].bias.tolist() == [0.5] * 3 and decoder.start is None


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"blocks": 0, "hole": 0.01}, False),
        ({"blocks": 0, "hole": 0.99}, False),
        ({"blocks": -1}, True),
        ({"hole": 0.0}, True),
        ({"hole": 1.0}, True),
    ],
)
def test_holes_leave_something(options: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="expected 0 or more, and a share between 0 and 1"):
            inpainting.method.view(IMAGE, holes=options)
    else:
        made = inpainting.method.view(IMAGE, holes=options).on_device(Batch({"image": [torch.rand(2, 3, 16, 16)]}))
        assert made.extra["holes"].sum() == 2 * max(1, round(16 * options["hole"])) ** 2


@pytest.mark.parametrize(("size", "side", "start"), [(16, 8, 4), (15, 8, 3), (16, 5, 5)])
def test_one_hole_lies_in_the_middle(size: int, side: int, start: int) -> None:
    view = inpainting.method.view({"image": ImagePreprocess(size=size)}, holes={"blocks": 0, "hole": side / size})
    x = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    made = view.on_device(Batch({"image": [x]}))
    holes = torch.zeros(3, 1, size, size)
    holes[:, :, start : start + side, start : start + side] = 1
    assert torch.equal(made.extra["holes"], holes)
    shown, whole = made.views["image"]
    assert torch.equal(whole, x / 255)
    expected = torch.where(holes > 0, torch.tensor(MEAN)[:, None, None], whole)
    torch.testing.assert_close(shown, expected)


@pytest.mark.parametrize(("blocks", "side"), [(1, 8), (2, 6), (4, 4), (3, 5)])
def test_squares_lie_anywhere_and_share_the_area(blocks: int, side: int) -> None:
    view = inpainting.method.view(IMAGE, holes={"blocks": blocks, "hole": 0.5})
    made = view.on_device(Batch({"image": [torch.rand(400, 3, 16, 16)]}))
    holes = made.extra["holes"]
    areas = holes.sum((1, 2, 3))
    assert areas.max() == blocks * side**2 and areas.min() >= side**2
    assert (holes.amax(dim=3).sum(dim=2) >= side).all() and (holes.amax(dim=2).sum(dim=2) >= side).all()
    assert holes[:, 0, 0, :].any() and holes[:, 0, :, 0].any() and holes[:, 0, -1, :].any() and holes[:, 0, :, -1].any()
    assert len(holes[:, 0].flatten(1).unique(dim=0)) > 50
    if blocks == 1:
        corners = [(holes[:, 0].amax(dim=d) > 0).int().argmax(dim=1) for d in (1, 2)]
        assert [c.unique().tolist() for c in corners] == [list(range(9))] * 2
        assert not torch.equal(*corners)


def test_what_other_steps_change_is_shown_and_drawn() -> None:
    view = inpainting.method.view(IMAGE, image={"grayscale": {"p": 1.0}})
    whole = view.on_device(Batch({"image": [torch.rand(2, 3, 16, 16)]})).views["image"][1]
    assert (whole - whole[:, :1]).abs().max() < 1e-5, "grey"
