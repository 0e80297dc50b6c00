"""DirectPred against BYOL's loss, and its predictor against that of Tian et al., ICML 2021."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mmssl.methods import directpred
from mmssl.methods.directpred import predictor_of
from mmssl.types import Encoder
from mmssl.views.byol import view as byol_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import (
    DIM,
    HERE,
    defaults,
    detached,
    follows,
    outline,
    same,
    shown,
    stir,
    two_encoders,
    unit,
    weights_of,
)


def started() -> tuple[directpred.DirectPred, dict[str, Encoder]]:
    """A run whose teacher lags behind."""
    encoders = two_encoders()
    options = {"hidden": (9, 8), "momentum": 0.8, "memory": 0.4, "boost": 0.2, "encoder": "pulse"}
    objective = directpred.DirectPred(encoders, embed_dim=4, **options)
    stir(objective.head, encoders["pulse"])
    return objective, encoders


def test_each_view_is_led_by_the_predictor_to_the_teachers_projection_of_the_other() -> None:
    (objective, encoders), batch = started(), shown()
    assert torch.equal(objective.predictor, torch.eye(4)), "before the first step"
    drawn = torch.randn(4, 4)
    objective.predictor.copy_(drawn + drawn.T)
    views = batch.views["pulse"][:2]
    embedded = [objective.head.layers(encoders["pulse"](view).pooled) for view in views]
    teacher = objective.teacher
    targets = [unit(teacher.head.layers(teacher.encoder(view).pooled)).detach() for view in views]
    apart = [unit(embedded[i] @ objective.predictor) - targets[1 - i] for i in range(2)]
    expected = sum(each.square().sum(dim=1)[HERE].mean() for each in apart)
    loss = objective(encoders, batch)
    same(loss.total, expected, objective, encoders["pulse"])
    detached(loss, "pulse", embedded[0])


def test_the_predictor_amplifies_the_directions_of_the_remembered_correlation() -> None:
    objective, encoders = started()
    objective.after_step(encoders, 1.0)  # before any batch
    assert torch.equal(objective.predictor, torch.eye(4)) and not objective.correlation.any()
    remembered = torch.zeros(4, 4, dtype=torch.double)
    for _ in range(2):
        batch = shown()
        rows = torch.cat(
            [objective.head.layers(encoders["pulse"](view).pooled)[HERE] for view in batch.views["pulse"][:2]]
        )
        objective(encoders, batch)
        objective.after_step(encoders, 1.0)
        mean = sum(torch.outer(row, row) for row in rows.detach().double()) / len(rows)
        remembered = 0.4 * remembered + 0.6 * mean
        torch.testing.assert_close(objective.correlation, remembered, rtol=1e-5, atol=1e-6)
        values, vectors = torch.linalg.eigh(remembered)
        expected = sum(
            ((value / values.max()).sqrt() + 0.2) * torch.outer(vector, vector)
            for value, vector in zip(values, vectors.T, strict=True)
        )
        torch.testing.assert_close(objective.predictor, expected.float(), rtol=1e-4, atol=1e-5)
    before = objective.correlation.clone()
    objective.eval()(encoders, shown())
    assert not objective.projected.take(), "an evaluation leaves none"
    objective.train()(encoders, shown())
    assert torch.equal(objective.correlation, before), "not before the step"
    assert not objective.projected.take()[0].requires_grad


def test_a_predictor_of_a_matrix_that_rounding_made_indefinite_and_of_none() -> None:
    flat = torch.diag(torch.tensor([4.0, 1.0, 0.0, -1e-9], dtype=torch.double))
    torch.testing.assert_close(predictor_of(flat, boost=0.2), torch.diag(torch.tensor([1.2, 0.7, 0.2, 0.2])).double())
    none = predictor_of(torch.zeros(3, 3), boost=0.3)
    torch.testing.assert_close(none, 0.3 * torch.eye(3))


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.8), (1 / 3, 0.85), (0.5, 0.9), (1.0, 1.0)])
def test_the_teacher_follows_ever_slower(progress: float, decay: float) -> None:
    objective, encoders = started()
    before = [weights_of(part) for part in (objective.teacher.encoder, objective.teacher.head)]
    objective.after_step(encoders, progress)
    follows(objective.teacher.encoder, before[0], encoders["pulse"], decay)
    follows(objective.teacher.head, before[1], objective.head, decay)


def test_the_head_and_the_defaults_are_the_papers() -> None:
    """BYOL's, with rho 0.3 and epsilon 0.1."""
    objective, _ = started()
    assert outline(objective.head.layers) == [f"{DIM}-9", "norm", "relu", "9-8", "norm", "relu", "8-4"]
    assert objective.spaces() == {"pulse": objective.head}
    byols = {"embed_dim": 256, "hidden": (4096,), "momentum": 0.996, "encoder": None}
    assert defaults(directpred.DirectPred) == {**byols, "memory": 0.3, "boost": 0.1}
    assert (directpred.method.view, directpred.method.objective) == (byol_view, directpred.DirectPred)
    assert objective.correlation.dtype == torch.double and "correlation" in objective.state_dict()
