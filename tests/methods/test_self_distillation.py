"""What the methods without negatives promise: who learns from whom, and what follows the network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

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


def test_dinos_teacher_sees_the_large_crops_only_and_its_scores_make_the_centre() -> None:
    model, shown = build("dino"), batch("dino", missing=False)
    objective, sizes = model.objectives["dino"], []
    shown.views["image"][2] = shown.views["image"][2][:, :, :8, :8]
    objective.teacher.encoder.register_forward_hook(lambda _module, args, _out: sizes.append(tuple(args[0].shape)))
    loss = objective(model.encoders, shown)
    assert sizes == [(16, 3, 16, 16)]
    embedded = [F.normalize(x) for x in objective.teacher(shown.views["image"][:2], 8)]
    scores = torch.cat([objective.teacher_prototypes(x) for x in embedded])
    assert 0 <= loss.logs["assignment_entropy"] <= 1 + 1e-6
    objective.after_step(model.encoders, 0.05)
    torch.testing.assert_close(objective.centre, 0.1 * scores.mean(dim=0))
    assert objective.temperature.item() == pytest.approx(0.055)
    objective.after_step(model.encoders, 0.5)
    assert objective.temperature.item() == pytest.approx(0.07)


def test_dinos_prototypes_may_wait() -> None:
    encoder = create_encoder("vit", **ENCODERS["image"][1])
    options = SETTINGS["dino"].options | {"frozen": 0.2}
    objective = names.resolve("methods", "dino")[0].objective({"image": encoder}, **options)
    moved = []
    for progress in (0.1, 0.2):
        objective.zero_grad()
        objective({"image": encoder}, batch("dino")).total.backward()
        moved.append(bool(objective.prototypes.directions.grad.any()))
        objective.after_step({"image": encoder}, progress)
    objective.zero_grad()
    objective({"image": encoder}, batch("dino")).total.backward()
    assert [*moved, bool(objective.prototypes.directions.grad.any())] == [False, False, True]


@pytest.mark.parametrize("name", ["byol", "simsiam", "directpred", "dino", "moby", "barlow_twins", "vicreg"])
def test_they_are_about_instances_of_any_modality(name: str) -> None:
    kind, options = ENCODERS["audio"]
    encoders = {"audio": create_encoder(kind, **options)}
    method = names.resolve("methods", name)[0]
    method.view({"audio": encoders["audio"].preprocess}, **({"small": 0} if name == "dino" else {}))
    total = method.objective(encoders, **SETTINGS[name].options)(encoders, plain(("audio",), 4, views=2)).total
    total.backward()
    assert total.isfinite()
