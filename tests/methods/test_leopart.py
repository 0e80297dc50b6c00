"""Leopart against its formula in plain torch (Ziegler & Asano, CVPR 2022, and the authors' code)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from mmssl.encoders import create_encoder
from mmssl.methods import leopart
from mmssl.nn.class_attention import ClassAttention, foreground
from mmssl.numerics.seeded_random import draws
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop
from mmssl.types import Batch, Encoder

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import spread
from picture_cells import defaults
from two_views import follows, same, stir, unit, weights_of

PRESENT = torch.tensor([True, False, True])
# left, top, width, height of views in the source; of the last sample the small one lies aside, and the large ones share
# 1.4% of the box around all, which would do for a small one
CROPS = [
    [[0.0, 0, 30, 20], [2, 3, 25, 25], [0, 0, 30, 30]],
    [[10.0, 5, 24, 24], [0, 0, 20, 20], [25, 20, 25, 25]],
    [[5.0, 2, 12, 10], [1, 1, 8, 8], [50, 50, 9, 9]],
]


def started(**options: object) -> tuple[leopart.Leopart, dict[str, Encoder], Batch]:
    """A run whose teacher lags behind, its queues full; two large views of 4 x 4 patches, a small one of 2 x 2."""
    torch.manual_seed(0)
    encoder = create_encoder("vit", image_size=16, patch_size=4, width=12, depth=1, heads=3)
    own = {"prototypes": 5, "embed_dim": 4, "hidden": (6,), "temperature": 0.3, "epsilon": 0.2, "iterations": 2}
    objective = leopart.Leopart(
        {"image": encoder}, **{**own, "queue": 8, "size": 3, "mass": 0.8, "momentum": 0.8} | options
    )
    stir(objective.head, objective.prototypes, encoder)
    for queue in objective.queues:
        queue.rows.copy_(unit(torch.randn(8, 4)))
    images = [torch.rand(3, 3, side, side) for side in (16, 16, 8)]
    places = [torch.tensor([[[w, 0, x], [0, h, y]] for x, y, w, h in view]) for view in CROPS]
    extra = {"image_present": PRESENT, "seed": torch.arange(3) * 5}
    return objective, {"image": encoder}, Batch({"image": images}, None, extra, {"image": places})


def cut(maps: Tensor, view: int, other: int, b: int) -> Tensor | None:
    """What RoIAlign cuts of a view's map (C, H, W) where another view shows the same, None where it shows none."""
    (x, y, w, h), (u, v, p, q) = CROPS[view][b], CROPS[other][b]
    box = [max(x, u), max(y, v), min(x + w, u + p), min(y + h, v + q)]
    hull = [max(c[b][i] + c[b][i + 2] for c in CROPS) - min(c[b][i] for c in CROPS) for i in range(2)]
    least = 0.01 * (2 if max(view, other) < 2 else 1) * hull[0] * hull[1]
    if box[2] <= box[0] or box[3] <= box[1] or (box[2] - box[0]) * (box[3] - box[1]) < least:
        return None
    side = maps.shape[2]
    inside = [(box[0] - x) / w * side, (box[1] - y) / h * side, (box[2] - x) / w * side, (box[3] - y) / h * side]
    return roi_align(maps[None], torch.tensor([[0.0, *inside]]), 3, aligned=True)[0]


@pytest.mark.parametrize("mask", ["foreground", "background", "all"])
def test_patches_predict_the_teachers_clusters_of_the_same_place(mask: str) -> None:
    objective, encoders, batch = started(mask=mask)
    views, teacher = batch.views["image"], objective.teacher
    student = [unit(objective.head.layers(encoders["image"](view).tokens.flatten(0, 1))) for view in views]
    own, theirs = (unit(p.directions) for p in (objective.prototypes, objective.teacher_prototypes))
    sides = (4, 4, 2)
    scores = [
        (x @ own.T).view(3, side**2, 5).mT.reshape(3, 5, side, side) for x, side in zip(student, sides, strict=True)
    ]
    losses, queued = [], []
    for large in range(2):
        features, attention = ClassAttention(teacher.encoder)(teacher.encoder, views[large])
        there = foreground(attention, (4, 4), mass=0.8)
        assert there.any() and not there.all()
        there = {"foreground": there, "background": ~there, "all": torch.ones_like(there)}[mask]
        embedded = unit(teacher.head.layers(features.tokens.flatten(0, 1))).view(3, 16, 4)
        queued.append((embedded.detach(), there))
        rows = [(embedded[b] @ theirs.T).detach() for b in (0, 2)] + [(objective.queues[large].rows @ own.T).detach()]
        q = spread(torch.cat(rows), epsilon=0.2, iterations=2).split([16, 16, 8])
        assigned = {0: q[0], 2: q[1]}
        for other in (v for v in range(3) if v != large):
            terms = []
            for b in (0, 2):
                target = cut(assigned[b].T.reshape(5, 4, 4), large, other, b)
                if target is None:
                    continue
                kept = cut(there[b].float().view(1, 4, 4), large, other, b)[0] > 0.999
                predicted = cut(scores[other][b], other, large, b) / 0.3
                terms.append(-(target * predicted.log_softmax(dim=0)).sum(dim=0)[kept])
            found = torch.cat(terms)
            losses.append(found.mean() if len(found) else torch.zeros(()))
    loss = objective(encoders, batch)
    same(loss.total, torch.stack(losses).mean(), objective.head, objective.prototypes, encoders["image"])
    objective.after_step(encoders, 0.0)
    for large, (embedded, there) in enumerate(queued):
        stored = {tuple(row.tolist()) for row in objective.queues[large].rows.round(decimals=4)}
        chance = draws(batch.extra["seed"] + large, 16) + there.float()
        best = [(b, i) for b in (0, 2) for i in chance[b].topk(10).indices.tolist() if there[b, i]]
        last = best[-8:]
        assert {tuple(embedded[at].round(decimals=4).tolist()) for at in last} <= stored or len(best) < 8


def test_a_queue_that_is_not_full_does_not_count() -> None:
    objective, encoders, batch = started()
    found = []
    for rows in (unit(torch.randn(8, 4)), unit(torch.randn(8, 4)), torch.zeros(8, 4)):
        for queue in objective.queues:
            queue.rows.copy_(rows)
            queue.rows[7:] = rows[7:] * (len(found) > 0)
        found.append(objective(encoders, batch).total.item())
    assert found[0] == pytest.approx(found[2]) and found[0] != pytest.approx(found[1])


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.8), (1 / 3, 0.85), (1.0, 1.0)])
def test_the_teacher_follows_ever_slower(progress: float, decay: float) -> None:
    objective, encoders, _ = started()
    pairs = [
        (objective.teacher.encoder, encoders["image"]),
        (objective.teacher.head, objective.head),
        (objective.teacher_prototypes, objective.prototypes),
    ]
    before = [weights_of(slow) for slow, _ in pairs]
    objective.after_step(encoders, progress)
    for (slow, fast), was in zip(pairs, before, strict=True):
        follows(slow, was, fast, decay)
    assert objective.extra_encoders() == {"image_teacher": objective.teacher.encoder}


def test_views_and_defaults_are_the_papers() -> None:
    """Two crops of 0.25 to 1 and four small ones of 0.05 to 0.25; 300 clusters; colours as SwAV's, no mirroring."""
    view = leopart.method.view
    colors = [ColorJitter(p=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2), Grayscale(p=0.2), Blur(p=0.5)]
    assert view.modalities["image"] == [Crop(scale=(0.25, 1.0)), *colors]
    assert view.groups["small"].modalities["image"] == [Crop(scale=(0.05, 0.25), size=3 / 7), *colors]
    assert (view.views, view.groups["small"].views) == (2, 4)
    assert [type(layer).__name__ for layer in started()[0].head.layers] == ["Linear", "GELU", "Linear"]
    assert defaults(leopart.Leopart) == {
        "prototypes": 300, "embed_dim": 256, "hidden": (2048, 2048), "temperature": 0.1, "epsilon": 0.05,
        "iterations": 3, "queue": 8192, "size": 7, "mask": "foreground", "mass": 0.6, "momentum": 0.9995,
        "encoder": None,
    }  # fmt: skip
