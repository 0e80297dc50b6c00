"""ClusterFit (Yan et al., CVPR 2020) by its formulas."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.clusterfit import ClusterFit, method
from mmssl.numerics.kmeans import kmeans
from mmssl.objectives.bank import reserve
from mmssl.transforms.image import Crop, Flip

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch, epoch_of, pictures, same, shake

INDEX = [5, 0, 11, 3, 8, 1, 10, 4, 9, 2, 6]  # of 12 training samples, one is never shown


def made(**options: Any) -> tuple[dict[str, Tiny], ClusterFit]:
    encoders = {"image": Tiny(), "image_teacher": Tiny()}
    objective = ClusterFit(encoders, **{"clusters": 3, "iterations": 7, "seed": 4} | options)
    shake(objective, encoders["image_teacher"], by=1.0)
    reserve(objective, 12)
    return encoders, objective


@pytest.mark.parametrize("normalize", [True, False])
def test_labels_are_the_clusters_of_the_teachers_features_and_stay(normalize: bool) -> None:
    encoders, objective = made(normalize=normalize)
    shown, there = pictures([4], 11, absent=[2, 7]), [row for row in range(11) if row not in (2, 7)]
    shown.extra["image_teacher_present"] = shown.extra["image_present"]
    given = epoch_of(shown, index=INDEX)
    swept = list(given.sweep())
    for part in swept:
        part.views["image_teacher"] = part.views["image"]
    objective.before_epoch(encoders, epoch(sweep=lambda: iter(swept)))
    assert encoders["image_teacher"].seen == [(False, False)] * 2 and not encoders["image"].seen

    rows = sorted(there, key=lambda row: INDEX[row])
    features = encoders["image_teacher"](shown.views["image"][0]).pooled.detach()[rows]
    features = features / features.norm(dim=1, keepdim=True) if normalize else features
    centres = kmeans(features, 3, iterations=7, seed=4)
    expected = torch.full((12, 1), -1)
    for row, own in zip(rows, features, strict=True):
        expected[INDEX[row], 0] = int((centres - own).square().sum(dim=1).argmin())
    assert objective.labels.rows.tolist() == expected.tolist()
    objective.before_epoch(encoders, epoch(number=1))  # looks at nothing
    assert objective.labels.rows.tolist() == expected.tolist()


def test_the_loss_is_the_cross_entropy_of_labels_that_are_known() -> None:
    encoders, objective = made(clusters=4)
    objective.labels.rows[:8, 0] = torch.tensor([3, 0, 0, -1, 3, 1, 0, 0])
    shown = pictures([4], 6, absent=[4])  # of the numbers 0 3 6 2 5 1
    shown.views["image_teacher"] = shown.views["image"]
    found = objective(encoders, shown)
    rows, labels = [0, 2, 3, 5], [3, 0, 0, 0]
    logits = objective.classifier(encoders["image"](shown.views["image"][0][rows]).pooled)
    same(found.total, F.cross_entropy(logits, torch.tensor(labels)), encoders["image"], objective)
    right = (logits.argmax(dim=1) == torch.tensor(labels)).float().mean()
    assert found.logs["correct"] == pytest.approx(float(right))
    parts = found.answers["correct"]
    assert parts.isnan().tolist() == [False, True, False, False, True, False]
    shares = torch.tensor([0.25, 0.75])
    entropy = float(-(shares * shares.log()).sum()) / math.log(4)
    assert float(found.logs["assignment_entropy"]) == pytest.approx(entropy, abs=1e-5)


def test_the_teacher_does_not_learn_and_must_be_there() -> None:
    encoders, _ = made()
    assert not any(p.requires_grad for p in encoders["image_teacher"].parameters())
    with pytest.raises(UserError, match="has image learn from image_teacher, and the run has only image; list both"):
        ClusterFit({"image": Tiny()})
    objective = ClusterFit({"photo": Tiny(), "photo_teacher": Tiny()}, encoder="photo", clusters=5)
    assert objective.uses == ("photo", "photo_teacher") and objective.classifier.out_features == 5


def test_the_papers_numbers() -> None:
    assert defaults(ClusterFit)["clusters"] == 16_000
    steps = method.view({"image": Tiny().preprocess}).steps["image"]
    assert [type(step) for step in steps[0]] == [Crop, Flip]
