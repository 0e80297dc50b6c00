"""Barlow Twins against its loss (Zbontar et al., ICML 2021), over the samples that are present."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mmssl import dist
from mmssl.methods import barlow_twins
from mmssl.views.byol import view as byol_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import DIM, HERE, ROWS, defaults, detached, outline, same, shown, stir, two_encoders


def test_the_cross_correlation_of_those_present_is_brought_to_the_identity() -> None:
    encoders, batch = two_encoders(), shown()
    objective = barlow_twins.BarlowTwins(encoders, embed_dim=4, hidden=(9, 8), redundancy=0.3, encoder="pulse")
    stir(objective)
    one, other = (objective.head.layers(encoders["pulse"](view).pooled) for view in batch.views["pulse"][:2])
    standard = [(x[HERE] - x[HERE].mean(0)) / (x[HERE].var(0, unbiased=False) + 1e-5).sqrt() for x in (one, other)]
    correlation = standard[0].T @ standard[1] / HERE.sum()
    agreement = sum((1 - correlation[i, i]) ** 2 for i in range(4))
    redundancy = sum(correlation[i, j] ** 2 for i in range(4) for j in range(4) if i != j)
    loss = objective(encoders, batch)
    same(loss.total, agreement + 0.3 * redundancy, objective, encoders["pulse"])
    detached(loss, "pulse", one)
    torch.testing.assert_close(loss.logs, {"agreement": agreement.detach(), "redundancy": redundancy.detach()})
    assert not any(value.requires_grad for value in loss.logs.values())


@pytest.mark.parametrize(("present", "counted"), [(4, 4), (2, 2), (1, 0), (0, 0)])
def test_a_run_is_told_over_how_many_rows_it_was_taken(present: int, counted: int) -> None:
    objective = barlow_twins.BarlowTwins(two_encoders(), embed_dim=4, hidden=(9,), encoder="pulse")
    with dist.counting() as counts:
        objective(two_encoders(), shown(2, torch.arange(ROWS) < present))
    assert [float(count) for count in counts] == [counted]


def test_the_head_and_the_defaults_are_the_papers() -> None:
    """Three layers of 8192, norm and ReLU behind the first two; lambda 0.005, 0.0051 in the code."""
    objective = barlow_twins.BarlowTwins(two_encoders(), embed_dim=4, hidden=(9, 8), encoder="pulse")
    assert outline(objective.head.layers) == [f"{DIM}-9", "norm", "relu", "9-8", "norm", "relu", "8-4"]
    assert objective.spaces() == {"pulse": objective.head}
    paper = {"embed_dim": 8192, "hidden": (8192, 8192), "redundancy": 0.0051, "encoder": None}
    assert defaults(barlow_twins.BarlowTwins) == paper
    assert (barlow_twins.method.view, barlow_twins.method.objective) == (byol_view, barlow_twins.BarlowTwins)
