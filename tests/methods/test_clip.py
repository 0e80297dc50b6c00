"""CLIP over several modalities at once, against the formula of its paper."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl import dist
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.clip import CLIP, method
from mmssl.types import Batch, Method
from mmssl.views.single import view as single_view

sys.path.insert(0, str(Path(__file__).parent))
from settings import ENCODERS, SETTINGS, batch, build, plain
from tables import Table, defaults, numbers, present, same

PAIRS = [("image", "text"), ("audio", "image")]


def test_equals_the_formula_of_the_paper() -> None:
    model = build("clip")
    full = batch("clip", missing=False)
    total, losses = model({"clip": full})
    x, y = losses["clip"].embeddings["image"], losses["clip"].embeddings["text"]
    logits = x @ y.T / 0.07
    labels = torch.arange(8)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(total.detach(), expected)


@pytest.mark.parametrize("learnt", [True, False])
def test_every_option_and_absent_samples(learnt: bool) -> None:
    encoders: dict[str, Any] = {key: Table(key) for key in ("image", "text", "audio")}
    made = CLIP(
        encoders, embed_dim=3, hidden=(6,), pairs=PAIRS, temperature=0.4, learn_temperature=learnt, intra_modal=0.3,
        max_scale=8.0,
    )  # fmt: skip
    have = {"image": present(1, 1, 0, 1, 1), "text": present(1, 1, 1, 1, 1), "audio": present(1, 0, 1, 1, 1)}
    views = [numbers(0, 1, 2, 3, 4), numbers(5, 6, 7, 8, 9)]
    batch = Batch(dict.fromkeys(have, views), extra={f"{key}_present": value for key, value in have.items()})
    first, second = [{key: made.heads[key](encoders[key](view)) for key in encoders} for view in views]
    assert {embedded.shape for embedded in first.values()} == {(5, 3)}

    def loss(a: torch.Tensor, b: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        logits, labels = a[valid] @ b[valid].T * made.scale(), torch.arange(int(valid.sum()))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    across = [loss(first[a], first[b], have[a] & have[b]) for a, b in PAIRS]
    inside = [loss(first[key], second[key], have[key]) for key in encoders]
    found = made(encoders, batch)
    same(found.total, sum(across) / 2 + 0.3 * sum(inside) / 3, [*encoders.values(), made])  # type: ignore[arg-type]
    assert made.scale().item() == pytest.approx(2.5) and made.scale.log.requires_grad == learnt
    torch.testing.assert_close(found.logs["temperature"], torch.tensor(0.4))
    made.scale.log.data.fill_(9.0)
    made.after_step(encoders, 0.0)
    assert made.scale().item() == pytest.approx(8.0)


def test_defaults_are_the_papers() -> None:
    """Radford et al., sections 2.4, 2.5: linear heads; the temperature starts at 0.07, its inverse ends at 100."""
    assert method == Method(single_view, CLIP)
    assert defaults(CLIP) == {
        "embed_dim": None, "hidden": (), "pairs": None, "headless": (), "temperature": None, "learn_temperature": True,
        "max_scale": None, "intra_modal": 0.0, "bf16": False,
    }  # fmt: skip
    made = CLIP({key: Table(key) for key in ("image", "text")})
    assert made.heads["text"].embed_dim == 512 and made.scale().item() == pytest.approx(1 / 0.07)
    assert made.scale.ceiling == pytest.approx(math.log(100))


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
