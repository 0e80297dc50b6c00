"""The objectives about the order of frames against plain formulas."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.odd_one_out import OddOneOut
from mmssl.methods.opn import OPN, ORDERS
from mmssl.methods.shuffle_and_learn import ShuffleAndLearn
from mmssl.nn.relations import each_frame
from mmssl.types import Batch, Encoder, Features

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build


class Cells(Encoder):
    """Stands in for a video encoder: its features are the pixels."""

    modality, dim = "video", 3

    def forward(self, x: Tensor) -> Features:  # (B, 3, T, H, W)
        return Features(x.mean((2, 3, 4)), x.flatten(2).transpose(1, 2), grid=tuple(x.shape[2:]))


def test_every_frame_is_embedded_on_its_own_with_its_places() -> None:
    video = torch.rand(2, 3, 4, 6, 6)
    pooled = each_frame(Cells(), video)
    torch.testing.assert_close(pooled, video.mean((3, 4)).transpose(1, 2))
    placed = each_frame(Cells(), video, cells=2)
    expected = video.unflatten(4, (2, 3)).unflatten(3, (2, 3)).mean((4, 6))  # (B, 3, T, 2, 2)
    torch.testing.assert_close(placed, expected.transpose(1, 2).flatten(2))


def test_an_encoder_without_a_grid_has_no_cells() -> None:
    blind = Cells()
    blind.forward = lambda x: Features(x.mean((2, 3, 4)))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="has no grid; leave cells out"):
        each_frame(blind, torch.rand(1, 3, 4, 6, 6), cells=2)


def features(name: str) -> tuple[Tensor, Any]:
    """Embeds the frames of the method's batch, one moment after the other, and returns its objective as well."""
    model = build(name)
    video = torch.cat(batch(name, missing=False).views["video"])
    frames = torch.stack([model.encoders["video"](frame[:, :, None]).pooled for frame in video.unbind(2)], dim=1)
    return frames, model.objectives[name]


def check(name: str, objective: nn.Module, scores: Tensor) -> None:
    """Compares the method, in value and gradient, with the cross-entropy of scores worked out from the same weights."""
    model, full = build(name), batch(name, missing=False)
    found = model.objectives[name](model.encoders, full)
    assert full.target is not None
    expected = -scores.log_softmax(dim=1)[range(len(scores)), full.target].mean()
    torch.testing.assert_close(found.total, expected)
    found.total.backward()
    expected.backward()
    for one, other in zip(model.objectives[name].parameters(), objective.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    right = (scores.argmax(dim=1) == full.target).float()
    torch.testing.assert_close(found.answers["correct"], right)
    torch.testing.assert_close(found.logs["accuracy"], right.mean())


def test_opn_relates_all_six_pairs() -> None:
    frames, objective = features("opn")
    six = F.relu(objective.frame[0](frames))
    pairs = [F.relu(objective.pair[0](torch.cat([six[:, i], six[:, j]], dim=1))) for i, j in combinations(range(4), 2)]
    check("opn", objective, objective.answer(torch.cat(pairs, dim=1)))


def test_shuffle_and_learn_concatenates_three_frames() -> None:
    frames, objective = features("shuffle_and_learn")
    each = F.relu(objective.frame[0](frames))
    joint = F.relu(objective.all[0](torch.cat(each.unbind(1), dim=1)))
    check("shuffle_and_learn", objective, objective.answer(joint))


def test_odd_one_out_sums_what_a_sequence_differs_by_from_the_others() -> None:
    frames, objective = features("odd_one_out")
    each = F.relu(objective.sequence[0](frames.flatten(1))).view(3, 8, -1)  # (V, B, D)
    scores = [objective.answer(sum(each[v] - each[w] for w in range(3) if w != v)) for v in range(3)]
    check("odd_one_out", objective, torch.cat(scores, dim=1))


def test_tied_answers_follow_the_frames_wherever_they_are_shown() -> None:
    objective = OPN({"video": Cells()}, widths=(8, 8), tied=True, dropout=0.0)
    video, target = torch.rand(5, 3, 4, 2, 2), torch.zeros(5, dtype=torch.long)
    shown = [2, 0, 3, 1]

    def scores(x: Tensor) -> Tensor:
        caught: list[Tensor] = []
        handle = objective.pair.register_forward_hook(lambda _m, _i, out: caught.append(out))
        objective({"video": Cells()}, Batch({"video": [x]}, target))
        handle.remove()
        return objective.answer(caught[0])[:, range(6), objective.parts].sum(dim=2)

    before, after = scores(video), scores(video[:, :, shown])
    for way, number in zip(ORDERS, range(12), strict=True):
        moved = tuple(shown.index(place) for place in way)  # where the same frames, in the same order, are shown now
        same = ORDERS.index(min(moved, moved[::-1]))
        torch.testing.assert_close(after[:, same], before[:, number])


@pytest.mark.parametrize(
    ("objective", "expected"),
    [(OPN, (1024, 512)), (ShuffleAndLearn, (4096,)), (OddOneOut, (4096, 128))],
)
def test_the_widths_of_the_papers_are_the_defaults(objective: type, expected: tuple[int, ...]) -> None:
    made = objective({"video": create_encoder("frames", image={"name": "convnet", "widths": [8], "depths": [1]})})
    widths = [m.out_features for m in made.modules() if isinstance(m, nn.Linear)]
    assert set(expected) <= set(widths)
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in made.modules())


def test_a_tied_verifier_does_not_mind_the_direction_of_time() -> None:
    objective = ShuffleAndLearn({"video": Cells()}, widths=(8,), hidden=(8,), tied=True, dropout=0.0)
    video, target = torch.rand(6, 3, 3, 2, 2), torch.arange(6) % 2
    losses = [objective({"video": Cells()}, Batch({"video": [x]}, target)).total for x in (video, video.flip(2))]
    torch.testing.assert_close(losses[0], losses[1])
    swapped = objective({"video": Cells()}, Batch({"video": [video[:, :, [1, 0, 2]]]}, target)).total
    assert (swapped - losses[0]).abs() > 1e-5
