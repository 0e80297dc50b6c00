"""Rotation against its formula, with absent samples and turns in any order."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from mmssl.methods import rotation
from mmssl.methods.rotation import Rotation
from mmssl.transforms.color import Grayscale
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, check_answered, check_embedding, compare, defaults, pictures


def test_the_loss_is_the_mean_cross_entropy_of_a_pictures_turns() -> None:
    encoder, full = PictureCells(), pictures(views=4)
    objective = Rotation({"other": PictureCells(dim=2), "image": encoder}, hidden=(7,))
    assert objective.uses == ("image",) and objective.answer[-1].bias is not None
    pooled = [encoder(view).pooled for view in full.views["image"]]
    scores = objective.answer(torch.cat(pooled)).split(6)  # BatchNorm sees all turns at once
    full.target = torch.stack([torch.randperm(4) for _ in range(6)])
    full.target[0] = torch.stack([s[0].argmax() for s in scores])  # one image is answered rightly throughout
    found = objective({"image": encoder}, full)
    losses = torch.stack([F.cross_entropy(s, full.target[:, v], reduction="none") for v, s in enumerate(scores)])
    compare(found.total, losses.mean(dim=0)[PRESENT].mean(), encoder, objective)
    right = torch.stack([s.argmax(dim=1) == full.target[:, v] for v, s in enumerate(scores)]).float().mean(dim=0)
    check_answered(found, right, classes=4)
    check_embedding(found, pooled[0])


def test_the_loss_is_in_float32() -> None:
    encoder, full = PictureCells(), pictures(views=4)
    full.target = torch.arange(4).expand(6, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Rotation({"image": encoder})({"image": encoder}, full).total.dtype == torch.float32


def test_the_views_options_and_defaults() -> None:
    given = {"image": ImagePreprocess(size=8)}
    assert rotation.method.view(given).steps["image"] == [[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5)]]
    assert defaults(Rotation) == {"hidden": ()}  # Gidaris et al., ICLR 2018: a linear layer after the last map
    view = rotation.method.view(given, image={"flip": {"p": 0.25}, "grayscale": {"p": 1.0}})
    assert view.steps["image"][0][1:] == [Flip(p=0.25), Grayscale(p=1.0)] and view.chance == 0.25
    x = torch.rand(2, 3, 8, 8)
    made = view.on_device(Batch({"image": [x]}))
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for turn, shown in enumerate(made.views["image"]):
        expected = torch.stack([torch.rot90(picture, turn) for picture in luma])
        torch.testing.assert_close(shown, expected[:, None].expand(-1, 3, -1, -1), rtol=1e-3, atol=1e-3)
