"""DepthContrast: its four losses, what the queues and the averages keep, and its views."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.depthcontrast import DepthContrast, TwoCrops
from mmssl.modalities.points import Cloud
from mmssl.transforms.points import PointsPreprocess

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build

NAME = "depthcontrast"


def test_the_loss_is_within_and_across_formats() -> None:
    model = build(NAME)
    objective, full = model.objectives[NAME], batch(NAME, missing=False)
    objective.within, objective.across = 0.5, 0.25
    q, k = {}, {}
    for key, encoder in model.encoders.items():
        q[key] = objective.heads[key](encoder(full.views[key][0]))
        k[key] = objective.heads[key](encoder(full.views[key][1])).detach()
    expected = torch.zeros(())
    for a in q:
        for b in q:
            logits = torch.cat([(q[a] * k[b]).sum(1, keepdim=True), q[a] @ objective.queue(b).rows.T], dim=1) / 0.1
            expected = expected + (0.5 if a == b else 0.25) * F.cross_entropy(logits, torch.zeros(8).long())
    total, losses = model({NAME: full})
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    first = [(q[a] * k[b]).sum(1) > (q[a] @ objective.queue(b).rows.T).amax(1) for a in q for b in q]
    torch.testing.assert_close(losses[NAME].answers["correct"], torch.stack(first).float().mean(0))
    assert model({NAME: batch(NAME)})[1][NAME].answers["correct"].isnan().any()


def test_queues_take_whole_samples_and_averages_move() -> None:
    model = build(NAME)
    objective, partly = model.objectives[NAME], batch(NAME)
    whole = int((partly.present("points") & partly.present("points_voxels")).sum())
    before = objective.queue("points").rows.clone()
    average = objective.teachers["points"].layers[0].weight.clone()
    model({NAME: partly})[0].backward()
    with torch.no_grad():
        model.encoders["points"].layers[0].weight += 1
    objective.after_step(model.encoders, 0.0)
    changed = (objective.queue("points").rows != before).any(dim=1)
    assert changed.tolist() == [row < whole for row in range(12)]
    torch.testing.assert_close(objective.teachers["points"].layers[0].weight, average + 0.1)
    assert not any(p.requires_grad for p in objective.teachers.parameters())
    objective.eval()
    model({NAME: partly})
    assert not objective.newest, "what is only judged is not remembered"


def test_one_format_alone_and_none() -> None:
    encoders = {"points": create_encoder("pointnet", widths=[8, 16]), "image": create_encoder("convnet", image_size=16)}
    assert DepthContrast(encoders, queue=4).uses == ("points",)
    with pytest.raises(UserError, match="needs an encoder under points"):
        DepthContrast({"image": encoders["image"]})


def test_two_views_in_both_formats() -> None:
    cloud = Cloud(np.random.default_rng(0).uniform(1, 3, (1000, 3)))
    preprocess = {"points": PointsPreprocess(points=200), "points_voxels": PointsPreprocess(points=None)}
    view = TwoCrops(preprocess, crop=(0.5, 0.8), hole=0.25)
    assert view.reads == ("points",)
    shown = view({"points": cloud})
    assert [len(part) for part in shown["points"]] == [200, 200]
    for thin, full in zip(shown["points"], shown["points_voxels"], strict=True):
        assert 370 < len(full) < 605, "cropped to 50-80%, then a quarter dropped"
        assert torch.cdist(thin, full).amin(1).max() < 1e-2, "both formats see the same view"
    assert not torch.allclose(shown["points"][0], shown["points"][1])
    assert view({}) == {}
