"""PCL (Li et al., ICLR 2021) by its formula, written in plain torch from its own head and prototypes."""

from __future__ import annotations

import sys
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.methods import pcl
from mmssl.methods.pcl import PCL, PCLV2
from mmssl.numerics import kmeans as clustering
from mmssl.objectives.bank import reserve
from mmssl.types import Batch
from mmssl.views.moco import view as moco_view
from mmssl.views.moco_v2 import view as moco_v2_view

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch_of, evenness, perceptron, pictures, same, shake, unit

OPTIONS: dict[str, Any] = {
    "embed_dim": 4,
    "hidden": (7,),
    "queue": 8,
    "momentum": 0.8,
    "clusters": [3, 4],
    "negatives": 4,
    "temperature": 0.3,
    "smoothing": 5.0,
    "warmup": 0.25,
    "iterations": 6,
}
SMALL: dict[str, Any] = {name: OPTIONS[name] for name in ("embed_dim", "queue", "clusters")}


def made(**options: Any) -> tuple[Tiny, PCL]:
    encoder = Tiny()
    objective = PCL({"image": encoder}, **OPTIONS | options)
    shake(objective)
    reserve(objective, 12)
    return encoder, objective


def clustered(objective: PCL) -> None:
    """Sets clusters by hand; sample 3 was not there."""
    objective.prototypes.copy_(unit(torch.randn(7, 4)))
    objective.concentration.copy_(torch.rand(7) * 0.3 + 0.2)
    objective.labels.rows[:] = torch.stack([torch.arange(12) % k for k in (3, 4)], dim=1)
    objective.labels.rows[[2, 5]] = 1
    objective.labels.rows[3] = -1


def terms(encoder: Tiny, objective: PCL, shown: Batch, compared: list[list[int]]) -> tuple[Tensor, Tensor]:
    """The two losses: against the queue, and among the prototypes that each clustering compares."""
    queries = unit(perceptron(objective.head, encoder(shown.views["image"][0]).pooled))
    teacher = objective.teacher
    keys = unit(perceptron(teacher.head, teacher.encoder(shown.views["image"][1]).pooled)).detach()
    instance, among = [], []
    for row in torch.nonzero(shown.extra["image_present"])[:, 0].tolist():
        logits = torch.cat([(queries[row] @ keys[row])[None], objective.queue.rows @ queries[row]]) / 0.3
        instance.append(logits.logsumexp(dim=0) - logits[0])
        labels = objective.labels.rows[shown.extra["index"][row]].tolist()
        split = zip(objective.prototypes.split([3, 4]), objective.concentration.split([3, 4]), strict=True)
        for label, keep, (prototypes, phi) in zip(labels, compared, split, strict=True):
            if label >= 0:
                found = prototypes @ queries[row] / phi
                among.append(found[keep].logsumexp(dim=0) - found[label])
    return torch.stack(instance).mean(), torch.stack(among).mean() if among else torch.zeros(())


def test_the_loss_is_the_papers_in_value_and_gradient() -> None:
    encoder, objective = made()
    clustered(objective)
    shown = pictures([4, 4], 6, absent=[4])  # of the numbers 0 3 6 2 5 1
    found = objective({"image": encoder}, shown)
    instance, among = terms(encoder, objective, shown, [[0, 1, 2], [0, 1, 2, 3]])
    same(found.total, instance + among, encoder, objective)
    torch.testing.assert_close(found.logs["loss_instance"], instance.detach())
    torch.testing.assert_close(found.logs["loss_clusters"], among.detach())
    assert not any(value.requires_grad for value in found.logs.values())
    torch.testing.assert_close(found.logs["assignment_entropy"], evenness(torch.tensor([2, 3, 0])))
    queries = unit(perceptron(objective.head, encoder(shown.views["image"][0]).pooled))
    torch.testing.assert_close(found.embeddings["image"], queries.detach())
    assert not found.embeddings["image"].requires_grad


def test_so_many_prototypes_are_drawn_besides_the_batchs_own() -> None:
    encoder, objective = made(negatives=1)
    clustered(objective)
    shown = pictures([4, 4], 3, absent=[1])  # of the numbers 0 and 6, in the clusters 0 0 and 0 2
    torch.manual_seed(5)
    found = objective({"image": encoder}, shown)
    torch.manual_seed(5)
    drawn = [torch.randperm(k)[:1].tolist() for k in (3, 4)]
    own = [{0}, {0, 2}]  # what is absent, or unlabelled, stands at 0
    compared = [sorted(mine | set(more)) for mine, more in zip(own, drawn, strict=True)]
    torch.testing.assert_close(found.total, sum(terms(encoder, objective, shown, compared)))


def test_clusters_are_those_of_the_teachers_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, objective = made()
    calls: list[tuple[Tensor, int, dict[str, int]]] = []

    def kmeans(x: Tensor, clusters: int, **options: int) -> Tensor:
        calls.append((x, clusters, options))
        return clustering.kmeans(x, clusters, **options)

    monkeypatch.setattr(pcl, "kmeans", kmeans)
    shown, index = pictures([4], 11, absent=[2, 7]), [5, 0, 11, 3, 8, 1, 10, 4, 9, 2, 6]
    rows = sorted((row for row in range(11) if row not in (2, 7)), key=lambda row: index[row])
    for _ in range(2):
        objective.teacher.encoder.seen.clear()
        objective.done.fill_(0.25)
        objective.before_epoch({"image": encoder}, epoch_of(shown, index=index))
        assert objective.teacher.encoder.seen == [(False, False)] * 2 and objective.teacher.training
    teacher = objective.teacher
    x = unit(perceptron(teacher.head, teacher.encoder(shown.views["image"][0]).pooled)).detach()[rows]
    expected = torch.full((12, 2), -1)
    for number, (given, clusters, options) in enumerate(calls):
        torch.testing.assert_close(given, x)
        assert clusters == (3, 4)[number % 2] and options == {"iterations": 6, "seed": number}
    for number, at in enumerate((slice(3), slice(3, 7))):
        clusters = (3, 4)[number]
        centres = clustering.kmeans(x, clusters, iterations=6, seed=2 + number)
        torch.testing.assert_close(objective.prototypes[at], unit(centres))
        apart = torch.stack([torch.stack([(row - c).square().sum().sqrt() for c in centres]) for row in x])
        near, labels = apart.min(dim=1)
        for row, label in zip(rows, labels.tolist(), strict=True):
            expected[index[row], number] = label
        raw = [float(near[labels == k].mean() / log((labels == k).sum() + 5)) for k in range(clusters)]
        largest = max(phi for k, phi in enumerate(raw) if (labels == k).sum() > 1)
        phi = torch.tensor([phi if (labels == k).sum() > 1 else largest for k, phi in enumerate(raw)])
        phi = phi.clamp(phi.quantile(0.1), phi.quantile(0.9))
        torch.testing.assert_close(objective.concentration[at], 0.3 * phi / phi.mean(), rtol=1e-4, atol=1e-6)
    assert objective.labels.rows.tolist() == expected.tolist() and objective.epoch == 2


def test_clusters_wait_until_the_warmup_is_over() -> None:
    encoder, objective = made()
    begun = epoch_of(pictures([4], 12), index=list(range(12)))
    made_at = []
    for progress in (0.0, 0.24, 0.25, 0.5):
        objective.after_step({"image": encoder}, progress)
        before = int(objective.epoch)
        objective.before_epoch({"image": encoder}, begun)
        made_at.append(int(objective.epoch) > before)
        shown = pictures([4, 4], 3)
        found = objective({"image": encoder}, shown)
        assert (found.logs["loss_clusters"] > 0) == made_at[-1]
        torch.testing.assert_close(found.total.detach(), found.logs["loss_instance"] + found.logs["loss_clusters"])
    assert made_at == [False, False, True, True]


def test_what_the_first_process_found_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerators add in any order, so that processes may find other clusters."""
    encoder, objective = made(warmup=0.0)
    asked = []

    def agreed(x: Tensor) -> Tensor:
        asked.append(x.shape)
        return torch.full_like(x, 2)

    monkeypatch.setattr(pcl, "agreed", agreed)
    objective.before_epoch({"image": encoder}, epoch_of(pictures([4], 12), index=range(12)))
    assert [tuple(shape) for shape in asked] == [(3, 4), (12,), (12,), (4, 4), (12,), (12,)]
    torch.testing.assert_close(objective.prototypes, torch.full((7, 4), 0.5))
    assert objective.labels.rows.eq(2).all()
    torch.testing.assert_close(objective.concentration, torch.full((7,), 0.3))


def test_the_teacher_and_the_queue_follow() -> None:
    encoder, objective = made()
    shown = pictures([4, 4], 6, absent=[1, 4])
    objective({"image": encoder}, shown)
    teacher = objective.teacher
    keys = unit(perceptron(teacher.head, teacher.encoder(shown.views["image"][1]).pooled)).detach()
    rows = objective.queue.rows.clone()
    rows[:4] = keys[[0, 2, 3, 5]]
    before = [p.clone() for p in teacher.parameters()]
    shake(encoder, objective.head)
    objective.after_step({"image": encoder}, 0.75)
    new = [*encoder.parameters(), *objective.head.parameters()]
    for p, old, target in zip(teacher.parameters(), before, new, strict=True):
        torch.testing.assert_close(p, 0.8 * old + 0.2 * target)
        assert not p.requires_grad
    torch.testing.assert_close(objective.queue.rows, rows)
    assert objective.done == 0.75
    objective.after_step({"image": encoder}, 0.8)
    objective.eval()({"image": encoder}, shown)
    objective.after_step({"image": encoder}, 0.9)
    torch.testing.assert_close(objective.queue.rows, rows, msg="nothing new")


def test_the_second_version_has_a_hidden_layer_as_wide_as_the_features() -> None:
    both = {"image": Tiny(), "other": Tiny()}
    both["other"].dim = 5
    for key, width in (("image", 6), ("other", 5)):
        made = PCLV2(both, encoder=key, **SMALL, momentum=0.7)
        assert made.head.config()["hidden"] == [width] and made.head.config()["dim"] == width
        assert (made.temperature, made.momentum, made.uses) == (0.2, 0.7, (key,))
    alone = PCLV2({"image": Tiny()}, **SMALL, hidden=(3, 4), temperature=0.5)
    assert alone.head.config()["hidden"] == [3, 4] and alone.temperature == 0.5
    assert PCLV2({"image": Tiny()}, **SMALL).head.config()["hidden"] == [6]


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="clusters is empty"):
        made(clusters=[])
    _, objective = made(clusters=[4, 3])
    reserve(objective, 4)
    with pytest.raises(UserError, match="4 clusters of 3 training samples"):
        reserve(objective, 3)
    with pytest.raises(UserError, match="the task compares 2 views"):
        objective({"image": Tiny()}, pictures([4], 3))
    assert objective.spaces() == {"image": objective.head}
    assert not any(p.requires_grad for p in objective.teacher.parameters())


def test_defaults_are_the_papers() -> None:
    """main_pcl.py: low-dim, pcl-r, moco-m, num-cluster, alpha in run_kmeans, warmup-epoch 20 of 200, niter; the paper's
    temperatures of its first and second version.
    """
    paper = {
        "embed_dim": 128,
        "hidden": None,
        "queue": 16384,
        "momentum": 0.999,
        "clusters": (25_000, 50_000, 100_000),
        "negatives": 16384,
        "temperature": 0.1,
        "smoothing": 10.0,
        "warmup": 0.1,
        "iterations": 20,
        "encoder": None,
    }
    assert defaults(PCL) == paper and defaults(PCLV2) == paper | {"temperature": 0.2}
    assert PCL({"image": Tiny()}, **SMALL).head.config()["hidden"] == []
    assert (pcl.method.view, pcl.method.objective) == (moco_view, PCL)
    assert (pcl.v2.view, pcl.v2.objective) == (moco_v2_view, PCLV2)
