"""PCA-whitening against numpy's decomposition, and where features do not vary."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssl.numerics import whiten
from mmssl.numerics.whiten import pca_whiten

sys.path.insert(0, str(Path(__file__).parents[1]))
from side_by_side import side_by_side


def by_numpy(x: torch.Tensor, dims: int) -> torch.Tensor:
    """Main directions, each scaled to variance 1 and turned so that its largest weight is positive."""
    centred = x.double().numpy() - x.double().numpy().mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(x))
    columns = []
    for k in range(1, dims + 1):
        direction = directions[:, -k]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        columns.append(centred @ direction / variances[-k] ** 0.5)
    return torch.from_numpy(np.stack(columns, axis=1)).float()


@pytest.mark.parametrize("chunk", [2**16, 7, 1])
def test_main_directions_come_first_with_variance_one_and_a_fixed_sign(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whiten, "CHUNK", chunk)
    x = torch.randn(40, 6) @ torch.randn(6, 6) + 1e5  # so far from zero that a mean in float32 is off
    found = pca_whiten(x, 4)
    torch.testing.assert_close(found, by_numpy(x, 4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.T @ found / 40, torch.eye(4), rtol=0, atol=1e-4)
    assert found.dtype == torch.float32


def test_there_are_no_more_directions_than_features_vary_in() -> None:
    flat = torch.randn(50, 3) @ torch.randn(3, 8)
    assert pca_whiten(flat, 8).shape == (50, 3) and pca_whiten(flat, 2).shape == (50, 2)
    small = torch.tensor([1.0, -1.0])[:, None] * torch.tensor([[1.0, 0.0, 0.0]])
    for share, kept in ((1e-8, 2), (1e-10, 1)):  # of the largest variance
        uneven = torch.cat([small, torch.tensor([1.0, 1.0])[:, None] * torch.tensor([[0.0, share**0.5, 0.0]]), -small])
        uneven = torch.cat([uneven, -uneven])
        assert pca_whiten(100 * uneven, 3).shape[1] == kept


def test_features_that_do_not_vary_are_zero_and_none_are_none() -> None:
    assert torch.equal(pca_whiten(torch.ones(10, 4), 4), torch.zeros(10, 1))
    assert torch.equal(pca_whiten(torch.ones(1, 4), 4), torch.zeros(1, 1))
    assert pca_whiten(torch.zeros(0, 4), 4).shape[0] == 0
    assert whiten.CHUNK == 2**16


def test_two_processes_whiten_what_they_share_out_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(20, 5) @ torch.randn(5, 5) + 3
    parts = [x[:6], x[6:]]
    found = torch.cat(side_by_side(lambda rank: pca_whiten(parts[rank], 3), monkeypatch))
    torch.testing.assert_close(found, by_numpy(x, 3), rtol=1e-4, atol=1e-4)
