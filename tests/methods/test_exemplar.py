"""Exemplar against its formula, and what its view changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import exemplar
from mmssl.methods.exemplar import Exemplar
from mmssl.objectives.bank import reserve
from mmssl.transforms.color import Blur, ColorJitter
from mmssl.transforms.geometry import Rotate
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import PRESENT, PictureCells, check_answered, check_embedding, compare, defaults, pictures

IMAGE = {"image": ImagePreprocess(size=16)}


@pytest.mark.parametrize("hidden", [(), (7, 8)])
def test_the_loss_is_the_mean_over_views_of_a_softmax_over_all_samples(hidden: tuple[int, ...]) -> None:
    encoder, full = PictureCells(), pictures(views=2)
    encoders = {"other": PictureCells(dim=2), "image": encoder}
    objective = Exemplar(encoders, hidden=hidden, encoder="image")
    assert objective.uses == ("image",)
    reserve(objective, 11)
    with torch.no_grad():
        objective.classes.rows.mul_(50)
    assert objective.classes.rows.shape == (11, hidden[-1] if hidden else 5)
    pooled = [encoder(view).pooled for view in full.views["image"]]
    scores = []
    for x in pooled:  # BatchNorm sees each view by itself
        if hidden:
            layers = objective.hidden[0]
            assert layers[3].bias is not None
            x = F.batch_norm(F.linear(x, layers[0].weight), None, None, layers[1].weight, layers[1].bias, training=True)
            x = F.relu(F.linear(F.relu(x), layers[3].weight, layers[3].bias))
        scores.append(x @ objective.classes.rows.T)
    full.extra["index"] = scores[0].argmax(dim=1)
    full.extra["index"][1:4] = torch.tensor([0, 3, 10])
    found = objective(encoders, full)
    losses = [F.cross_entropy(x, full.extra["index"], reduction="none") for x in scores]
    compare(found.total, ((losses[0] + losses[1]) / 2)[PRESENT].mean(), encoder, objective)
    check_answered(found, scores[0].argmax(dim=1) == full.extra["index"], classes=11)
    check_embedding(found, pooled[0])


def test_one_view_is_enough_and_the_scores_are_in_float32() -> None:
    encoder, full = PictureCells(), pictures()
    full.extra["index"] = torch.arange(6)
    objective = Exemplar({"image": encoder})
    reserve(objective, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective({"image": encoder}, full)
        hidden = objective.hidden(encoder(full.views["image"][0]).pooled)
    expected = F.cross_entropy(hidden.float() @ objective.classes.rows.T, full.extra["index"], reduction="none")
    torch.testing.assert_close(found.total, expected[PRESENT].mean())
    full.views["image"] = []
    with pytest.raises(UserError, match="compares 1 views"):
        objective({"image": encoder}, full)


def test_which_encoder_must_be_said_where_there_are_several() -> None:
    with pytest.raises(UserError, match="say which with objective.encoder"):
        Exemplar({"one": PictureCells(), "other": PictureCells()})


def test_the_defaults_are_the_papers() -> None:
    """Dosovitskiy et al., NeurIPS 2014: a layer of 512, turns of up to 20 degrees, no mirror images."""
    assert defaults(Exemplar) == {"hidden": (512,), "encoder": None}
    assert isinstance(Exemplar({"image": PictureCells()}).hidden[-1], nn.ReLU)
    jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.5, saturation=0.5, hue=0.1)
    crop = Crop(scale=(0.25, 1.0), ratio=(1.0, 1.0))
    assert exemplar.method.view(IMAGE).steps["image"] == [[crop, jitter, Rotate(degrees=20.0)]]


def test_steps_are_changed_and_added() -> None:
    changed = {"crop": {"ratio": (0.5, 2.0)}, "color_jitter": {"p": 0.7}, "flip": {"p": 0.25}, "blur": {"p": 0.8}}
    view = exemplar.method.view(IMAGE, views=3, image=changed)
    jitter = ColorJitter(p=0.7, brightness=0.4, contrast=0.5, saturation=0.5, hue=0.1)
    crop = Crop(scale=(0.25, 1.0), ratio=(0.5, 2.0))
    assert view.steps["image"] == [[crop, jitter, Rotate(), Flip(p=0.25), Blur(p=0.8)]] * 3
    assert view.shows == {"image": 3}


def test_turns_set_views_of_pictures_apart() -> None:
    def checked(scale: float, tilt: float) -> None:
        changed = {"crop": {"scale": (scale, 1.0)}, "color_jitter": None, "rotate": {"degrees": tilt}}
        exemplar.method.view(IMAGE, views=2, image=changed).check()

    checked(1.0, 0.1)
    with pytest.raises(UserError, match="all alike"):
        checked(1.0, 0.0)
    checked(0.5, 0.0)


def test_pictures_turn_by_up_to_the_tilt_either_way() -> None:
    """A disc off the centre, whose place tells the angle."""
    line = torch.arange(32) - 15.5
    disc = ((line[:, None] ** 2 + (line - 10) ** 2) < 4).float()
    changed = {"color_jitter": None, "rotate": {"degrees": 30.0}}
    view = exemplar.method.view({"image": ImagePreprocess(size=32)}, views=2, image=changed)
    shown = view.on_device(Batch({"image": [disc.expand(200, 3, 32, 32)] * 2, "text": [torch.zeros(200)]}))
    assert torch.equal(shown.views["text"][0], torch.zeros(200))
    angles = []
    for x in shown.views["image"]:
        weight = x[:, 0] / x[:, 0].sum((1, 2), keepdim=True)
        down, across = (weight.sum(dim=2) * line).sum(dim=1), (weight.sum(dim=1) * line).sum(dim=1)
        angles.append(torch.rad2deg(torch.atan2(down, across)))
        torch.testing.assert_close(torch.hypot(down, across), torch.full((200,), 10.0), rtol=0.02, atol=0)
    both = torch.cat(angles)
    assert both.abs().max() < 31 and both.min() < -28 and both.max() > 28 and both.mean().abs() < 3
    assert not torch.allclose(*angles, atol=1.0), "each view by its own angle"


def test_whole_numbers_become_floats_where_pictures_turn() -> None:
    x = torch.full((2, 3, 16, 16), 51, dtype=torch.uint8)
    (shown,) = (
        exemplar.method.view(IMAGE, image={"color_jitter": {"p": 0.0}, "rotate": {"degrees": 20.0}})
        .on_device(Batch({"image": [x]}))
        .views["image"]
    )
    torch.testing.assert_close(shown, torch.full((2, 3, 16, 16), 0.2))
