"""What methods that cluster, and those that look at cells, do besides what every method must."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.deepcluster import DeepCluster, DeepClusterV2
from mmssl.methods.pcl import PCL
from mmssl.methods.sela import SeLa
from mmssl.methods.swav import SwAV
from mmssl.numerics.sinkhorn import sinkhorn
from mmssl.objectives.bank import reserve
from mmssl.types import Batch, Encoder
from mmssl.views.swav import view as swav_view

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import epoch
from settings import ENCODERS, SAMPLES, VIT, batch, build, epoch_of, plain

OFFLINE = {
    "deepcluster": (DeepCluster, {"clusters": 4, "pca": 8}),
    "deepcluster:v2": (DeepClusterV2, {"embed_dim": 8, "hidden": [16], "clusters": [4, 3]}),
    "pcl": (PCL, {"embed_dim": 8, "clusters": [3, 5], "queue": 6, "warmup": 0.0}),
    "sela": (SeLa, {"clusters": 4, "heads": 3}),
}
INSTANCES = {**OFFLINE, "swav": (SwAV, {"embed_dim": 8, "hidden": [16], "prototypes": 5})}


def encoders_of(key: str) -> dict[str, Encoder]:
    torch.manual_seed(0)
    kind, options = ENCODERS[key]
    return {key: create_encoder(kind, **options)}


@pytest.mark.parametrize("key", ["audio", "video", "points"])
@pytest.mark.parametrize("name", INSTANCES)
def test_methods_about_instances_take_any_modality(name: str, key: str) -> None:
    kind, options = INSTANCES[name]
    encoders = encoders_of(key)
    objective = kind(encoders, **options)
    reserve(objective, SAMPLES)

    def counted(rows: int, views: int) -> Batch:
        shown = plain((key,), rows, views=views)
        shown.extra = {"index": torch.arange(rows), f"{key}_present": torch.ones(rows, dtype=torch.bool)}
        return shown

    objective.before_epoch(encoders, epoch(sweep=lambda: iter([counted(SAMPLES, 1)])))
    total = objective(encoders, counted(8, 2)).total
    total.backward()
    assert total > 0
    assert all(p.grad is not None for p in encoders[key].parameters() if p.requires_grad)
    swav_view({key: encoders[key].preprocess}, small=None)


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_labels_are_loaded_without_a_reserve_and_need_counted_samples(name: str) -> None:
    kind, options = OFFLINE[name]
    first = build(name).named_objectives[name]
    again = kind(encoders_of("image"), **options)
    again.load_state_dict(first.state_dict())
    assert again.labels.rows.shape[0] == SAMPLES
    assert (again.labels.rows >= 0).all()
    with pytest.raises(UserError, match="not counted"):
        reserve(kind(encoders_of("image"), **options), None)
    with pytest.raises(UserError, match="clusters of 2 training samples"):
        reserve(kind(encoders_of("image"), **options), 2)


def test_swav_assigns_with_the_queue_once_it_is_due() -> None:
    encoders = encoders_of("image")
    objective = SwAV(encoders, embed_dim=8, hidden=[16], prototypes=5, queue=20, queue_from=0.3)
    scores, present = torch.randn(4, 5) * 0.3, torch.ones(4, dtype=torch.bool)
    alone = sinkhorn(scores, epsilon=0.05, iterations=3)
    new = F.normalize(torch.randn(7, 8), dim=1)
    objective.queues[0].push(new, torch.ones(7, dtype=torch.bool))
    torch.testing.assert_close(objective._assign(0, scores, present), alone)
    objective.done.fill_(0.3)
    together = torch.cat([scores, objective.prototypes(new).detach()])
    expected = sinkhorn(together, epsilon=0.05, iterations=3)[:4]
    torch.testing.assert_close(objective._assign(0, scores, present), expected)


def test_pcl_clusters_once_its_warmup_is_over() -> None:
    encoders = encoders_of("image")
    objective = PCL(encoders, embed_dim=8, clusters=[3, 5], queue=6, warmup=0.5)
    reserve(objective, SAMPLES)
    objective.before_epoch(encoders, epoch())  # too early
    shown = batch("pcl")
    assert objective(encoders, shown).logs["loss_clusters"] == 0
    objective.after_step(encoders, 0.5)
    objective.before_epoch(encoders, epoch_of("pcl"))
    assert objective(encoders, shown).logs["loss_clusters"] > 0
    assert (objective.labels.rows.amax(dim=0) < torch.tensor([3, 5])).all()
    torch.testing.assert_close(objective.concentration[:3].mean(), torch.tensor(0.1))


def test_what_cannot_be_is_said() -> None:
    images = {"image": create_encoder("vit", **VIT)}
    for wrong in (lambda: SwAV(images, assign=0), lambda: SeLa(images, heads=0), lambda: PCL(images, clusters=[])):
        with pytest.raises(UserError):
            wrong()
