"""AVOL-Net against the formula of its paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.avol import AVOL, method
from mmssl.types import Batch, Features, Method
from mmssl.views import synchronised

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same


@pytest.mark.parametrize(("visual", "grid"), [("image", (2, 3)), ("video", (2, 1, 3))])
@pytest.mark.parametrize("pool", ["max", "soft"])
def test_the_odds_are_the_best_cells_or_the_mean_over_cells(
    visual: Literal["image", "video"], grid: tuple[int, ...], pool: Literal["max", "soft"]
) -> None:
    encoders: dict[str, Any] = {visual: Table(visual, 3, grid=grid), "audio": Table("audio", 5)}
    made = AVOL(encoders, visual=visual, embed_dim=4, hidden=(7,), scale=6.0, pool=pool).eval()
    assert made.bias.item() == (-3.0 if pool == "max" else 0.0)
    with torch.no_grad():
        made.bias.fill_(-0.7)
        for key in made.heads:
            made.heads[key].layers[1].running_var.fill_(0.6)
    batch = Batch(
        {visual: [numbers(0, 1, 2, 3)], "audio": [numbers(0, 1, 2, 3)]},
        extra={f"{visual}_present": present(1, 0, 1, 1)},
    )

    def embedded(key: str, x: Tensor) -> Tensor:
        first, norm, _, last = made.heads[key].layers
        x = first.weight @ x / (0.6 + norm.eps) ** 0.5 * norm.weight + norm.bias
        x = last.weight @ x.clamp(min=0)
        return x / x.square().sum().sqrt()

    def cosines(seen: int, heard: int) -> Tensor:
        sound = embedded("audio", encoders["audio"].pooled[heard])
        return torch.stack([embedded(visual, cell) @ sound for cell in encoders[visual].tokens[seen]])

    def odds(seen: int, heard: int) -> Tensor:
        cells = made.scale * cosines(seen, heard) + made.bias
        return cells.max() if pool == "max" else cells.exp().mean().log()

    own = torch.stack([odds(i, i) for i in (0, 2, 3)])
    wrong = torch.stack([odds(i, j) for i, j in ((0, 2), (2, 3), (3, 0))])
    expected = -(F.logsigmoid(own).mean() + F.logsigmoid(-wrong).mean()) / 2
    found = made(encoders, batch)
    same(found.total, expected, [*encoders.values(), made])
    seen, heard = encoders[visual](numbers(0, 1)), Features(encoders["audio"].pooled[1:3])
    expected = torch.stack([cosines(0, 1), cosines(1, 2)]).view(2, *grid)
    torch.testing.assert_close(made.similarity_map(seen, heard), expected)
    assert made.spaces() == dict(made.heads.items()) and set(found.embeddings) == {visual, "audio"}
    assert all(x.shape[1] == 4 and not x.requires_grad for x in found.embeddings.values())
    assert made.scale.item() == 6 and made.scale.requires_grad and made.bias.requires_grad


def test_there_is_no_map_without_cells() -> None:
    encoders = {"image": Table("image"), "audio": Table("audio")}
    with pytest.raises(UserError, match="there is no map without cells, and this encoder gives none"):
        AVOL(encoders, hidden=()).similarity_map(encoders["image"](numbers(0)), encoders["audio"](numbers(0)))


def test_defaults() -> None:
    """Arandjelovic & Zisserman, ECCV 2018: 128, 128, the maximum. The scale is this project's own."""
    assert method == Method(synchronised.view, AVOL)
    assert defaults(AVOL) == {"visual": "image", "embed_dim": 128, "hidden": (128,), "scale": 10.0, "pool": "max"}
    made = AVOL({"image": Table("image"), "audio": Table("audio")})
    assert (made.scale.item(), made.bias.item()) == (10.0, -5.0), "a cosine of a half is where yes begins"
