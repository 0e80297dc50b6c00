"""SimSiam against its loss (Chen & He, CVPR 2021, eq. 4)."""

from __future__ import annotations

import sys
from pathlib import Path

from mmssl.methods import simsiam
from mmssl.views.moco_v2 import view as moco_v2_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import DIM, HERE, defaults, detached, outline, same, shown, stir, two_encoders, unit


def test_each_view_predicts_the_others_projection_which_is_held_still() -> None:
    encoders, batch = two_encoders(), shown()
    objective = simsiam.SimSiam(encoders, embed_dim=4, hidden=(9, 8), bottleneck=3, encoder="pulse")
    stir(objective, encoders["pulse"])
    embedded = [objective.head.layers(encoders["pulse"](view).pooled) for view in batch.views["pulse"][:2]]
    cosines = [(unit(objective.predictor(embedded[i])) * unit(embedded[1 - i].detach())).sum(1) for i in range(2)]
    loss = objective(encoders, batch)
    same(loss.total, -sum(each[HERE].mean() / 2 for each in cosines), objective, encoders["pulse"])
    detached(loss, "pulse", embedded[0])


def test_the_predictors_rate_is_steady_and_heads_are_the_papers() -> None:
    """Norm on the last layer of the projection, without scale; a bottleneck whose output has a bias."""
    objective = simsiam.SimSiam(two_encoders(), embed_dim=4, hidden=(9, 8), bottleneck=3, encoder="pulse")
    assert outline(objective.head.layers) == [
        *(f"{DIM}-9", "norm", "relu", "9-8", "norm", "relu", "8-4", "norm, bare"),
    ]
    assert outline(objective.predictor) == ["4-3", "norm", "relu", "3-4 +bias"]
    (group,) = objective.parameter_groups()
    assert [id(p) for p in group.pop("params")] == [id(p) for p in objective.predictor.parameters()]
    assert group == {"final_lr": 1.0}
    assert objective.spaces() == {"pulse": objective.head}


def test_the_defaults_are_the_papers() -> None:
    """A projection of three layers of 2048, a bottleneck of 512."""
    paper = {"embed_dim": 2048, "hidden": (2048, 2048), "bottleneck": 512, "encoder": None}
    assert defaults(simsiam.SimSiam) == paper
    assert (simsiam.method.view, simsiam.method.objective) == (moco_v2_view, simsiam.SimSiam)
