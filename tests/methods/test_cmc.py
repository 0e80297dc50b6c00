"""CMC: its view of one crop, its terms between encoders by formula (Tian et al., ECCV 2020), and its banks."""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.data.collate import collate
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.cmc import CMC, method
from mmssl.numerics.color import lab
from mmssl.objectives.bank import reserve
from mmssl.transforms.color import Blur, Grayscale
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from two_views import (
    HERE,
    INDEX,
    INPUTS,
    ROWS,
    SAMPLES,
    Tiny,
    defaults,
    first_draw,
    nce_by_hand,
    normaliser,
    outline,
    pick_own,
    same,
    stir,
    unit,
)

KEYS = ("left", "right", "third")
BOTH = HERE & torch.tensor([True, True, True, True, True, False])


def started(**options: Any) -> tuple[CMC, dict[str, Tiny], Batch]:
    """A run of three encoders that take part and two that do not; what one lacks counts for none."""
    encoders = {
        "audio": Tiny(3),
        **{key: Tiny(dim) for key, dim in zip(KEYS, (5, 6, 7), strict=True)},
        "image_like": Tiny(),
    }
    for key in KEYS:
        encoders[key].modality = "image"
    objective = CMC(encoders, embed_dim=4, temperature=0.5, momentum=0.75, **options)
    reserve(objective, SAMPLES)
    stir(objective)
    views = {key: [torch.randn(ROWS, INPUTS) for _ in range(2)] for key in KEYS}  # the first is looked at
    return objective, encoders, Batch(views, extra={"left_present": HERE, "third_present": BOTH, "index": INDEX})


def embed(objective: CMC, encoders: dict[str, Tiny], batch: Batch) -> dict[str, torch.Tensor]:
    return {key: unit(objective.heads[key].layers(encoders[key](batch.views[key][0]).pooled)) for key in KEYS}


def test_each_encoder_is_told_from_noise_by_every_other_ones_bank() -> None:
    objective, encoders, batch = started(negatives=5)
    embedded, drawn = embed(objective, encoders, batch), first_draw(5)
    rows = {key: objective.banks[key].rows.clone() for key in KEYS}
    terms, log_z = {}, {}
    for a, b in permutations(KEYS, 2):  # a bank's normaliser is that of the first who asks
        log_z.setdefault(b, normaliser(embedded[a][BOTH], rows[b], drawn, 0.5))
        terms[f"loss_{a}-{b}"] = nce_by_hand(embedded[a][BOTH], rows[b], INDEX[BOTH], drawn, log_z[b], 0.5).mean()
    loss = objective(encoders, batch)
    same(loss.total, sum(terms.values()), objective, *(encoders[key] for key in KEYS))
    assert loss.logs.keys() == terms.keys() and not any(value.requires_grad for value in loss.logs.values())
    for name, value in terms.items():
        torch.testing.assert_close(loss.logs[name], value.detach())
    assert list(loss.embeddings) == list(KEYS) and not any(x.requires_grad for x in loss.embeddings.values())
    objective.after_step(encoders, 0.5)
    objective.eval()(encoders, batch)
    objective.after_step(encoders, 0.5)  # an evaluation leaves none
    for key in KEYS:
        torch.testing.assert_close(loss.embeddings[key], embedded[key].detach())
        expected = rows[key].clone()
        expected[INDEX[BOTH]] = unit(0.75 * rows[key][INDEX[BOTH]] + 0.25 * embedded[key].detach()[BOTH])
        torch.testing.assert_close(objective.banks[key].rows, expected)


def test_without_a_number_of_negatives_the_batch_stands_for_them() -> None:
    objective, encoders, batch = started(negatives=None)
    embedded = embed(objective, encoders, batch)
    expected = sum(pick_own(embedded[a][BOTH], embedded[b][BOTH], 0.5) for a, b in permutations(KEYS, 2))
    same(objective(encoders, batch).total, expected, objective, *(encoders[key] for key in KEYS))
    reserve(objective, None)
    assert not objective.banks


def test_encoders_of_images_take_part_and_must_be_two() -> None:
    objective, encoders, _ = started()
    assert objective.uses == KEYS
    assert [outline(head.layers) for head in objective.heads.values()] == [["5-4 +bias"], ["6-4 +bias"], ["7-4 +bias"]]
    assert objective.spaces() == dict(objective.heads)
    with pytest.raises(UserError, match="not counted"):
        reserve(objective, None)
    CMC({key: encoders[key] for key in KEYS[:2]})
    with pytest.raises(
        UserError, match=r"two encoders of images; the run has left \(of image\), image_like \(of pulse\)"
    ):
        CMC({key: encoders[key] for key in ("left", "image_like")})


SMALL = {"name": "convnet", "image_size": 32, "widths": [8, 16], "depths": [1, 1], "stem_stride": 1}
PICTURES = {key: ImagePreprocess(16) for key in ("image", "image_a")}


def test_all_encoders_are_shown_one_crop_in_its_own_colours() -> None:
    view = method.view(PICTURES)
    assert view.steps["image"] == [[Crop(scale=(0.2, 1.0)), Flip(p=0.5)]] and view.reads == ("image",)
    shown = view({"image": torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8)})
    assert "image_a" not in shown, "the device makes it"
    batch = view.on_device(collate([shown, view({})], view))
    assert list(batch.views) == list(PICTURES) and batch.views["image"][0].equal(batch.views["image_a"][0])
    assert batch.present("image").tolist() == batch.present("image_a").tolist() == [True, False]
    assert batch.places["image"][0].equal(batch.places["image_a"][0])


def test_options_reach_the_crop_and_the_device_changes_it_once_for_all() -> None:
    changed = {"crop": {"scale": (0.3, 0.8)}, "grayscale": {"p": 0.4}, "blur": {"p": 0.7}}
    view = method.view(PICTURES, image=changed)
    assert view.steps["image"] == [[Crop(scale=(0.3, 0.8)), Flip(), Grayscale(p=0.4), Blur(p=0.7)]]
    x = torch.rand(4, 3, 16, 16)
    grey = method.view(PICTURES, image={"grayscale": {"p": 1.0}}).on_device(Batch({"image": [x]})).views
    assert grey["image"][0] is grey["image_a"][0]
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    torch.testing.assert_close(grey["image"][0], luma[:, None].expand(-1, 3, -1, -1))


def test_cmc_shows_one_crop_to_encoders_that_see_its_parts() -> None:
    encoders = {
        "image": create_encoder("lab", part="lightness", image=SMALL),
        "image_ab": create_encoder("lab", part="color", image=SMALL),
    }
    view = method.view({key: encoder.preprocess for key, encoder in encoders.items()})
    shown = view({"image": torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8)})
    made = view.on_device(collate([shown], view)).views
    assert view.reads == ("image",) and torch.equal(made["image"][0], made["image_ab"][0])
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


def test_an_encoder_of_another_side_sees_the_same_crop_at_its_own() -> None:
    view = method.view({"image": ImagePreprocess(16), "image_a": ImagePreprocess(8)})
    x = torch.rand(2, 3, 16, 16)
    seen = view.on_device(Batch({"image": [x]})).views
    assert seen["image"][0].equal(x)
    expected = F.interpolate(x, (8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(seen["image_a"][0], expected)


def test_the_defaults_are_the_papers() -> None:
    """As in the authors' code: 128 dimensions, 0.07, 16384 negatives, momentum 0.5."""
    assert defaults(CMC) == {"embed_dim": 128, "temperature": 0.07, "negatives": 16384, "momentum": 0.5}
    assert method.objective is CMC
