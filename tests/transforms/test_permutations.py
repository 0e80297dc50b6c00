"""Orders are drawn as the paper's loop draws them."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from mmssl.errors import UserError
from mmssl.transforms.permutations import far_apart


def test_each_next_order_is_the_farthest_from_all_before() -> None:
    every = list(permutations(range(5)))
    chosen = [every[0]]
    while len(chosen) < 12:
        left = [order for order in every if order not in chosen]
        chosen.append(max(left, key=lambda order: sum(a != b for c in chosen for a, b in zip(order, c, strict=True))))
    assert far_apart(12, 5).tolist() == [list(order) for order in chosen]


def test_nine_places() -> None:
    orders = far_apart(100)
    assert orders.sort(dim=1).values.eq(torch.arange(9)).all() and len(orders.unique(dim=0)) == 100
    apart = (orders[:, None] != orders).sum(dim=2).float()
    assert (apart[:9, :9] + 9 * torch.eye(9) == 9).all(), "the first nine share no place"
    drawn = torch.stack([torch.randperm(9) for _ in range(100)])
    assert apart.sum() > (drawn[:, None] != drawn).sum()
    assert far_apart(100) is orders, "worked out once"


def test_all_orders_and_too_many() -> None:
    assert len(far_apart(6, 3).unique(dim=0)) == 6
    for count in (1, 7):
        with pytest.raises(UserError, match="expected 2 to 6"):
            far_apart(count, 3)
