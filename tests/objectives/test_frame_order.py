"""What tasks about the order of frames share, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.objectives.frame_order import classified, each_frame, layers, related
from mmssl.types import Encoder, Features


class Pixels(Encoder):
    """Stands in for a video encoder: its features are the pixels of clips of one frame."""

    modality, dim = "video", 3

    def forward(self, x: Tensor) -> Features:
        assert x.shape[2] == 1
        return Features(x.mean((2, 3, 4)), x.flatten(2).transpose(1, 2), grid=tuple(x.shape[2:]))


def test_frames_are_embedded_one_by_one() -> None:
    video = torch.rand(2, 3, 4, 6, 8)
    found, placed = each_frame(Pixels(), video), each_frame(Pixels(), video, cells=2)
    assert found.shape == (2, 4, 3) and placed.shape == (2, 4, 12)
    for row in range(2):
        for time in range(4):
            frame = video[row, :, time]
            torch.testing.assert_close(found[row, time], frame.mean((1, 2)))
            halves = [frame[:, 3 * i : 3 * i + 3, 4 * j : 4 * j + 4].mean((1, 2)) for i in range(2) for j in range(2)]
            torch.testing.assert_close(placed[row, time], torch.stack(halves, dim=1).flatten())


@pytest.mark.parametrize("lacking", ["tokens", "grid"])
def test_cells_need_tokens_on_a_grid(lacking: str) -> None:
    class Blind(Pixels):
        def forward(self, x: Tensor) -> Features:
            seen = super().forward(x)
            setattr(seen, lacking, None)
            return seen

    with pytest.raises(UserError, match="cells is 2, but this video encoder has no grid; leave cells out"):
        each_frame(Blind(), torch.rand(1, 3, 2, 4, 4), cells=2)
    assert each_frame(Blind(), torch.rand(1, 3, 2, 4, 4)).shape == (1, 2, 3)


def test_frames_that_are_seen_over_time_are_averaged_over_it() -> None:
    class Doubled(Pixels):
        def forward(self, x: Tensor) -> Features:
            return super().forward(x) if x.shape[2] > 1 else self._twice(x)

        def _twice(self, x: Tensor) -> Features:
            both = torch.cat([x, 3 * x], dim=2)
            return Features(both.mean((2, 3, 4)), both.flatten(2).transpose(1, 2), grid=tuple(both.shape[2:]))

    video = torch.rand(1, 3, 2, 4, 4)
    torch.testing.assert_close(each_frame(Doubled(), video, cells=2), 2 * each_frame(Pixels(), video, cells=2))


@pytest.mark.parametrize("symmetric", [False, True])
def test_any_two_frames_stand_side_by_side(symmetric: bool) -> None:
    frames = torch.randn(2, 4, 3)
    found = related(frames, symmetric=symmetric)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert found.shape == (2, 6, 6)
    for number, (i, j) in enumerate(pairs):
        one, other = frames[:, i], frames[:, j]
        expected = [(one + other) / 2, (one - other).abs()] if symmetric else [one, other]
        torch.testing.assert_close(found[:, number], torch.cat(expected, dim=1))
    assert torch.equal(related(frames), related(frames, symmetric=False))


def test_layers_are_linear_with_relu_and_dropout() -> None:
    made = layers([3, 5, 4], dropout=0.3)
    assert [type(m) for m in made] == [nn.Linear, nn.ReLU, nn.Dropout] * 2
    assert [m.p for m in made if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    x = torch.randn(6, 3)
    hidden = F.relu(F.linear(x, made[0].weight, made[0].bias))
    expected = F.relu(F.linear(hidden, made[3].weight, made[3].bias))
    torch.testing.assert_close(made.eval()(x), expected)


def test_the_answer_is_the_cross_entropy_of_the_samples_that_are_present() -> None:
    scores = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]], requires_grad=True)
    target, present = torch.tensor([0, 0, 2, 2]), torch.tensor([True, False, True, True])
    found = classified(scores, target, present)
    e = math.e
    losses = [-2 + math.log(e**2 + 2), math.log(2 + e), -3 + math.log(2 + e**3)]
    assert found.total.item() == pytest.approx(sum(losses) / 3, rel=1e-5)
    nan = torch.nan
    torch.testing.assert_close(found.answers["correct"], torch.tensor([1, nan, 0, 1]), equal_nan=True)
    torch.testing.assert_close(found.answers["said"], torch.tensor([0, nan, 1, 2]), equal_nan=True)
    assert found.logs["accuracy"].item() == pytest.approx(2 / 3)
    assert found.logs["chance_loss"].item() == pytest.approx(math.log(3))
    assert found.logs.keys() == {"accuracy", "chance_loss"} and found.embeddings == {}
    assert not any(value.requires_grad for value in (*found.logs.values(), *found.answers.values()))
    with pytest.raises(AssertionError):
        classified(scores, None, present)


def test_the_loss_is_in_float32() -> None:
    scores = torch.zeros(2, 3, dtype=torch.bfloat16)
    found = classified(scores, torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool))
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(math.log(3), rel=1e-6)
