"""Normals by transfer: figures against plain ones, and that they are learnt."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transfers import shards, small

from mmssl.evals import normals
from mmssl.evals.normals import Normals, angles
from mmssl.evals.parts.transfer import batches
from mmssl.types import Trained


def test_the_directions_of_squares_are_learnt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sets = shards(tmp_path)
    found = dict(
        Normals(**sets, batch=8, width=8, lr=0.02, crop_scale=(0.8, 1.0), epochs=8, flip=0.0).run(
            Trained({"image": small().eval()})
        )
    )
    names = ["mean", "median", "within_11.25", "within_22.5", "within_30"]
    assert list(found) == [f"random_init/{name}" for name in names] + names
    assert found["mean"].value < 0.6 * (found["mean"].trivial or 0) and found["within_30"].value > 0.8
    assert found["mean"].chance == 90 and found["within_30"].chance == pytest.approx(0.06699, abs=1e-5)
    parts = found["mean"].parts or {}
    assert list(parts) == ["sideways", "up or down", "towards or away"]
    assert parts["towards or away"] == pytest.approx(found["median"].value, abs=15) and found["mean"].n == 10


def test_angles_and_their_figures() -> None:
    generator = torch.Generator().manual_seed(0)
    told, truth = (torch.randn(1, 3, 20, 25, generator=generator) for _ in range(2))
    plain = np.degrees(np.arccos(torch.cosine_similarity(told.double(), truth.double(), dim=1).numpy())).ravel()
    found = angles(told, truth).flatten()
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert angles(truth, truth).max() == 0 and float(angles(-truth, truth).min()) == pytest.approx(180)
    counts = normals.counted(found)[None]
    assert float(normals._mean(counts)) == pytest.approx(plain.mean(), abs=0.05)
    assert float(normals._median(counts)) == pytest.approx(np.median(plain), abs=0.4)
    for angle in (11.25, 60.0):
        assert float(normals._within(counts, angle)) == pytest.approx((plain < angle).mean(), abs=2 / 500)
    several = normals.counted(torch.tensor([10.03, 20.0, 30.0]))[None]
    assert float(normals._median(several)) == pytest.approx(20.05, abs=0.05)


def test_the_loss_and_what_does_not_count(tmp_path: Path) -> None:
    made = Normals(**shards(tmp_path, train=3, test=1), batch=4)
    torch.manual_seed(0)
    network = made.network(small()).eval()
    (batch,) = list(batches(made.learnt, made.view(small(), training=False), size=4))
    truth = batch.fields["image"]["normals"][0]
    assert float(truth[0, :, 0, 0].norm()) == 0, "the corner was not measured"
    truth[0, :, 4:, :] = 0
    told = network(batch.views["image"][0])
    each = []
    for mine, real in zip(told, truth, strict=True):
        there = real.norm(dim=0) > 0.5
        each.append((1 - torch.cosine_similarity(mine, real, dim=0)[there]).mean())
    torch.testing.assert_close(network.loss(batch), torch.stack(each).mean())
    turned = made.view(small(), training=True).steps["image"][0][1]
    assert turned.p == 0.5 and math.isclose(made.crop_scale[0], 0.2)
    off, _, facing = network.answers(batch)[0]
    assert off.sum() == 4 * 32 - 1 == facing.sum()
