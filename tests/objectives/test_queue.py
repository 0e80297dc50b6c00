"""The queue of embeddings, and rows packed end to end."""

from __future__ import annotations

import pytest
import torch

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.packed import embed_tokens
from mmssl.objectives.queue import Queue
from mmssl.types import Ragged


def test_the_queue_wraps_around_and_forgets_the_oldest() -> None:
    queue = Queue(5, 2)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(5))
    rows, here = torch.arange(16.0).view(8, 2), torch.ones(8, dtype=torch.bool)
    queue.push(rows[:3], here[:3])
    assert torch.equal(queue.rows[:3], rows[:3])
    queue.push(rows[3:7], here[3:7])
    assert queue.place == 2
    assert torch.equal(queue.rows, rows[[5, 6, 2, 3, 4]])
    queue.push(rows[:4], ~here[:4])
    assert queue.place == 2
    queue.push(rows, here)
    assert torch.equal(queue.rows, rows[[6, 7, 3, 4, 5]]) and queue.place == 2, "the last five, from the oldest on"
    again = Queue(5, 2)
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again.rows, queue.rows) and again.place == 2
    with pytest.raises(UserError, match="size is 0"):
        Queue(0, 2)
    assert Queue(1, 2).rows.shape == (1, 2)


@pytest.mark.parametrize("size", [3, 5, 9])
def test_absent_rows_are_left_out(size: int) -> None:
    draw, queue, expected = torch.Generator().manual_seed(1), Queue(size, 2), []
    queue.rows.zero_()
    for number in range(12):
        rows, present = torch.rand(7, 2, generator=draw) + number, torch.rand(7, generator=draw) < number / 11
        before = queue.place.item()
        queue.push(rows, present)
        expected += rows[present].tolist()
        assert queue.place == (before + min(size, int(present.sum()))) % size
        oldest_last = queue.rows.roll(-queue.place.item(), dims=0)[-min(size, len(expected)) :]
        torch.testing.assert_close(oldest_last.tolist() if expected else [], expected[-size:])


def test_the_queue_begins_with_random_directions_and_keeps_rows_without_gradient_in_full_precision() -> None:
    torch.manual_seed(1)
    queue = Queue(5, 3)
    torch.manual_seed(1)
    drawn = torch.randn(5, 3)
    torch.testing.assert_close(queue.rows, drawn / drawn.norm(dim=1, keepdim=True))
    assert queue.place == 0 and not list(queue.parameters())
    new = torch.randn(2, 3).bfloat16().requires_grad_()
    queue.push(new, torch.ones(2, dtype=torch.bool))
    assert torch.equal(queue.rows[:2], new.detach().float()) and not queue.rows.requires_grad


def test_tokens_of_unit_length_in_the_order_of_the_points() -> None:
    encoder = create_encoder("pointnet", widths=[8, 16]).eval()
    x = Ragged.pack([torch.randn(20, 3)])
    found = embed_tokens(encoder, x)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(20))
    turned = Ragged(x.values.flip(0), x.lengths)
    torch.testing.assert_close(embed_tokens(encoder, turned), found.flip(0))
    with pytest.raises(UserError, match="no space 'clip'"):
        embed_tokens(encoder, x, space="clip")
    encoder.forward = lambda x: type(encoder).forward(encoder, Ragged.pack([x.values[:5]]))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="no feature per point"):
        embed_tokens(encoder, x)
