"""PIRL and CMC: their views, their terms by formula, and what their memory banks hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.losses.nce import nce
from mmssl.methods.cmc import CMC, SameCrop
from mmssl.methods.pirl import PIRL, JigsawPair
from mmssl.nn.color import lab
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build

SMALL = {"name": "convnet", "image_size": 32, "widths": [8, 16], "depths": [1, 1], "stem_stride": 1}


def drawn(rows: torch.Tensor, queries: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Returns the losses by the first draw of 12 rows, the normaliser estimated from these queries."""
    noise = rows[torch.randint(20, (12,), generator=torch.Generator().manual_seed(0))]
    own, others = (queries * rows[index]).sum(1) / 0.07, queries @ noise.T / 0.07
    return nce(own, others, (20 * others.exp().mean()).log().detach(), 20)


def test_pirl_recognises_the_picture_and_its_patches_and_remembers_the_picture() -> None:
    model, shown = build("pirl"), batch("pirl", missing=False)
    objective, index = model.objectives["pirl"], shown.extra["index"]
    objective.patch_weight = 0.25
    picture, *patches = (model.encoders["image"](view).pooled for view in shown.views["image"])
    whole = F.normalize(objective.head.project(picture), dim=1)
    joined = objective.join(torch.cat([objective.patch_head.project(x) for x in patches], dim=1))
    rows = objective.bank.rows.clone()
    losses = model({"pirl": shown})[1]["pirl"]
    torch.testing.assert_close(losses.logs["loss_picture"], drawn(rows, whole, index).mean().detach())
    again = objective.bank.scores(
        F.normalize(joined, dim=1), index, noise=12, temperature=0.07, present=torch.ones(8, dtype=torch.bool)
    )
    torch.testing.assert_close(losses.logs["loss_patches"], nce(*again).mean().detach())
    expected = 0.25 * losses.logs["loss_patches"] + 0.75 * losses.logs["loss_picture"]
    torch.testing.assert_close(losses.total.detach(), expected)
    objective.after_step(model.encoders, 0.5)
    torch.testing.assert_close(objective.bank.rows[index], F.normalize(rows[index] + whole, dim=1))
    objective.patches = 9
    with pytest.raises(UserError, match="4 patches are shown, 9 expected"):
        model({"pirl": shown})


def test_pirl_shows_a_crop_and_nine_patches_in_random_order() -> None:
    image = create_encoder(**SMALL)
    view = JigsawPair({"image": image.preprocess}, color_jitter=0.0, grayscale=0.0)
    assert (view.cell, view.side) == (12, 9)
    shown = view({"image": torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8)})
    assert [x.shape[1] for x in shown["image"]] == [32, 36]
    numbers = torch.arange(9.0).view(3, 3).repeat_interleave(12, 0).repeat_interleave(12, 1) / 10
    whole = numbers.expand(16, 3, 36, 36)
    crop, *patches = view.on_device(Batch({"image": [torch.zeros(16, 3, 32, 32), whole]})).views["image"]
    assert crop.shape == (16, 3, 32, 32) and {x.shape for x in patches} == {(16, 3, 9, 9)}
    places = torch.stack([x[:, 0, 4, 4] for x in patches], dim=1)
    torch.testing.assert_close(places.sort(dim=1).values, (torch.arange(9.0) / 10).expand(16, 9))
    assert len({tuple(row) for row in places.tolist()}) > 12, "each sample has an order of its own"
    with pytest.raises(UserError, match="holds no patches"):
        JigsawPair({"image": image.preprocess}, cell=8, side=9)
    assert PIRL({"image": image}).join.in_features == 9 * 128


def test_cmc_finds_each_part_in_the_other_parts_bank() -> None:
    model, shown = build("cmc"), batch("cmc", missing=False)
    objective, index = model.objectives["cmc"], shown.extra["index"]
    embedded, rows = {}, {}
    for key in ("image", "image_ab"):
        pooled = model.encoders[key](shown.views[key][0]).pooled
        embedded[key] = F.normalize(objective.heads[key].project(pooled), dim=1)
        rows[key] = objective.bank(key).rows.clone()
    expected = [drawn(rows[b], embedded[a], index).mean() for a, b in (("image", "image_ab"), ("image_ab", "image"))]
    torch.testing.assert_close(model({"cmc": shown})[0], expected[0] + expected[1], rtol=1e-4, atol=1e-4)
    objective.after_step(model.encoders, 0.5)
    for key in rows:
        torch.testing.assert_close(
            objective.bank(key).rows[index], F.normalize(rows[key][index] + embedded[key], dim=1)
        )


def test_cmc_within_the_batch_needs_no_bank() -> None:
    model, shown = build("cmc"), batch("cmc", missing=False)
    made = CMC(model.named_encoders, embed_dim=8, negatives=None)
    made.reserve(None)
    one, other = (
        F.normalize(made.head(key).project(model.encoders[key](shown.views[key][0]).pooled), dim=1)
        for key in ("image", "image_ab")
    )
    logits, labels = one @ other.T / 0.07, torch.arange(8)
    expected = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
    torch.testing.assert_close(made(model.named_encoders, shown).total, expected)
    with pytest.raises(UserError, match="such as image_ab"):
        CMC({"image": model.encoders["image"]})


def test_cmc_shows_one_crop_to_encoders_that_see_its_parts() -> None:
    encoders = {
        "image": create_encoder("lab", part="lightness", image=SMALL),
        "image_ab": create_encoder("lab", part="color", image=SMALL),
    }
    view = SameCrop({key: encoder.preprocess for key, encoder in encoders.items()})
    shown = view({"image": torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8)})
    assert view.reads == ("image",) and torch.equal(shown["image"][0], shown["image_ab"][0])
    x = torch.rand(2, 3, 32, 32)
    seen = {}
    for key, encoder in encoders.items():
        encoder.eval().image.register_forward_pre_hook(lambda _, args, key=key: seen.update({key: args[0]}))
        encoder(x)
    torch.testing.assert_close(seen["image"], (lab(x)[:, :1] / 100).expand(-1, 3, -1, -1))
    torch.testing.assert_close(seen["image_ab"][:, :2] * 200 - 100, lab(x)[:, 1:], atol=1e-3, rtol=1e-4)
    gray = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    encoders["image_ab"](gray)
    torch.testing.assert_close(seen["image_ab"], torch.full_like(x, 0.5), atol=1e-3, rtol=0)
    other = create_encoder("convnet", image_size=16).preprocess
    with pytest.raises(UserError, match="different sides"):
        SameCrop({"image": encoders["image"].preprocess, "image_ab": other})
