"""AVTS against the formula of its paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from mmssl.methods.avts import AVTS, method
from mmssl.types import Batch, Method
from mmssl.views.synchronised import shifted

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same


@pytest.mark.parametrize("visual", ["image", "video"])
@pytest.mark.parametrize("margin", [0.6, 1.4])
def test_the_margin_loss_of_the_distances(visual: Literal["image", "video"], margin: float) -> None:
    encoders: dict[str, Any] = {visual: Table(visual, 3), "audio": Table("audio", 5)}
    made = AVTS(encoders, visual=visual, embed_dim=4, hidden=(7,), margin=margin).eval()
    with torch.no_grad():
        for key in made.heads:
            made.heads[key].layers[1].running_var.fill_(0.6)
        encoders["audio"].pooled[2] = encoders["audio"].pooled[0] + 0.1  # a wrong sound that is near, for one
    batch = Batch(
        {visual: [numbers(0, 1, 2, 3, 4)], "audio": [numbers(0, 1, 2, 3, 4), numbers(10, 11, 12, 13, 14)]},
        extra={f"{visual}_present": present(1, 0, 1, 1, 1), "kind": torch.tensor([0, 0, 1, 2, -1])},
    )

    def embedded(key: str, row: int) -> Tensor:
        first, norm, _, last = made.heads[key].layers
        x = first.weight @ encoders[key].pooled[row] / (0.6 + norm.eps) ** 0.5 * norm.weight + norm.bias
        x = last.weight @ x.clamp(min=0)
        return x / x.square().sum().sqrt()

    def distance(seen: int, heard: int) -> Tensor:
        return (embedded(visual, seen) - embedded("audio", heard) + 1e-6).square().sum().sqrt()

    near = torch.stack([distance(i, i) for i in (0, 2, 3, 4)])
    far = torch.stack([distance(i, j) for i, j in ((0, 12), (2, 12), (3, 13), (4, 0))])
    expected = (near.square().mean() + (margin - far).clamp(min=0).square().mean()) / 2
    found = made(encoders, batch)
    same(found.total, expected, [*encoders.values(), made])
    right = (near < far).float()
    assert found.answers["correct"][[0, 2, 3, 4]].tolist() == right.tolist() and found.answers["correct"][1].isnan()
    seen, heard = encoders[visual](numbers(0, 2)), encoders["audio"](numbers(0, 12))
    expected = margin / 2 - torch.stack([distance(0, 0), distance(2, 12)])
    torch.testing.assert_close(made.log_odds(seen, heard), expected)
    assert made.spaces() == dict(made.heads.items()) and set(found.embeddings) == {visual, "audio"}
    assert all(x.shape[1] == 4 and not x.requires_grad for x in found.embeddings.values())


def test_as_near_is_not_nearer() -> None:
    made = AVTS({"video": Table("video"), "audio": Table("audio")})
    own, wrong = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.2, 0.2])
    torch.testing.assert_close(made.correct(own, wrong), torch.tensor([0.0, 0.0, 1.0]))


def test_defaults_are_the_papers() -> None:
    """Korbar et al., NeurIPS 2018: the margin is 0.99. A linear head to 128 is this project's own."""
    assert method == Method(shifted, AVTS)
    assert defaults(AVTS) == {"visual": "video", "embed_dim": 128, "hidden": (), "margin": 0.99}
