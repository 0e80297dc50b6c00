"""BYOL against its loss (Grill et al., NeurIPS 2020, eq. 2), and its teacher after a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mmssl.methods import byol
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


def started() -> tuple[byol.BYOL, dict[str, Encoder]]:
    """A run whose teacher lags behind."""
    encoders = two_encoders()
    objective = byol.BYOL(encoders, embed_dim=4, hidden=(9, 8), momentum=0.8, encoder="pulse")
    stir(objective.head, objective.predictor, encoders["pulse"])
    return objective, encoders


def test_each_view_predicts_the_teachers_projection_of_the_other() -> None:
    (objective, encoders), batch = started(), shown()
    views = batch.views["pulse"][:2]
    embedded = [objective.head.layers(encoders["pulse"](view).pooled) for view in views]
    teacher = objective.teacher
    targets = [unit(teacher.head.layers(teacher.encoder(view).pooled)).detach() for view in views]
    apart = [unit(objective.predictor(embedded[i])) - targets[1 - i] for i in range(2)]
    expected = sum(each.square().sum(dim=1)[HERE].mean() for each in apart)
    loss = objective(encoders, batch)
    same(loss.total, expected, objective, encoders["pulse"])
    assert not any(p.requires_grad for p in teacher.parameters())
    detached(loss, "pulse", embedded[0])


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.8), (1 / 3, 0.85), (0.5, 0.9), (1.0, 1.0)])
def test_the_teacher_follows_ever_slower(progress: float, decay: float) -> None:
    """1 - (1 - m) (cos(pi k / K) + 1) / 2."""
    objective, encoders = started()
    before = [weights_of(part) for part in (objective.teacher.encoder, objective.teacher.head)]
    encoders["pulse"](torch.randn(5, 5))  # whose statistics are copied
    objective.after_step(encoders, progress)
    follows(objective.teacher.encoder, before[0], encoders["pulse"], decay)
    follows(objective.teacher.head, before[1], objective.head, decay)


def test_heads_and_defaults_are_the_papers() -> None:
    """Hidden layers of 4096 with norm, outputs of 256 without; momentum 0.996."""
    objective, _ = started()
    hidden = ["norm", "relu", "9-8", "norm", "relu", "8-4"]
    assert outline(objective.head.layers) == [f"{DIM}-9", *hidden]
    assert outline(objective.predictor) == ["4-9", *hidden]
    assert objective.spaces() == {"pulse": objective.head}
    assert defaults(byol.BYOL) == {"embed_dim": 256, "hidden": (4096,), "momentum": 0.996, "encoder": None}
    assert (byol.method.view, byol.method.objective) == (byol_view, byol.BYOL)
