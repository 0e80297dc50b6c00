"""Super-resolution against its formula, both sides of its adversary, and what small images are shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from mmssl.errors import UserError
from mmssl.methods import super_resolution
from mmssl.methods.super_resolution import Shrink, SuperResolution
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, check_embedding, compare, defaults, pictures

IMAGE = {"image": ImagePreprocess(size=16)}
BICUBIC = vision.InterpolationMode.BICUBIC


def small(full: Batch, *, enlarged: bool) -> Batch:
    """Makes the first of two views half as large, in floats."""
    shrunk = F.avg_pool2d(full.views["image"][0] / 255, 2)
    full.views["image"][0] = shrunk.repeat_interleave(2, 2).repeat_interleave(2, 3) if enlarged else shrunk
    return full


@pytest.mark.parametrize("error", ["l1", "l2"])
@pytest.mark.parametrize("enlarged", [True, False])
def test_only_what_is_missing_is_drawn(error: Any, enlarged: bool) -> None:
    encoder, full = PictureCells(), small(pictures(views=2), enlarged=enlarged)
    objective = SuperResolution({"image": encoder}, error=error, widths=(4, 3))
    found = objective({"image": encoder}, full)
    shown, truth = full.views["image"][0], full.views["image"][1] / 255
    features = encoder(shown)
    blurred = shown if enlarged else vision.resize(shown, [8, 12], BICUBIC, antialias=False)
    size = torch.square if error == "l2" else torch.abs
    apart = size(blurred + objective.decoder(features, (8, 12)) - truth)[PRESENT].mean()
    compare(found.total, apart, encoder, objective)
    before = size(blurred - truth)[PRESENT].mean()
    torch.testing.assert_close(found.logs["error"], apart.detach())
    torch.testing.assert_close(found.logs["gained"], 1 - apart.detach() / before)
    assert found.logs.keys() == {"error", "gained"} and objective.adversary is None
    check_embedding(found, features.pooled)


def test_whole_numbers_are_pictures_too_and_nothing_to_gain_is_no_error() -> None:
    encoder, full = PictureCells(), pictures(views=2)
    full.views["image"][1] = full.views["image"][0]
    objective = SuperResolution({"image": encoder}, widths=(4, 3))
    found = objective({"image": encoder}, full)
    drawn = objective.decoder(encoder(full.views["image"][0]), (8, 12))
    torch.testing.assert_close(found.total, drawn.square()[PRESENT].mean())
    torch.testing.assert_close(found.logs["gained"], 1 - found.total.detach() / 1e-9)


def test_the_adversary_judges_the_whole_picture_and_moves_only_itself() -> None:
    encoder, full = PictureCells(), small(pictures(views=2), enlarged=True)
    objective = SuperResolution({"image": encoder}, adversarial=0.3, judges=(4, 6), widths=(4, 3))
    adversary = objective.adversary
    found = objective({"image": encoder}, full)
    shown, truth = full.views["image"][0], full.views["image"][1] / 255
    drawn = shown + objective.decoder(encoder(shown), (8, 12))
    error = (drawn - truth).square()[PRESENT].mean()
    judge, ones, zeros = F.binary_cross_entropy_with_logits, torch.ones(4), torch.zeros(4)
    fooling = judge(adversary(drawn)[PRESENT], ones)
    judging = (judge(adversary(truth)[PRESENT], ones) + judge(adversary(drawn.detach())[PRESENT], zeros)) / 2
    total = error + 0.3 * fooling + judging
    torch.testing.assert_close(found.total, total)
    compare(found.total, total.detach() + judging - judging.detach(), adversary)
    compare(found.total, error + 0.3 * fooling + judging.detach(), encoder, objective.decoder)
    for name, value in {"error": error, "fooling": fooling, "judging": judging}.items():
        torch.testing.assert_close(found.logs[name], value.detach())
    assert [m.out_channels for m in adversary.layers if hasattr(m, "out_channels")] == [4, 6]


def test_the_weight_of_the_adversary_is_no_less_than_0() -> None:
    with pytest.raises(UserError, match=r"adversarial is -0\.1; expected 0 or more"):
        SuperResolution({"image": PictureCells()}, adversarial=-0.1)


def test_the_defaults_are_the_papers() -> None:
    """Ledig et al., CVPR 2017: a factor of 4, SRResNet's squared error without an adversary."""
    assert defaults(Shrink) == {"factor": 4, "enlarge": True}
    view = super_resolution.method.view(IMAGE)
    assert view.steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5)]]
    assert defaults(SuperResolution) == {
        "error": "l2",
        "adversarial": 0.0,
        "judges": (64, 128, 256, 512),
        "widths": (512, 256, 128, 64, 32),
    }
    decoder = SuperResolution({"image": PictureCells()}, widths=(4,)).decoder
    assert decoder.stages[-1].bias.tolist() == [0.0] * 3, "nothing is missing at first"


@pytest.mark.parametrize("enlarge", [True, False])
@pytest.mark.parametrize("factor", [2, 4])
def test_pictures_are_shrunk_by_the_factor_as_torchvision_has_it(factor: int, enlarge: bool) -> None:
    blocks = (torch.rand(6, 3, 2, 2) > 0.5).to(torch.uint8) * 255  # so that the bicubic overshoots
    x = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)
    view = super_resolution.method.view(IMAGE, shrink={"factor": factor, "enlarge": enlarge})
    made = view.on_device(Batch({"image": [x]}))
    shown, whole = made.views["image"]
    assert torch.equal(whole, x / 255)
    expected = vision.resize(x / 255, [16 // factor] * 2, BICUBIC, antialias=True).clamp(0, 1)
    if enlarge:
        raw = vision.resize(expected, [16, 16], BICUBIC, antialias=False)
        assert raw.min() < 0 and raw.max() > 1
        expected = raw.clamp(0, 1)
    torch.testing.assert_close(shown, expected)


@pytest.mark.parametrize(("factor", "refused"), [(2, False), (16, False), (1, True), (3, True)])
def test_factors_divide(factor: int, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match=f"of 16 pixels cannot be shrunk by {factor}; expected a divisor above 1"):
            super_resolution.method.view(IMAGE, shrink={"factor": factor})
    else:
        super_resolution.method.view(IMAGE, shrink={"factor": factor})


def test_what_other_steps_change_is_shown_and_drawn() -> None:
    view = super_resolution.method.view(IMAGE, image={"grayscale": {"p": 1.0}})
    for shown in view.on_device(Batch({"image": [torch.rand(2, 3, 16, 16)]})).views["image"]:
        assert (shown - shown[:, :1]).abs().max() < 1e-5, "grey"
