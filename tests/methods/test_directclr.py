"""DirectCLR against its loss on the leading features (Jing et al., ICLR 2022)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mmssl.errors import UserError
from mmssl.methods import directclr
from mmssl.types import Features
from mmssl.views.simclr import view as simclr_view

sys.path.insert(0, str(Path(__file__).parent))
from two_views import DIM, HERE, ROWS, defaults, detached, pick_own, same, shown, two_encoders, unit


def test_leading_features_find_each_other_both_ways() -> None:
    encoders, batch = two_encoders(), shown()
    objective = directclr.DirectCLR(encoders, dims=4, temperature=0.5, encoder="pulse")
    pooled = encoders["pulse"](torch.cat(batch.views["pulse"])).pooled
    one, other, _ = (unit(x[:, :4]) for x in pooled.split(ROWS))
    expected = (pick_own(one[HERE], other[HERE], 0.5) + pick_own(other[HERE], one[HERE], 0.5)) / 2
    loss = objective(encoders, batch)
    same(loss.total, expected, encoders["pulse"])
    detached(loss, "pulse", one)
    torch.testing.assert_close(objective.head(Features(pooled[:ROWS])), one)
    assert objective.spaces() == {"pulse": objective.head} and not list(objective.parameters())


def test_as_many_features_as_there_are_may_be_compared_and_no_more() -> None:
    for dims in (1, DIM):
        directclr.DirectCLR(two_encoders(), dims=dims, encoder="pulse")
    for dims in (0, DIM + 1):
        with pytest.raises(UserError, match=f"takes {dims} of {DIM} numbers; expected 1 to {DIM}"):
            directclr.DirectCLR(two_encoders(), dims=dims, encoder="pulse")


def test_the_defaults_are_the_authors() -> None:
    """Their main.py: --dim 360, and the temperature 0.1."""
    assert defaults(directclr.DirectCLR) == {"dims": 360, "temperature": 0.1, "encoder": None}
    assert (directclr.method.view, directclr.method.objective) == (simclr_view, directclr.DirectCLR)
