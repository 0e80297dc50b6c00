"""What tasks about the order of frames share: each frame on its own, pairs of them, layers and the answer's loss."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmssl.errors import UserError
from mmssl.nn.relations import classified, each_frame, layers, related
from mmssl.types import Encoder, Features

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from tables import Table, answered, films, present, quarters


class Cells(Encoder):
    """Stands in for a video encoder: its features are the pixels."""

    modality, dim = "video", 3

    def forward(self, x: torch.Tensor) -> Features:  # (B, 3, T, H, W)
        assert x.shape[2] == 1
        return Features(x.mean((2, 3, 4)), x.flatten(2).transpose(1, 2), grid=tuple(x.shape[2:]))


def test_every_frame_is_embedded_on_its_own_with_its_places() -> None:
    video = torch.rand(2, 3, 4, 6, 6)
    torch.testing.assert_close(each_frame(Cells(), video), video.mean((3, 4)).transpose(1, 2))
    placed = each_frame(Cells(), video, cells=2)
    expected = video.unflatten(4, (2, 3)).unflatten(3, (2, 3)).mean((4, 6))  # (B, 3, T, 2, 2)
    torch.testing.assert_close(placed, expected.transpose(1, 2).flatten(2))


def test_cells_of_several_moments_of_one_frame_are_averaged() -> None:
    table = Table("video", 3, grid=(2, 4, 4))
    first, second = (Table("video", 3, grid=(1, 4, 4)) for _ in range(2))
    first.tokens.data, second.tokens.data = table.tokens.data.split(16, dim=1)
    found = each_frame(table, films([5, 7]), cells=2)
    expected = [(quarters(first, row) + quarters(second, row)) / 2 for row in (5, 7)]
    torch.testing.assert_close(found[0], torch.stack(expected))


def test_an_encoder_without_a_grid_has_no_cells() -> None:
    for blind in (
        Features(torch.zeros(4, 3)),
        Features(torch.zeros(4, 3), torch.zeros(4, 5, 3)),
        Features(torch.zeros(4, 3), grid=(1, 5)),
    ):
        encoder = Cells()
        encoder.forward = lambda x, blind=blind: blind  # type: ignore[method-assign]
        assert each_frame(encoder, torch.rand(1, 3, 4, 6, 6)).shape == (1, 4, 3)
        with pytest.raises(UserError, match="has no grid; leave cells out"):
            each_frame(encoder, torch.rand(1, 3, 4, 6, 6), cells=2)


def test_any_two_frames_side_by_side_or_without_their_order() -> None:
    a, b, c = torch.randn(3, 2, 4)
    frames = torch.stack([a, b, c], dim=1)
    plain = [torch.cat(pair, dim=1) for pair in ((a, b), (a, c), (b, c))]
    torch.testing.assert_close(related(frames), torch.stack(plain, dim=1))
    even = [torch.cat([(x + y) / 2, (x - y).abs()], dim=1) for x, y in ((a, b), (a, c), (b, c))]
    torch.testing.assert_close(related(frames, symmetric=True), torch.stack(even, dim=1))


def test_layers_each_have_relu_and_dropout() -> None:
    made = layers([3, 5, 2], dropout=0.4)
    assert [type(layer) for layer in made] == [nn.Linear, nn.ReLU, nn.Dropout] * 2
    assert [tuple(made[n].weight.shape) for n in (0, 3)] == [(5, 3), (2, 5)]
    assert made[2].p == made[5].p == 0.4
    assert len(layers([3], dropout=0.4)) == 0


def test_the_loss_and_the_answers_are_of_samples_that_are_there() -> None:
    scores = nn.Parameter(torch.randn(5, 3))
    target, have = torch.tensor([2, 0, 1, 1, 2]), present(1, 1, 0, 1, 0)
    holder = nn.Module()
    holder.scores = scores
    answered(classified(scores, target, have), scores, target, have, [holder])
    assert classified(scores.to(torch.bfloat16), target, have).total.dtype == torch.float32
    none = classified(scores, target, present(0, 0, 0, 0, 0))
    assert none.total == 0 and none.total.requires_grad and none.logs["accuracy"].isnan()
    with pytest.raises(AssertionError, match="gives its target"):
        classified(scores, None, have)
