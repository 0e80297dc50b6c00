"""OBoW by its formulas (Gidaris et al., CVPR 2021): bags, words, the generated classifier and the teacher."""

from __future__ import annotations

import sys
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import obow
from mmssl.methods.obow import OBoW
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.words import Vocabulary
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features
from mmssl.views.mae import Seed

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, evenness, pictures, same, shake, unit

OPTIONS: dict[str, Any] = {"levels": ["blocks.0", "tokens"], "words": 7, "border": 1, "average": 2, "scale": 3.0}


class Pooling(Tiny):
    def forward(self, x: Tensor) -> Features:
        return super().forward(x.float())


def by_authors(maps: Tensor, words: Tensor, mean: float, *, sharpness: float, border: int) -> tuple[Tensor, Tensor]:
    """Bags of maps (B, C, H, W), and distances to the nearest word, one cell and word at a time."""
    inner = maps[:, :, border : maps.shape[2] - border, border : maps.shape[3] - border].flatten(2)
    squared = torch.stack([torch.stack([(x - word[:, None]).square().sum(0) for word in words]) for x in inner])
    bag = (-sharpness / mean * squared).softmax(dim=1).amax(dim=2)
    return bag / bag.sum(dim=1, keepdim=True), squared.amin(dim=1)


@pytest.mark.parametrize("border", [0, 1])
def test_bags_words_and_the_mean_distance(border: int) -> None:
    torch.manual_seed(0)
    words = Vocabulary(6, 4, sharpness=2.5, border=border, average=2)
    assert (words.rows >= 0).all() and (words.rows == 0).any(), "clamped at first"
    maps, present = torch.rand(5, 4, 5, 5), torch.tensor([True, False, True, True, True])
    drawn, before = torch.tensor([0.0, 0.3, 0.5, 0.99, 0.26]), words.rows.clone()
    found = words.bag(maps, present, drawn)
    squared = by_authors(maps, before, 1.0, sharpness=2.5, border=border)[1]
    mean = 0.99 * 0.5 + 0.01 * float(squared[present].mean())
    torch.testing.assert_close(found, by_authors(maps, before, mean, sharpness=2.5, border=border)[0])
    assert words.distance == 0.5 and torch.equal(words.rows, before), "nothing moves before the step"
    words.write()
    assert float(words.distance) == pytest.approx(mean)
    side = 5 - 2 * border - 1
    expected = []
    for row in (0, 2, 3, 4):
        down, across = divmod(int(float(drawn[row]) * side * side), side)
        expected.append(
            maps[row, :, border + down : border + down + 2, border + across : border + across + 2].mean((1, 2))
        )
    torch.testing.assert_close(words.rows, torch.cat([torch.stack(expected), before[4:]]))
    words.eval()
    found = words.bag(maps, present, drawn)
    words.write()
    torch.testing.assert_close(found, by_authors(maps, words.rows, mean, sharpness=2.5, border=border)[0])
    assert float(words.distance) == pytest.approx(mean), "judged, it learns nothing"


def made(**options: Any) -> tuple[Encoder, OBoW]:
    torch.manual_seed(1)
    encoder = create_encoder("convnet", image_size=16, widths=[4, 6], depths=[1, 1], stem_stride=2)
    objective = OBoW({"image": encoder}, **OPTIONS | options)
    shake(objective.generators)
    for module in (encoder, objective):
        module.eval()  # BatchNorm at rest; the loss alone is looked at
    return encoder, objective


def seeded(batch: Batch) -> Batch:
    batch.extra["seed"] = torch.arange(len(batch.extra["index"])) + 3
    return batch


def test_the_loss_is_the_papers_in_value_and_gradient() -> None:
    encoder, objective = made()
    shown = seeded(pictures([16, 12, 12, 8], 5, absent=[3]))
    whole, *parts = shown.views["image"]
    with torch.no_grad():
        map_0 = objective.teacher.blocks[0](objective.teacher.stem(objective.teacher.normalize(whole)))  # type: ignore[operator,index]
        map_1 = objective.teacher(whole).tokens.mT.unflatten(2, (4, 4))
    losses, bags = [], []
    for level, x in enumerate((map_0, map_1)):
        words = objective.words[level].rows
        bags.append(by_authors(x, words, 0.5, sharpness=15.0, border=1)[0])
        linear, norm, _, last = objective.generators[level]
        hidden = (unit(words) @ linear.weight.T / (1 + 1e-5) ** 0.5 * norm.weight + norm.bias).relu()
        weights = unit(hidden @ last.weight.T + last.bias)
        for part, share in zip(parts, (0.5, 0.5, 1.0), strict=True):
            scores = 3.0 * encoder(part).pooled @ weights.T
            losses.append(-share * (bags[-1] * scores.log_softmax(dim=1)).sum(dim=1) / 2)
    found = objective({"image": encoder}, shown)
    there = [0, 1, 2, 4]
    same(found.total, torch.stack(losses).sum(dim=0)[there].mean(), encoder, objective)
    torch.testing.assert_close(found.logs["assignment_entropy"], evenness(bags[1][there].sum(dim=0)))
    assert float(found.logs["chance_loss"]) == pytest.approx(2 * float(torch.tensor(7.0).log()))
    torch.testing.assert_close(found.embeddings["image"], encoder(parts[0]).pooled.detach())


def test_teacher_and_words_follow_after_the_step() -> None:
    encoder, objective = made(momentum=0.8)
    objective.train()
    shake(encoder)
    before, rows = [p.clone() for p in objective.teacher.parameters()], objective.words[1].rows.clone()
    shown = seeded(pictures([16, 12], 4))
    with torch.no_grad():
        expected = objective.teacher.eval()(shown.views["image"][0]).tokens.mT.unflatten(2, (4, 4))
        objective({"image": encoder}, shown)
    objective.after_step({"image": encoder}, 0.25)
    decay = 1 - 0.2 * (1 + cos(pi * 0.25)) / 2
    for now, old, new in zip(objective.teacher.parameters(), before, encoder.parameters(), strict=True):
        torch.testing.assert_close(now, decay * old + (1 - decay) * new)
    # Inside the border lie 2 x 2 cells, of which one square of 2 x 2 is averaged; each level draws its own.
    torch.testing.assert_close(objective.words[1].rows[:4], expected[:, :, 1:3, 1:3].mean(dim=(2, 3)))
    assert torch.equal(objective.words[1].rows[4:], rows[4:])
    drawn = (draws(shown.extra["seed"], 2)[:, 0] * 25).long()
    assert len(drawn.unique()) > 1 and objective.words[0].rows.shape == (7, 4)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="4 x 4 cells, border is 1 and average 3"):
        made(average=3)
    with pytest.raises(UserError, match="no layer 'blocks.7'"):
        made(levels=["blocks.7"])
    with pytest.raises(UserError, match="puts out no maps"):
        OBoW({"image": create_encoder("vit", image_size=16, patch_size=4, width=8, depth=1, heads=2)}, levels=["norm"])
    with pytest.raises(UserError, match="gives no cells of a map"):
        OBoW({"image": Pooling()})


def test_defaults_are_the_papers() -> None:
    """config/ImageNetFull/ResNet50_OBoW_full.yaml of obow, and the classes of builder_obow.py; views of datasets.py."""
    expected = {"levels": ("tokens",), "words": 8192, "sharpness": 15.0, "border": 1, "average": 3, "scale": 8.0}
    assert defaults(OBoW) == expected | {"momentum": 0.99, "encoder": None}
    view = obow.method.view({"image": Tiny(size=224).preprocess})
    colors = [Flip(), ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1), Grayscale(p=0.2)]
    large = [Crop(scale=(0.08, 0.6), size=5 / 7), *colors, Blur(p=0.5)]
    small = [Crop(scale=(0.084, 0.14), size=3 / 7), *colors]
    assert view.steps["image"] == [[Flip()], *[large] * 2, *[small] * 5] and view.after == [Seed()]
    assert [view.side("image", steps) for steps in (large, small)] == [160, 96]
