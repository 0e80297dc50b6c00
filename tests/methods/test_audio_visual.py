"""AVC, AVE, AVOL and AVTS: how each judges a pair, and what a wrong judgement costs, against written-out formulas."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.errors import UserError
from mmssl.methods.avc import AVC
from mmssl.methods.ave import AVE
from mmssl.methods.avol import AVOL
from mmssl.methods.avts import AVTS
from mmssl.types import Encoder, Features, Objective

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build


def features(rows: int = 5) -> tuple[Features, Features]:
    return Features(torch.randn(rows, 16), torch.randn(rows, 6, 16), (2, 3)), Features(torch.randn(rows, 16))


def objective(name: str) -> Objective:
    made = build(name).objectives[name]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def embedded(head: torch.nn.Module, x: Tensor) -> Tensor:
    """Linear, BatchNorm with its starting statistics where there is one, ReLU, linear, unit length."""
    first, *norm, _, last = head.layers
    x = x @ first.weight.T + (0 if first.bias is None else first.bias)
    for layer in norm:
        x = x / math.sqrt(1 + layer.eps) * layer.weight + layer.bias
    x = x.clamp(min=0) @ last.weight.T
    return x / x.norm(dim=-1, keepdim=True)


def test_avc_judges_both_towers_side_by_side() -> None:
    made = objective("avc")
    assert isinstance(made, AVC)
    visual, audio = features()
    first, _, last = made.judge
    hidden = (torch.cat([visual.pooled, audio.pooled], 1) @ first.weight.T + first.bias).clamp(min=0)
    logits = hidden @ last.weight.T + last.bias
    torch.testing.assert_close(made.log_odds(visual, audio), torch.logit(logits.softmax(1)[:, 1]))


def test_ave_judges_the_distance_in_its_space_and_near_is_yes_at_first() -> None:
    made = objective("ave")
    assert isinstance(made, AVE)
    visual, audio = features()
    seen, heard = embedded(made.heads["image"], visual.pooled), embedded(made.heads["audio"], audio.pooled)
    distance = (seen - heard).square().sum(1).sqrt()
    logits = distance[:, None] * made.judge.weight[:, 0] + made.judge.bias
    torch.testing.assert_close(made.log_odds(visual, audio), logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-4)
    assert set(made.spaces()) == {"image", "audio"}
    judge = build("ave").objectives["ave"].judge
    near, far = (judge(torch.tensor([[d]]))[0].softmax(0)[1].item() for d in (0.2, math.sqrt(2)))
    assert near > 0.5 > far


def test_avol_lets_the_best_cell_decide() -> None:
    made = objective("avol")
    assert isinstance(made, AVOL)
    visual, audio = features()
    assert visual.tokens is not None
    seen, heard = embedded(made.heads["image"], visual.tokens), embedded(made.heads["audio"], audio.pooled)
    cosine = (seen * heard[:, None]).sum(-1).view(5, 2, 3)
    torch.testing.assert_close(made.similarity_map(visual, audio), cosine)
    best = torch.sigmoid(made.scale * cosine + made.bias).amax((1, 2))
    torch.testing.assert_close(torch.sigmoid(made.log_odds(visual, audio)), best)
    made.pool = "soft"
    mean = torch.exp(made.scale * cosine + made.bias).mean((1, 2))
    torch.testing.assert_close(made.log_odds(visual, audio), mean.log())
    film = Features(visual.pooled, torch.randn(5, 12, 16), (2, 2, 3))
    assert made.similarity_map(film, audio).shape == (5, 2, 2, 3)
    with pytest.raises(UserError, match="gives none"):
        made.similarity_map(Features(visual.pooled), audio)


def test_avts_costs_the_margin_loss_and_asks_which_sound_is_nearer() -> None:
    made = objective("avts")
    assert isinstance(made, AVTS)
    visual, audio = features()
    seen, heard = made.heads["video"](visual), made.heads["audio"](audio)
    distance = (seen - heard).square().sum(1).sqrt()
    odds = made.log_odds(visual, audio)
    torch.testing.assert_close(odds, 0.99 / 2 - distance, rtol=1e-4, atol=1e-4)
    matches = torch.tensor([True, True, False, False, False])
    cost = torch.where(matches, distance**2, torch.relu(0.99 - distance) ** 2)
    torch.testing.assert_close(made.cost(odds, matches), cost, rtol=1e-4, atol=1e-4)
    assert made.correct(odds, odds.roll(1)).tolist() == (odds > odds.roll(1)).float().tolist()


def test_every_sound_of_a_clip_takes_its_part_in_the_loss() -> None:
    model, made = build("avts"), batch("avts", missing=False)
    encoders: dict[str, Encoder] = model.named_encoders
    avts = model.objectives["avts"]
    assert isinstance(avts, AVTS)
    seen = avts.heads["video"](encoders["video"](made.views["video"][0]))
    first, second = (avts.heads["audio"](encoders["audio"](x)) for x in made.views["audio"])
    kind = made.extra["kind"].tolist()
    total = torch.zeros(())
    for row, k in enumerate(kind):
        other = (row + 1) % len(kind)
        wrong = second[row] if k > 0 else second[other] if kind[other] else first[other]
        near, far = F.pairwise_distance(seen[row], first[row]), F.pairwise_distance(seen[row], wrong)
        total = total + (near**2 + torch.relu(0.99 - far) ** 2) / 2 / len(kind)
    torch.testing.assert_close(avts(encoders, made).total, total)
