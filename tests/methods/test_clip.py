"""CLIP over several modalities at once."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl import dist
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.clip import CLIP

sys.path.insert(0, str(Path(__file__).parent))
from settings import ENCODERS, SETTINGS, batch, build, plain


def test_equals_the_formula_of_the_paper() -> None:
    model = build("clip")
    full = batch("clip", missing=False)
    total, losses = model({"clip": full})
    x, y = losses["clip"].embeddings["image"], losses["clip"].embeddings["text"]
    logits = x @ y.T / 0.07
    labels = torch.arange(8)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(total.detach(), expected)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_pair_that_no_sample_has_does_not_count_in_the_mean(name: str) -> None:
    settings = SETTINGS[name]
    model = build(name)
    encoders = dict(model.encoders.items()) | {"audio": create_encoder(ENCODERS["audio"][0], **ENCODERS["audio"][1])}
    kind = type(model.objectives[name])
    pairs = [("image", "text"), ("image", "audio")]
    objectives = {"both": kind(encoders, pairs=pairs, **settings.options), "one": model.objectives[name]}
    objectives["both"].load_state_dict(objectives["one"].state_dict(), strict=False)
    shown = plain(("image", "text", "audio"), 8)
    shown.extra["audio_present"] = torch.zeros(8, dtype=torch.bool)
    with dist.counting() as counts:
        both = objectives["both"](encoders, shown)
    assert max(counts) == 8 and min(counts) == 0
    one = objectives["one"](encoders, shown)
    torch.testing.assert_close(both.total, one.total)
    assert both.logs["loss_image-text"] == one.logs["loss_image-text"]
    assert both.logs["loss_image-audio"].isnan()
    shown.extra["image_present"] = torch.zeros(8, dtype=torch.bool)
    assert objectives["both"](encoders, shown).total == 0


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
