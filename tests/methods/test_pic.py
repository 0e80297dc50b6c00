"""PIC against its cosine softmax over all samples (Cao et al., NeurIPS 2020)."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import pic
from mmssl.objectives.bank import reserve
from mmssl.transforms.color import Blur
from mmssl.transforms.image import ImagePreprocess
from mmssl.views.simclr import view as simclr_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import (
    DIM,
    HERE,
    INDEX,
    ROWS,
    SAMPLES,
    defaults,
    detached,
    outline,
    same,
    shown,
    stir,
    two_encoders,
    unit,
)


def test_every_view_is_found_among_the_weights_of_all_samples() -> None:
    encoders, batch = two_encoders(), shown(2)
    objective = pic.PIC(encoders, embed_dim=4, hidden=(9,), temperature=0.5, encoder="pulse")
    reserve(objective, SAMPLES)
    stir(objective)
    with torch.no_grad():  # the first two samples are right, the rest by chance
        pooled = encoders["pulse"](torch.cat(batch.views["pulse"])).pooled
        objective.classes.rows[INDEX[[0, 2]]] = 3 * objective.head.layers(pooled)[[0, 2]]
    pooled = encoders["pulse"](torch.cat(batch.views["pulse"])).pooled
    embedded = [unit(objective.head.layers(x)) for x in pooled.split(ROWS)]
    logits = [x @ unit(objective.classes.rows).T / 0.5 for x in embedded]
    expected = sum(F.cross_entropy(x[HERE], INDEX[HERE]) for x in logits) / 2
    loss = objective(encoders, batch)
    same(loss.total, expected, objective, encoders["pulse"])
    assert torch.autograd.grad(loss.total, objective.classes.rows, retain_graph=True)[0].any()
    detached(loss, "pulse", embedded[0])
    right = (logits[0].argmax(dim=1) == INDEX).float()
    assert 0 < right[HERE].mean() < 1, "the case tells right from wrong"
    torch.testing.assert_close(loss.answers["correct"], right.masked_fill(~HERE, torch.nan), equal_nan=True)
    torch.testing.assert_close(loss.logs["accuracy"], right[HERE].mean())
    assert loss.logs["chance_loss"].item() == pytest.approx(math.log(SAMPLES))


def test_weights_kept_in_half_precision_are_compared_in_full() -> None:
    encoders, batch = two_encoders(), shown(1)
    objective = pic.PIC(encoders, embed_dim=4, encoder="pulse")
    reserve(objective, SAMPLES)
    objective.classes.bfloat16()
    x = unit(objective.head.layers(encoders["pulse"](batch.views["pulse"][0]).pooled))
    expected = F.cross_entropy((x @ unit(objective.classes.rows.float()).T / 0.2)[HERE], INDEX[HERE])
    torch.testing.assert_close(objective(encoders, batch).total, expected)


def test_the_head_has_a_hidden_layer_without_norm_and_samples_must_be_counted() -> None:
    objective = pic.PIC(two_encoders(), embed_dim=4, encoder="pulse")
    assert outline(objective.head.layers) == [f"{DIM}-{DIM} +bias", "relu", f"{DIM}-4 +bias"]
    given = pic.PIC(two_encoders(), embed_dim=4, hidden=(), encoder="pulse")
    assert outline(given.head.layers) == [f"{DIM}-4 +bias"]
    assert objective.spaces() == {"pulse": objective.head}
    with pytest.raises(UserError, match="not counted"):
        reserve(objective, None)
    reserve(objective, 3)
    assert objective.classes.rows.shape == (3, 4) and objective.classes.rows.requires_grad
    with pytest.raises(UserError, match="compares 1 views of pulse, but 0"):
        objective(two_encoders(), shown(0))


def test_one_view_is_shown_as_simclr_does() -> None:
    """The augmentations are SimCLR's."""
    preprocess = {"image": ImagePreprocess(16)}
    alike, one = simclr_view(preprocess), pic.method.view(preprocess)
    assert alike.steps["image"] == one.steps["image"] * 2
    other = pic.method.view(preprocess, views=2, image={"blur": {"p": 0.1}})
    assert [steps[-1] for steps in other.steps["image"]] == [Blur(p=0.1)] * 2


def test_the_defaults_are_the_papers() -> None:
    """A temperature of 0.2, and a head of two layers to 128 dimensions."""
    assert defaults(pic.PIC) == {"embed_dim": 128, "hidden": None, "temperature": 0.2, "encoder": None}
    assert pic.method.objective is pic.PIC
