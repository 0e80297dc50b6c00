"""AVE-Net against the formula of its paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.methods.ave import AVE, method
from mmssl.types import Batch, Method
from mmssl.views import synchronised

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same


@pytest.mark.parametrize("visual", ["image", "video"])
def test_two_classes_of_the_distance_in_its_space(visual: Literal["image", "video"]) -> None:
    encoders: dict[str, Any] = {visual: Table(visual, 3), "audio": Table("audio", 5)}
    made = AVE(encoders, visual=visual, embed_dim=4, hidden=(7,))
    with torch.no_grad():
        made.judge.weight.copy_(torch.tensor([[2.0], [-0.5]]))
        made.judge.bias.copy_(torch.tensor([-1.5, 0.3]))
    batch = Batch(
        {visual: [numbers(0, 1, 2, 3)], "audio": [numbers(0, 1, 2, 3)]},
        extra={"audio_present": present(1, 0, 1, 1)},
    )

    def embedded(key: str, row: int) -> Tensor:
        first, _, last = made.heads[key].layers  # no BatchNorm
        x = last.weight @ (first.weight @ encoders[key].pooled[row] + first.bias).clamp(min=0)
        return x / x.square().sum().sqrt()

    def scores(seen: int, heard: int) -> Tensor:
        distance = (embedded(visual, seen) - embedded("audio", heard) + 1e-6).square().sum().sqrt()
        return made.judge.weight[:, 0] * distance + made.judge.bias

    own = torch.stack([scores(i, i) for i in (0, 2, 3)])
    wrong = torch.stack([scores(i, j) for i, j in ((0, 2), (2, 3), (3, 0))])
    expected = (F.cross_entropy(own, torch.tensor([1] * 3)) + F.cross_entropy(wrong, torch.tensor([0] * 3))) / 2
    found = made(encoders, batch)
    same(found.total, expected, [*encoders.values(), made])
    assert made.spaces() == dict(made.heads.items()) and set(made.spaces()) == {visual, "audio"}
    for key in made.spaces():
        expected = torch.stack([embedded(key, row) for row in range(4)])
        torch.testing.assert_close(found.embeddings[key], expected.detach(), rtol=1e-5, atol=1e-6)
        assert not found.embeddings[key].requires_grad and found.embeddings[key].shape == (4, 4)


def test_defaults_are_the_papers_and_near_is_yes_at_first() -> None:
    """Arandjelovic & Zisserman, ECCV 2018: two layers of 128 to a space of 128."""
    assert method == Method(synchronised.view, AVE)
    assert defaults(AVE) == {"visual": "image", "embed_dim": 128, "hidden": (128,)}
    made = AVE({"image": Table("image"), "audio": Table("audio")})
    scores = made.judge(torch.tensor([[0.2], [1.0], [1.8]]))
    torch.testing.assert_close(scores[:, 1] - scores[:, 0], torch.tensor([1.6, 0.0, -1.6]))
    torch.testing.assert_close(made.judge(torch.zeros(1, 1)), torch.tensor([[-1.0, 1.0]]))
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_log_odds_are_float32_under_autocast() -> None:
    encoders = {"image": Table("image"), "audio": Table("audio")}
    with torch.autocast("cpu", torch.bfloat16):
        odds = AVE(encoders).log_odds(encoders["image"](numbers(0, 1)), encoders["audio"](numbers(2, 3)))
    assert odds.dtype == torch.float32
