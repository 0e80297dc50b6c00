"""Deep InfoMax against its two bounds (Hjelm et al., ICLR 2019), written as loops."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import dim
from mmssl.types import Batch, Encoder, Features
from mmssl.views.single import view as single_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import HERE, ROWS, defaults, detached, outline, same, stir

CELLS, WIDE = 3, 6


class Celled(Encoder):
    """Gives three cells of each sample, and what they come to; lengths and no tokens at all on demand."""

    modality = "pulse"

    def __init__(self, *, tokens: bool = True, ragged: bool = False) -> None:
        super().__init__()
        self.dim, self.tokens, self.ragged = WIDE, tokens, ragged
        self.layer, self.pool = nn.Linear(5, WIDE), nn.Linear(CELLS * WIDE, WIDE)

    def forward(self, x: Tensor) -> Features:
        tokens = self.layer(x)
        lengths = torch.full((len(x),), CELLS) if self.ragged else None
        return Features(self.pool(tokens.flatten(1)), tokens if self.tokens else None, lengths=lengths)


def jsd(cells: Tensor, summaries: Tensor) -> Tensor:
    """The other samples' mean of softplus(T), less that of -softplus(-T) over the sample's own; log 2 in both."""
    losses = []
    for i, summary in enumerate(summaries):
        own = torch.stack([math.log(2) - F.softplus(-summary @ cell) for cell in cells[i]])
        others = torch.stack(
            [F.softplus(summary @ c) - math.log(2) for j in range(len(cells)) if j != i for c in cells[j]]
        )
        losses.append(others.mean() - own.mean())
    return torch.stack(losses).mean()


def infonce(cells: Tensor, summaries: Tensor) -> Tensor:
    """Each cell is found among it and the cells of the others."""
    losses = []
    for i, summary in enumerate(summaries):
        others = torch.stack([summary @ c for j in range(len(cells)) if j != i for c in cells[j]])
        losses += [
            F.cross_entropy(torch.cat([(summary @ c)[None], others])[None], torch.zeros(1).long()) for c in cells[i]
        ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("measure", "formula"), [("jsd", jsd), ("infonce", infonce)])
def test_summaries_and_cells_of_those_present_are_compared(measure: dim.Measure, formula: object) -> None:
    encoders = {"other": Celled(), "pulse": Celled()}
    objective = dim.DIM(encoders, measure=measure, embed_dim=4, encoder="pulse")
    stir(objective)
    x = [torch.randn(ROWS, CELLS, 5) for _ in range(2)]  # the second view is not looked at
    features = encoders["pulse"](x[0])
    cells = objective.norm(objective.local(features.tokens.reshape(-1, WIDE))).view(ROWS, CELLS, 4)
    summaries = objective.summary(features.pooled)
    loss = objective(encoders, Batch({"pulse": x}, extra={"pulse_present": HERE}))
    same(loss.total, formula(cells[HERE], summaries[HERE]), objective, encoders["pulse"])
    detached(loss, "pulse", features.pooled)


@pytest.mark.parametrize(("inputs", "out"), [(3, 5), (5, 3)])
def test_a_lift_starts_as_the_identity_beside_a_hidden_layer(inputs: int, out: int) -> None:
    lift = dim.Lift(inputs, out)
    assert outline(lift.bent) == [f"{inputs}-{out}", "norm", "relu", f"{out}-{out} +bias"]
    assert outline([lift.straight]) == [f"{inputs}-{out} +bias"]
    assert torch.equal(lift.straight.weight, torch.eye(max(inputs, out))[:out, :inputs])
    x = torch.randn(4, inputs)
    torch.testing.assert_close(lift(x), lift.bent(x) + lift.straight(x))


@pytest.mark.parametrize(
    ("encoder", "found"), [(Celled(tokens=False), "gives none"), (Celled(ragged=True), "gives of each sample another")]
)
def test_an_encoder_without_as_many_tokens_of_each_sample_is_refused(encoder: Celled, found: str) -> None:
    objective = dim.DIM({"pulse": encoder}, embed_dim=4)
    with pytest.raises(UserError, match=found):
        objective({"pulse": encoder}, Batch({"pulse": [torch.randn(ROWS, CELLS, 5)]}))
    with pytest.raises(UserError, match="compares 1 views of pulse, but 0"):
        objective({"pulse": encoder}, Batch({"pulse": []}, extra={"pulse_present": HERE}))


def test_the_defaults_are_the_papers() -> None:
    """The Jensen-Shannon bound, encodings of 2048."""
    assert defaults(dim.DIM) == {"measure": "jsd", "embed_dim": 2048, "encoder": None}
    assert (dim.method.view, dim.method.objective) == (single_view, dim.DIM)
