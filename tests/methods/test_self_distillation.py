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
from mmssl.methods.directpred import predictor_of

sys.path.insert(0, str(Path(__file__).parent))
from settings import ENCODERS, SETTINGS, batch, build, plain


def parts(name: str) -> tuple[Any, Any, list[torch.Tensor], Any]:
    """The objective, the encoder, a batch's views and the loss."""
    model, shown = build(name), batch(name, missing=False)
    objective, encoder = model.objectives[name], model.encoders["image"]
    return objective, encoder, shown.views["image"], objective(model.encoders, shown)


def test_byol_is_the_distance_of_predictions_from_the_teachers_other_view() -> None:
    objective, encoder, views, loss = parts("byol")
    predicted = [objective.predictor(objective.head.project(encoder(view).pooled)) for view in views]
    taught = [objective.teacher.head.project(objective.teacher.encoder(view).pooled) for view in views]
    apart = [F.normalize(predicted[i]) - F.normalize(taught[1 - i]) for i in range(2)]
    torch.testing.assert_close(loss.total, sum(a.square().sum(dim=1).mean() for a in apart))


@pytest.mark.parametrize("name", ["byol", "directpred", "moby", "dino"])
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


def test_simsiam_holds_its_targets_still_and_its_predictor_steady() -> None:
    objective, encoder, views, loss = parts("simsiam")
    loss.total.backward()
    found = encoder.patch.weight.grad.clone()
    encoder.zero_grad()
    embedded = [objective.head.project(encoder(view).pooled) for view in views]
    cosines = [
        (F.normalize(objective.predictor(embedded[i])) * F.normalize(embedded[1 - i].detach())).sum(dim=1)
        for i in range(2)
    ]
    expected = -(cosines[0] + cosines[1]).mean() / 2
    expected.backward()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(found, encoder.patch.weight.grad)
    assert {id(p) for p in objective.steady()} == {id(p) for p in objective.predictor.parameters()}


def test_directpred_sets_its_predictor_by_the_correlation_of_what_it_is_given() -> None:
    objective, encoder, views, _ = parts("directpred")
    rows = torch.cat([objective.head.project(encoder(view).pooled) for view in views]).detach().double()
    objective.after_step({"image": encoder}, 0.0)
    correlation = sum(torch.outer(row, row) for row in rows) / len(rows)
    torch.testing.assert_close(objective.correlation, 0.7 * correlation)
    values, vectors = torch.linalg.eigh(correlation)
    for value, vector in zip(values, vectors.T, strict=True):
        expected = ((value / values.max()).sqrt() + 0.1) * vector
        torch.testing.assert_close(objective.predictor.double() @ vector, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predictor_of(correlation, boost=0.1), predictor_of(5 * correlation, boost=0.1))


def test_moby_compares_each_view_with_the_other_views_queue_and_fills_its_own() -> None:
    objective, encoder, views, loss = parts("moby")
    keys = [F.normalize(x) for x in objective.teacher(views, 8)]
    total = torch.zeros(())
    for i, view in enumerate(views):
        query = F.normalize(objective.predictor(objective.head.project(encoder(view).pooled)))
        logits = torch.cat([(query * keys[1 - i]).sum(1, True), query @ objective.queues[1 - i].rows.T], dim=1) / 0.2
        total = total - (logits[:, 0] - logits.logsumexp(dim=1)).mean()
    torch.testing.assert_close(loss.total, total)
    objective.after_step({"image": encoder}, 0.5)
    for queue, rows in zip(objective.queues, keys, strict=True):
        torch.testing.assert_close(queue.rows[:8], rows)


def test_mobys_teacher_has_no_drop_path() -> None:
    encoder = create_encoder("vit", drop_path=0.5, **ENCODERS["image"][1] | {"depth": 2})
    objective = names.resolve("methods", "moby")[0].objective({"image": encoder}, **SETTINGS["moby"].options)
    x = torch.rand(8, 3, 16, 16)
    torch.testing.assert_close(objective.teacher([x], 8), objective.teacher([x], 8), rtol=0, atol=0)
    assert not torch.equal(encoder(x).pooled, encoder(x).pooled)


@pytest.mark.parametrize("name", ["byol", "simsiam", "directpred", "dino", "moby", "barlow_twins", "vicreg"])
def test_they_are_about_instances_of_any_modality(name: str) -> None:
    kind, options = ENCODERS["audio"]
    encoders = {"audio": create_encoder(kind, **options)}
    method = names.resolve("methods", name)[0]
    method.view({"audio": encoders["audio"].preprocess}, **({"small": 0} if name == "dino" else {}))
    total = method.objective(encoders, **SETTINGS[name].options)(encoders, plain(("audio",), 4, views=2)).total
    total.backward()
    assert total.isfinite()
