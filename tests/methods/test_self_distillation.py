"""What the methods without negatives promise: who learns from whom, and what follows the network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl import names
from mmssl.encoders import create_encoder

sys.path.insert(0, str(Path(__file__).parent))
from settings import ENCODERS, SETTINGS, batch, build, plain


def parts(name: str) -> tuple[Any, Any, list[torch.Tensor], Any]:
    """The objective, the encoder, a batch's views and the loss."""
    model, shown = build(name), batch(name, missing=False)
    objective, encoder = model.objectives[name], model.encoders["image"]
    return objective, encoder, shown.views["image"], objective(model.encoders, shown)


@pytest.mark.parametrize("name", ["dino"])
def test_the_teacher_follows_less_and_less(name: str) -> None:
    objective, encoder, _, _ = parts(name)
    with torch.no_grad():
        encoder.norm.bias.add_(1.0)
    before = objective.teacher.encoder.norm.bias.clone()
    for progress, share in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        objective.teacher.encoder.norm.bias.copy_(before)
        objective.after_step({"image": encoder}, progress)
        moved = objective.teacher.encoder.norm.bias - before
        torch.testing.assert_close(moved, torch.full_like(moved, share))


@pytest.mark.parametrize("name", ["byol", "simsiam", "directpred", "dino", "moby", "barlow_twins", "vicreg"])
def test_they_are_about_instances_of_any_modality(name: str) -> None:
    kind, options = ENCODERS["audio"]
    encoders = {"audio": create_encoder(kind, **options)}
    method = names.resolve("methods", name)[0]
    method.view({"audio": encoders["audio"].preprocess}, **({"small": 0} if name == "dino" else {}))
    total = method.objective(encoders, **SETTINGS[name].options)(encoders, plain(("audio",), 4, views=2)).total
    total.backward()
    assert total.isfinite()
