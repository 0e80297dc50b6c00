"""VICReg against its three terms (Bardes et al., ICLR 2022), over the samples that are present."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mmssl import dist
from mmssl.methods import vicreg
from mmssl.views.byol import view as byol_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import DIM, HERE, ROWS, defaults, detached, outline, same, shown, stir, two_encoders

WEIGHTS = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}


def test_the_three_terms_of_those_present_are_weighted_each_by_its_own_option() -> None:
    encoders, batch = two_encoders(), shown()
    objective = vicreg.VICReg(encoders, embed_dim=4, hidden=(9, 8), encoder="pulse", **WEIGHTS)
    stir(objective)
    one, other = (objective.head.layers(encoders["pulse"](view).pooled) for view in batch.views["pulse"][:2])
    views = [x[HERE] for x in (one, other)]
    terms = {"invariance": (views[0] - views[1]).square().mean()}
    terms["variance"] = sum((1 - (x.var(0) + 1e-4).sqrt()).clamp(min=0).mean() / 2 for x in views)
    covariances = [torch.cov(x.T) for x in views]
    terms["covariance"] = sum(c[i, j] ** 2 / 4 for c in covariances for i in range(4) for j in range(4) if i != j)
    loss = objective(encoders, batch)
    same(loss.total, sum(WEIGHTS[name] * terms[name] for name in WEIGHTS), objective, encoders["pulse"])
    detached(loss, "pulse", one)
    torch.testing.assert_close(loss.logs, {name: term.detach() for name, term in terms.items()})
    assert not any(value.requires_grad for value in loss.logs.values())


@pytest.mark.parametrize(("present", "counted"), [(4, 4), (2, 2), (1, 0), (0, 0)])
def test_a_run_is_told_over_how_many_rows_it_was_taken(present: int, counted: int) -> None:
    objective = vicreg.VICReg(two_encoders(), embed_dim=4, hidden=(9,), encoder="pulse")
    with dist.counting() as counts:
        objective(two_encoders(), shown(2, torch.arange(ROWS) < present))
    assert [float(count) for count in counts] == [counted]


def test_the_head_and_the_defaults_are_the_papers() -> None:
    """An expander of three layers of 8192; weights 25, 25 and 1."""
    objective = vicreg.VICReg(two_encoders(), embed_dim=4, hidden=(9, 8), encoder="pulse")
    assert outline(objective.head.layers) == [f"{DIM}-9", "norm", "relu", "9-8", "norm", "relu", "8-4"]
    assert objective.spaces() == {"pulse": objective.head}
    weights = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
    assert defaults(vicreg.VICReg) == {"embed_dim": 8192, "hidden": (8192, 8192), "encoder": None, **weights}
    assert (vicreg.method.view, vicreg.method.objective) == (byol_view, vicreg.VICReg)
