"""Split-brain autoencoders against their formula: what each half sees, and is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import split_brain
from mmssl.methods.split_brain import Halves, SplitBrain
from mmssl.numerics.color import lab
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import epoch
from picture_cells import PictureCells, check_embedding, compare, defaults, pictures

BOTH = {"image": ImagePreprocess(size=16), "image_ab": ImagePreprocess(size=16)}
PALETTE = torch.tensor([[-40.0, 10.0], [-20.0, 0.0], [5.0, 30.0], [60.0, -10.0]])  # in order of a, as k-means has them
WHOLE = torch.tensor([True, False, True, True, False, False])  # samples that both halves have


def nets() -> dict[str, PictureCells]:
    return {"image": PictureCells(5), "image_ab": PictureCells(6)}


def asked() -> Batch:
    full = pictures()
    full.views["image_ab"] = [full.views["image"][0].flip(0)]
    full.extra["image_ab_present"] = torch.tensor([True, True, True, True, False, False])
    draw = torch.Generator().manual_seed(1)
    colors = PALETTE[torch.randint(4, (6, 2, 3), generator=draw)].movedim(-1, 1)
    colors[~full.present("image")] = 100.0
    full.extra |= {"colors": colors, "lightness": 100 * torch.rand(6, 1, 2, 3, generator=draw)}
    return full


def made(encoders: dict[str, PictureCells], full: Batch) -> SplitBrain:
    options: dict[str, Any] = {"bins": 4, "neighbors": 2, "sigma": 20.0, "lightness_bins": 5, "widths": (4, 3)}
    objective = SplitBrain(encoders, **options, learn_from=24)
    objective.before_epoch({}, epoch(batches=lambda: repeat(full)))
    return objective


def test_the_loss_is_the_sum_of_what_both_halves_are_asked() -> None:
    encoders, full = nets(), asked()
    objective = made(encoders, full)
    torch.testing.assert_close(objective.colors.centers, PALETTE)
    torch.testing.assert_close(objective.colors.weights, torch.ones(4))
    found = objective(encoders, full)
    seen = {key: encoder(full.views[key][0]) for key, encoder in encoders.items()}
    logits = {key: objective.decoders[key](features, (2, 3)) for key, features in seen.items()}
    losses, right = torch.zeros(6, 2, 3), torch.zeros(6, 2, 3)
    for row in range(6):
        for i in range(2):
            for j in range(3):
                squared = (PALETTE - full.extra["colors"][row, :, i, j]).square().sum(dim=1)
                near = squared.argsort()[:2]
                share = (-squared[near] / (2 * 20.0**2)).exp() / (-squared[near] / (2 * 20.0**2)).exp().sum()
                p = logits["image"][row, :, i, j].softmax(dim=0)
                losses[row, i, j] = -(share * p[near].log()).sum()
                right[row, i, j] = p.argmax() == near[0]
    numbers = (full.extra["lightness"][:, 0] / 20).long()  # the fifth of 0 to 100
    bright = F.cross_entropy(logits["image_ab"], numbers, reduction="none")
    total = losses.mean((1, 2))[WHOLE].mean() + bright.mean((1, 2))[WHOLE].mean()
    compare(found.total, total, *encoders.values(), objective)
    rights = {
        "colors": right.mean((1, 2)),
        "lightness": (logits["image_ab"].argmax(dim=1) == numbers).float().mean((1, 2)),
    }
    rights["correct"] = (rights["colors"] + rights["lightness"]) / 2
    assert found.answers.keys() == rights.keys()
    for name, value in rights.items():
        assert len(value[WHOLE].unique()) > 1, "some are answered rightly"
        told = torch.where(WHOLE, value, torch.nan)
        torch.testing.assert_close(found.answers[name], told, equal_nan=True)
    assert found.logs.keys() == {"colors_accuracy", "lightness_accuracy"}
    for name in ("colors", "lightness"):
        torch.testing.assert_close(found.logs[f"{name}_accuracy"], rights[name][WHOLE].mean())
    for key, features in seen.items():
        check_embedding(found, features.pooled, key)


def test_lightness_is_asked_for_in_even_bins() -> None:
    objective = SplitBrain(nets(), lightness_bins=4, bins=4, neighbors=2, widths=(4,))
    torch.testing.assert_close(objective.lightness.centers, torch.tensor([[12.5], [37.5], [62.5], [87.5]]))
    assert [objective.decoders[key].stages[-1].out_channels for key in BOTH] == [4, 4]
    assert [objective.decoders[key].first.in_features for key in BOTH] == [5, 6]
    assert all(objective.decoders[key].stages[-1].kernel_size == (1, 1) for key in BOTH)
    assert SplitBrain(nets(), lightness_bins=2, widths=(4,)).lightness.centers[:, 0].tolist() == [25, 75]
    with pytest.raises(UserError, match="lightness_bins is 1; expected at least 2"):
        SplitBrain(nets(), lightness_bins=1)


def test_bins_without_a_number_are_the_grids_and_take_no_batch() -> None:
    def none() -> Iterator[Batch]:
        raise AssertionError("a batch was taken")
        yield

    objective = SplitBrain(nets(), widths=(4,), neighbors=3, sigma=7.0)
    objective.before_epoch({}, epoch(batches=none))
    assert len(objective.colors.centers) == 261 == objective.decoders["image"].stages[-1].out_channels
    assert (objective.colors.neighbors, objective.colors.sigma) == (3, 7.0)
    assert objective.lightness.neighbors == 1


def test_learning_takes_no_more_batches_and_cells_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_brain.LEARN_BATCHES == 1000
    taken: list[int] = []

    def stream() -> Iterator[Batch]:
        while True:
            taken.append(len(taken))
            yield asked()

    objective = SplitBrain(nets(), bins=4, neighbors=2, widths=(4,), learn_from=24)
    objective.before_epoch({}, epoch(batches=stream))
    assert len(taken) == 6, "an eighth of 24, and one, of each"
    taken.clear()
    monkeypatch.setattr(split_brain, "LEARN_BATCHES", 3)
    objective.before_epoch({}, epoch(batches=stream))
    assert len(taken) == 3


def test_the_defaults_are_the_papers() -> None:
    """Zhang et al., CVPR 2017: 100 bins of lightness; the rest as Zhang et al., ECCV 2016."""
    assert defaults(SplitBrain) == {
        "bins": None,
        "neighbors": 5,
        "sigma": 5.0,
        "lightness_bins": 100,
        "widths": (256, 256, 128),
        "learn_from": 50_000,
    }
    assert defaults(Halves) == {"cell": 4, "split": True}
    view = split_brain.method.view(BOTH)
    assert view.steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5)]]
    assert view.guards == {"split": {"halves": {"split": False}}}


def cells(x: Tensor) -> Tensor:
    """Averages squares of 8 x 8 of images of 16 x 16."""
    rows = [[x[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].mean((2, 3)) for j in range(2)] for i in range(2)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@pytest.mark.parametrize("split", [True, False])
def test_each_half_is_shown_what_the_other_is_asked_for(split: bool) -> None:
    x = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    full = split_brain.method.view(BOTH, halves={"cell": 8, "split": split}).on_device(Batch({"image": [x]}))
    whole = lab(x)
    torch.testing.assert_close(full.extra["lightness"], cells(whole[:, :1]))
    torch.testing.assert_close(full.extra["colors"], cells(whole[:, 1:]))
    if not split:
        assert all(torch.equal(full.views[key][0], x) for key in BOTH)
        return
    gray, even = lab(full.views["image"][0]), lab(full.views["image_ab"][0])
    torch.testing.assert_close(gray[:, :1], whole[:, :1], rtol=1e-3, atol=0.02)
    assert gray[:, 1:].abs().max() < 0.05
    torch.testing.assert_close(even[:, 1:], whole[:, 1:], rtol=1e-3, atol=0.05)
    torch.testing.assert_close(even[:, :1], torch.full_like(even[:, :1], 50.0), rtol=0, atol=0.05)


def test_one_crop_is_shown_to_both_halves() -> None:
    view = split_brain.method.view(BOTH, halves={"cell": 16}, image={"grayscale": {"p": 1.0}})
    assert view.reads == ("image",)
    x = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    shown = view({"image": x, "image_ab": x[:, :20, :20]})
    assert "image_ab" not in shown and shown["image"][0].shape == (3, 16, 16)
    assert view({}) == {} == view({"image": None})
    full = view.on_device(Batch({"image": [torch.rand(2, 3, 16, 16)]}))
    assert full.views.keys() == BOTH.keys() and full.extra["colors"].abs().max() < 0.05, "grey"


@pytest.mark.parametrize(("sizes", "cell"), [((16, 16), 5), ((16, 8), 4)])
def test_cells_divide_pictures_of_one_size(sizes: tuple[int, int], cell: int) -> None:
    given = {key: ImagePreprocess(size=size) for key, size in zip(BOTH, sizes, strict=True)}
    with pytest.raises(
        UserError, match=rf"of \[{sizes[0]}, {sizes[1]}\] pixels, in cells of {cell}; expected two of one size"
    ):
        split_brain.method.view(given, halves={"cell": cell})
