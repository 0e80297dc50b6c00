"""NPID against its noise-contrastive estimate (Wu et al., CVPR 2018), and what its bank holds after a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import npid
from mmssl.objectives.bank import reserve
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Encoder

sys.path.insert(0, str(Path(__file__).parent))
from two_views import (
    DIM,
    HERE,
    INDEX,
    ROWS,
    SAMPLES,
    defaults,
    detached,
    first_draw,
    nce_by_hand,
    normaliser,
    outline,
    same,
    shown,
    stir,
    two_encoders,
    unit,
)


def started(negatives: int | None) -> tuple[npid.NPID, dict[str, Encoder], Tensor]:
    """A run, and a copy of its bank's rows."""
    encoders = two_encoders()
    options = {"temperature": 0.5, "negatives": negatives, "momentum": 0.75, "encoder": "pulse"}
    objective = npid.NPID(encoders, embed_dim=4, **options)
    reserve(objective, SAMPLES)
    stir(objective.head)
    return objective, encoders, objective.bank.rows.clone()


def test_each_view_is_told_from_noise_by_one_normaliser_and_the_first_is_remembered() -> None:
    objective, encoders, rows = started(5)
    batch, drawn = shown(2), first_draw(5)
    pooled = encoders["pulse"](torch.cat(batch.views["pulse"])).pooled
    one, other = (unit(objective.head.layers(x)) for x in pooled.split(ROWS))
    log_z = normaliser(one[HERE], rows, drawn, 0.5)
    losses = [nce_by_hand(x[HERE], rows, INDEX[HERE], drawn, log_z, 0.5).mean() for x in (one, other)]
    loss = objective(encoders, batch)
    same(loss.total, (losses[0] + losses[1]) / 2, objective, encoders["pulse"])
    detached(loss, "pulse", one)
    torch.testing.assert_close(objective.bank.log_z, log_z)
    assert torch.equal(objective.bank.rows, rows), "not before the step"
    objective.after_step(encoders, 0.5)
    expected = rows.clone()
    for number, new, here in zip(INDEX, one.detach(), HERE, strict=True):
        expected[number] = unit(0.75 * rows[number] + 0.25 * new) if here else rows[number]
    torch.testing.assert_close(objective.bank.rows, expected)
    objective.eval()(encoders, batch)
    objective.after_step(encoders, 0.5)
    torch.testing.assert_close(objective.bank.rows, expected, msg="an evaluation leaves none")


def test_without_a_number_of_negatives_a_sample_is_found_among_all() -> None:
    objective, encoders, rows = started(None)
    batch = shown(1)
    queries = unit(objective.head.layers(encoders["pulse"](batch.views["pulse"][0]).pooled))
    expected = F.cross_entropy(queries[HERE] @ rows.T / 0.5, INDEX[HERE])
    same(objective(encoders, batch).total, expected, objective, encoders["pulse"])


def test_the_head_is_linear_and_samples_must_be_counted() -> None:
    objective = npid.NPID(two_encoders(), embed_dim=4, encoder="pulse")
    assert outline(objective.head.layers) == [f"{DIM}-4 +bias"]
    assert objective.spaces() == {"pulse": objective.head}
    with pytest.raises(UserError, match="not counted"):
        reserve(objective, None)
    reserve(objective, 3)
    assert objective.bank.rows.shape == (3, 4)
    with pytest.raises(UserError, match="compares 1 views of pulse, but 0"):
        objective(two_encoders(), shown(0))


def test_one_view_is_shown_as_the_authors_show_it() -> None:
    """The authors' main.py: RandomResizedCrop(224, scale=(0.2, 1.)), ColorJitter(0.4, 0.4, 0.4, 0.4), no blur."""
    preprocess = {"image": ImagePreprocess(16)}
    view = npid.method.view(preprocess)
    jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
    assert view.steps["image"] == [[Crop(scale=(0.2, 1.0)), Flip(p=0.5), jitter, Grayscale(p=0.2)]]
    changed = {"crop": {"scale": (0.3, 0.8)}, "color_jitter": {"p": 0.7, "hue": 0.05}, "blur": {"p": 0.6}}
    other = npid.method.view(preprocess, views=2, image=changed)
    jitter = ColorJitter(p=0.7, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05)
    assert other.steps["image"] == [[Crop(scale=(0.3, 0.8)), Flip(), jitter, Grayscale(), Blur(p=0.6)]] * 2


def test_the_defaults_are_the_papers() -> None:
    """128 dimensions, 0.07, 4096 negatives; momentum 0.5 in the authors' code."""
    paper = {"embed_dim": 128, "temperature": 0.07, "negatives": 4096, "momentum": 0.5, "encoder": None}
    assert defaults(npid.NPID) == paper
    assert npid.method.objective is npid.NPID
