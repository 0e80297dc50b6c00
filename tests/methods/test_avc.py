"""AVC (L3-Net) against the formula of its paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.methods.avc import AVC, method
from mmssl.types import Batch, Method
from mmssl.views import synchronised

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same


@pytest.mark.parametrize("visual", ["image", "video"])
def test_two_classes_of_both_towers_side_by_side(visual: Literal["image", "video"]) -> None:
    encoders: dict[str, Any] = {visual: Table(visual, 3), "audio": Table("audio", 5)}
    made = AVC(encoders, visual=visual, hidden=6)
    batch = Batch(
        {visual: [numbers(0, 1, 2, 3)], "audio": [numbers(0, 1, 2, 3)]},
        extra={f"{visual}_present": present(1, 0, 1, 1)},
    )
    first, _, last = made.judge
    assert last.out_features == 2

    def scores(seen: int, heard: int) -> Tensor:
        both = torch.cat([encoders[visual].pooled[seen], encoders["audio"].pooled[heard]])
        return last.weight @ (first.weight @ both + first.bias).clamp(min=0) + last.bias

    own = torch.stack([scores(i, i) for i in (0, 2, 3)])
    wrong = torch.stack([scores(i, j) for i, j in ((0, 2), (2, 3), (3, 0))])  # the next that is there, around the end
    expected = (F.cross_entropy(own, torch.tensor([1] * 3)) + F.cross_entropy(wrong, torch.tensor([0] * 3))) / 2
    found = made(encoders, batch)
    same(found.total, expected, [*encoders.values(), made])
    right = ((own.argmax(1) == 1).float() + (wrong.argmax(1) == 0).float()) / 2
    assert found.answers["correct"][[0, 2, 3]].tolist() == right.tolist() and found.answers["correct"][1].isnan()
    torch.testing.assert_close(found.logs["accuracy"], right.mean())
    assert found.embeddings == {} and made.spaces() == {}, "there is no joint space"


def test_defaults_are_the_papers() -> None:
    """Arandjelovic & Zisserman, ICCV 2017, figure 2: an image, a layer of 128, two classes."""
    assert method == Method(synchronised.view, AVC)
    assert defaults(AVC) == {"visual": "image", "hidden": 128}
    made = AVC({"image": Table("image", 3), "audio": Table("audio", 5)})
    assert [tuple(made.judge[n].weight.shape) for n in (0, 2)] == [(128, 8), (2, 128)]


def test_log_odds_are_float32_under_autocast() -> None:
    encoders = {"image": Table("image"), "audio": Table("audio")}
    with torch.autocast("cpu", torch.bfloat16):
        odds = AVC(encoders).log_odds(encoders["image"](numbers(0, 1)), encoders["audio"](numbers(2, 3)))
    assert odds.dtype == torch.float32
