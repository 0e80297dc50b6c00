"""DeepCluster (Caron et al., ECCV 2018) and its second version (Caron et al., NeurIPS 2020) by their formulas."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.methods import deepcluster
from mmssl.methods.deepcluster import DeepCluster, DeepClusterV2
from mmssl.numerics import kmeans as clustering
from mmssl.objectives.bank import reserve
from mmssl.transforms.color import Blur, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch
from mmssl.views.swav import view as swav_view

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch, epoch_of, evenness, perceptron, pictures, same, shake, unit

INDEX = [5, 0, 11, 3, 8, 1, 10, 4, 9, 2, 6]  # of 12 training samples, one is never shown


class Spy:
    """Stands in for a function, notes what it was given, and hands it on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.function = getattr(clustering, name)
        monkeypatch.setattr(deepcluster, name, self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls.append((tuple(a.clone() if isinstance(a, Tensor) else a for a in args), options))
        return self.function(*args, **options)


def made(**options: Any) -> tuple[Tiny, DeepCluster]:
    encoder = Tiny()
    objective = DeepCluster({"image": encoder}, **{"clusters": 3, "pca": 2, "iterations": 7} | options)
    shake(objective, by=1.0)
    reserve(objective, 12)
    return encoder, objective


def test_clusters_are_those_of_whitened_features(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, objective = made()
    spy = Spy(monkeypatch, "kmeans")
    shown, there = pictures([4], 11, absent=[2, 7]), [row for row in range(11) if row not in (2, 7)]
    objective.before_epoch({"image": encoder}, epoch_of(shown, index=INDEX))
    assert encoder.seen == [(False, False)] * 2 and encoder.training, "in evaluation mode, and back"

    rows = sorted(there, key=lambda row: INDEX[row])
    features = encoder(shown.views["image"][0]).pooled.detach()[rows].double()
    _, sizes, directions = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
    whitened = unit((features - features.mean(dim=0)) @ directions[:2].T / sizes[:2]).float()
    ((x, clusters), options) = spy.calls[0]
    assert clusters == 3 and options == {"iterations": 7, "seed": 0}
    torch.testing.assert_close(x.abs(), whitened.abs(), atol=1e-4, rtol=1e-4)  # signs are free
    torch.testing.assert_close(x @ x.T, whitened @ whitened.T, atol=1e-4, rtol=1e-4)

    centres = clustering.kmeans(x, 3, iterations=7, seed=0)
    expected = torch.full((12, 1), -1)
    for row, own in zip(rows, x, strict=True):
        expected[INDEX[row], 0] = int((centres - own).square().sum(dim=1).argmin())
    assert objective.labels.rows.tolist() == expected.tolist()
    assert objective.sizes.tolist() == [(expected == k).sum() for k in range(3)]
    objective.before_epoch({"image": encoder}, epoch_of(shown, index=INDEX))
    assert spy.calls[1][1]["seed"] == 1 and objective.epoch == 2


def test_the_classifier_starts_anew_alike_on_all_processes() -> None:
    (encoder, one), (_, other) = made(clusters=11, pca=6), made(clusters=11, pca=6)
    shown, starts = pictures([4], 11), []
    for objective in (one, one, other):
        torch.randn(3)  # another process is elsewhere in its own draws
        objective.before_epoch({"image": encoder}, epoch_of(shown, index=INDEX))
        starts.append(objective.classifier.weight.detach().clone())
        assert not objective.classifier.bias.any()
    assert starts[0].equal(starts[2]) and not starts[0].isclose(starts[1]).any()
    assert torch.stack(starts[:2]).std().item() == pytest.approx(0.01, rel=0.2)  # 132 draws
    assert torch.stack(starts[:2]).mean().abs() < 0.003


def test_samples_that_are_all_alike_share_one_cluster() -> None:
    encoder, objective = made()
    alike = Batch({"image": [torch.full((12, 3, 4, 4), 0.5)]})
    objective.before_epoch({"image": encoder}, epoch_of(alike, index=range(12)))
    assert sorted(objective.sizes.tolist()) == [0, 0, 12] and len(objective.labels.rows.unique()) == 1


@pytest.mark.parametrize("views", [1, 2])
def test_every_cluster_weighs_alike(views: int) -> None:
    encoder, objective = made(clusters=4)
    objective.labels.rows[:8, 0] = torch.tensor([3, 0, 0, -1, 3, 1, 0, 0])
    objective.sizes.copy_(torch.tensor([7.0, 2.0, 0.0, 4.0]))
    shown = pictures([4] * views, 6, absent=[4])  # of the numbers 0 3 6 2 5 1
    found = objective({"image": encoder}, shown)
    losses = []
    for row in (0, 2, 3, 5):
        label = int(objective.labels.rows[shown.extra["index"][row], 0])
        size = {0: 7, 1: 2, 3: 4}[label]
        for view in shown.views["image"]:
            log_p = objective.classifier(encoder(view).pooled[row]).log_softmax(dim=0)
            losses.append(-log_p[label] * (13 / 3) / size)  # the mean size, over its own
    same(found.total, torch.stack(losses).mean(), encoder, objective)
    assert found.logs["clusters"] == 3
    torch.testing.assert_close(found.logs["assignment_entropy"], evenness(objective.sizes))
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor(3.0).log())
    torch.testing.assert_close(found.embeddings["image"], encoder(shown.views["image"][0]).pooled.detach())
    assert not found.embeddings["image"].requires_grad


def test_before_any_clusters_there_is_nothing_to_learn() -> None:
    encoder, objective = made()
    assert objective.sizes.tolist() == [0, 0, 0]
    objective({"image": encoder}, pictures([4], 6)).total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in (*objective.parameters(), *encoder.parameters()))


V2: dict[str, Any] = {"embed_dim": 4, "hidden": (7,), "clusters": [3, 2, 4], "temperature": 0.3, "iterations": 6}


def made_v2(**options: Any) -> tuple[Tiny, DeepClusterV2]:
    encoder = Tiny()
    objective = DeepClusterV2({"image": encoder}, **V2 | options)
    shake(objective)
    reserve(objective, 7)
    return encoder, objective


def test_v2_remembers_the_training_set_and_clusters_it_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, objective = made_v2(assign=2)
    shown, index = pictures([4], 6, absent=[2]), [5, 0, 6, 3, 1, 4]
    kept = [bank.rows.clone() for bank in objective.memories]
    spy = Spy(monkeypatch, "spherical_kmeans")
    objective.before_epoch({"image": encoder}, epoch_of(shown, index=index))
    assert encoder.seen == [(False, False)] * 2 and encoder.training and objective.head.training
    objective.eval()
    embedded = unit(objective.head.project(encoder(shown.views["image"][0]).pooled)).detach()
    objective.train()
    for old in kept:
        for row in (0, 1, 3, 4, 5):
            old[index[row]] = embedded[row]
    for bank, expected in zip(objective.memories, kept, strict=True):
        torch.testing.assert_close(bank.rows, expected)
    objective.memories[1].rows.copy_(unit(torch.randn(7, 4)))
    objective.before_epoch({"image": encoder}, epoch())  # once is enough

    assert [options["seed"] for _, options in spy.calls] == [0, 1, 2, 3, 4, 5]
    assert all(options["iterations"] == 6 for _, options in spy.calls)
    assert [args[1] for args, _ in spy.calls] == [3, 2, 4] * 2
    for number, (prototypes, (args, _)) in enumerate(
        zip(objective.prototypes.split([3, 2, 4]), spy.calls[3:], strict=True)
    ):
        rows = objective.memories[number % 2].rows
        assert args[0].equal(rows)
        torch.testing.assert_close(
            prototypes, clustering.spherical_kmeans(rows, args[1], iterations=6, seed=3 + number)
        )
        labels = [max(range(len(prototypes)), key=lambda k, x=x: float(x @ prototypes[k])) for x in rows]
        assert objective.labels.rows[:, number].tolist() == labels
    assert objective.epoch == 2


@pytest.mark.parametrize("assign", [1, 2])
def test_v2_is_the_papers_in_value_and_gradient_and_keeps_what_it_saw(assign: int) -> None:
    encoder, objective = made_v2(assign=assign)
    objective.prototypes.copy_(unit(torch.randn(9, 4)))
    objective.labels.rows[:] = torch.stack([torch.arange(7) % k for k in (3, 2, 4)], dim=1)
    objective.labels.rows[3] = -1
    shown = pictures([4, 4, 2], 6, absent=[4])  # of the numbers 0 3 6 2 5 1
    found = objective({"image": encoder}, shown)
    pooled = torch.cat([encoder(x).pooled for x in shown.views["image"]])
    embedded = unit(perceptron(objective.head, pooled, norm=True)).view(3, 6, 4)
    losses = []
    for row in (0, 2, 3, 5):
        labels = objective.labels.rows[shown.extra["index"][row]]
        for view in range(3):
            for label, prototypes in zip(labels, objective.prototypes.split([3, 2, 4]), strict=True):
                losses.append(-(prototypes @ embedded[view, row] / 0.3).log_softmax(dim=0)[label])
    same(found.total, torch.stack(losses).mean(), encoder, objective)
    torch.testing.assert_close(found.embeddings["image"], embedded[0].detach())
    assert not found.embeddings["image"].requires_grad
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor([3.0, 2.0, 4.0]).log().mean())

    expected = [bank.rows.clone() for bank in objective.memories]
    assert len(expected) == assign
    objective.after_step({"image": encoder}, 0.5)
    for view, (bank, rows) in enumerate(zip(objective.memories, expected, strict=True)):
        for row in (0, 1, 2, 3, 5):
            rows[shown.extra["index"][row]] = embedded[view, row].detach()
        torch.testing.assert_close(bank.rows, rows)
    objective.eval()({"image": encoder}, pictures([4, 4], 6, seed=5))
    objective.after_step({"image": encoder}, 0.6)
    for bank, rows in zip(objective.memories, expected, strict=True):
        torch.testing.assert_close(bank.rows, rows, msg="an evaluation leaves no trace")


def test_v2_reports_how_evenly_the_first_clustering_is_used() -> None:
    encoder, objective = made_v2()
    objective.labels.rows[:] = torch.tensor(
        [[0, 0, 0], [0, 1, 0], [2, 0, 0], [0, 1, 0], [2, 1, 3], [0, 0, 0], [0, 0, 0]]
    )
    shown = pictures([4, 4], 6)  # of the numbers 0 3 6 2 5 1
    found = objective({"image": encoder}, shown).logs["assignment_entropy"]
    torch.testing.assert_close(found, evenness(torch.tensor([5, 1, 0])))


def test_what_the_first_process_found_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerators add in any order, so that processes may find other clusters."""
    monkeypatch.setattr(deepcluster, "agreed", torch.zeros_like)
    encoder, objective = made()
    objective.before_epoch({"image": encoder}, epoch_of(pictures([4], 11), index=INDEX))
    assert objective.sizes.tolist() == [11, 0, 0] and not objective.labels.rows[INDEX].any()
    encoder, second = made_v2()
    second.before_epoch({"image": encoder}, epoch_of(pictures([4], 6), index=range(6)))
    assert not second.prototypes.any() and not second.labels.rows.any()
    monkeypatch.setattr(deepcluster, "agreed", torch.ones_like)
    second.before_epoch({"image": encoder}, epoch())  # once is enough
    assert second.prototypes.eq(1).all() and second.labels.rows.eq(1).all()


def test_what_is_refused() -> None:
    for options in ({"assign": 0}, {"clusters": []}):
        with pytest.raises(UserError, match="expected at least one of each"):
            made_v2(**options)
    encoder, objective = made_v2(assign=2)
    with pytest.raises(UserError, match="the task compares 2 views"):
        objective({"image": encoder}, pictures([4], 6))
    with pytest.raises(UserError, match="4 clusters of 3 training samples"):
        reserve(objective, 3)
    with pytest.raises(UserError, match="3 clusters of 2 training samples"):
        reserve(made()[1], 2)
    encoder, objective = made_v2(assign=1)
    objective({"image": encoder}, pictures([4], 6))
    assert objective.spaces() == {"image": objective.head}
    both = {"a": Tiny(), "b": Tiny()}
    assert DeepClusterV2(both, **V2, encoder="b").uses == DeepCluster(both, encoder="b").uses == ("b",)


def test_defaults_are_the_papers() -> None:
    """main.py: nmb_cluster, clustering.py: pca 256, niter 20; main_deepclusterv2.py: nmb_prototypes, feat_dim,
    hidden_mlp, crops_for_assign, temperature, nmb_kmeans_iters.
    """
    assert defaults(DeepCluster) == {"clusters": 10_000, "pca": 256, "iterations": 20, "encoder": None}
    assert defaults(DeepClusterV2) == {
        "embed_dim": 128,
        "hidden": (2048,),
        "clusters": (3000, 3000, 3000),
        "assign": 2,
        "temperature": 0.1,
        "iterations": 10,
        "encoder": None,
    }
    assert deepcluster.method.objective is DeepCluster
    assert (deepcluster.v2.view, deepcluster.v2.objective) == (swav_view, DeepClusterV2)
    view = deepcluster.method.view({"image": Tiny().preprocess})
    assert view.steps["image"] == [[Crop(scale=(0.08, 1.0)), Flip(p=0.5)]]
    changed = {"flip": {"p": 0.9}, "grayscale": {"p": 0.4}, "blur": {"p": 0.6}}
    other = deepcluster.method.view({"image": Tiny().preprocess}, views=2, image=changed)
    assert other.steps["image"] == [[Crop(), Flip(p=0.9), Grayscale(p=0.4), Blur(p=0.6)]] * 2
