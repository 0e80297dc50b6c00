"""CLIP over several modalities at once."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.clip import CLIP

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build


def test_equals_the_formula_of_the_paper() -> None:
    model = build("clip")
    full = batch("clip", missing=False)
    total, losses = model({"clip": full})
    x, y = losses["clip"].embeddings["image"], losses["clip"].embeddings["text"]
    logits = x @ y.T / 0.07
    labels = torch.arange(8)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(total.detach(), expected)


def test_the_temperature_starts_and_stops_where_the_paper_says() -> None:
    model = build("clip")
    objective = model.objectives["clip"]
    assert math.isclose(objective.scale().item(), 1 / 0.07, rel_tol=1e-5)
    objective.scale.log.data.fill_(9.0)
    objective.after_step(model.encoders, 0.0)
    assert math.isclose(objective.scale().item(), 100.0, rel_tol=1e-5)


def test_pairs_of_unknown_or_too_few_modalities_are_refused() -> None:
    encoders = dict(build("clip").encoders.items())
    with pytest.raises(UserError, match="pairs names 'sound'"):
        CLIP(encoders, pairs=[("image", "sound")])
    with pytest.raises(UserError, match="needs two modalities"):
        CLIP({"image": encoders["image"]})


def test_encoders_know_the_space_that_the_task_trains() -> None:
    model = build("clip")
    full = batch("clip")
    embedded = model.encoders["image"].embed(full.views["image"][0], space="clip")
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(8))
    with pytest.raises(UserError, match="no space 'clop'; did you mean 'clip'"):
        model.encoders["image"].embed(full.views["image"][0], space="clop")
