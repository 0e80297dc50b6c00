"""ProtoNCE and concentrations against their formulas, written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.proto_nce import concentrations, proto_nce


def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    queries, prototypes = F.normalize(torch.randn(6, 5), dim=1), F.normalize(torch.randn(9, 5), dim=1)
    return queries, prototypes, torch.rand(9) * 0.2 + 0.1, torch.tensor([0, 3, 3, 8, 1, 0])


def plain(queries: torch.Tensor, prototypes: torch.Tensor, phi: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = []
    for query, label in zip(queries, labels.tolist(), strict=True):
        above = math.e ** (query @ prototypes[label] / phi[label])
        below = sum(math.e ** (query @ c / f) for c, f in zip(prototypes, phi, strict=True))
        losses.append(-torch.log(above / below))
    return torch.stack(losses)


def test_value_and_gradient() -> None:
    queries, *rest = given()
    mine, theirs = queries.clone().requires_grad_(), queries.clone().requires_grad_()
    torch.testing.assert_close(proto_nce(mine, *rest), plain(theirs, *rest))
    proto_nce(mine, *rest).mean().backward()
    plain(theirs, *rest).mean().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_drawn_negatives_are_compared_besides_the_own_prototypes() -> None:
    queries, prototypes, phi, labels = given()
    found = proto_nce(queries, prototypes, phi, labels, negatives=2)
    whole, own = proto_nce(queries, prototypes, phi, labels), labels.unique()
    least = proto_nce(queries, prototypes[own], phi[own], torch.searchsorted(own, labels))
    assert (found <= whole + 1e-6).all()
    assert (found >= least - 1e-6).all()
    torch.testing.assert_close(proto_nce(queries, prototypes, phi, labels, negatives=9), whole)


@pytest.mark.parametrize("negatives", [1, 4, 8])
def test_so_many_prototypes_are_drawn_and_compared_once_each(negatives: int) -> None:
    queries, prototypes, phi, labels = given()
    torch.manual_seed(3)
    found = proto_nce(queries, prototypes, phi, labels, negatives=negatives)
    torch.manual_seed(3)
    compared = sorted({*labels.tolist(), *torch.randperm(9)[:negatives].tolist()})
    place = torch.tensor([compared.index(label) for label in labels.tolist()])
    torch.testing.assert_close(found, plain(queries, prototypes[compared], phi[compared], place))


def test_none_are_drawn_where_all_are_compared() -> None:
    queries, prototypes, phi, labels = given()
    for negatives in (None, 9, 10):
        torch.manual_seed(3)
        found = proto_nce(queries, prototypes, phi, labels, negatives=negatives)
        torch.testing.assert_close(found, plain(queries, prototypes, phi, labels))
        after = torch.rand(1)
        torch.manual_seed(3)
        assert after == torch.rand(1), "nothing is drawn"


def test_products_are_counted_in_float32() -> None:
    queries, prototypes, phi, labels = given()
    halves = [queries.bfloat16(), prototypes.bfloat16(), phi.bfloat16()]
    found = proto_nce(*halves, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(*(x.float() for x in halves), labels))


def test_clusters_of_one_sample_alone_or_of_none_are_alike() -> None:
    found = concentrations(torch.tensor([0.5, 2.0]), torch.tensor([1, 2]), 4, temperature=0.3, smoothing=10.0)
    torch.testing.assert_close(found, torch.full((4,), 0.3))


def test_samples_that_lie_in_their_centres_give_no_nan() -> None:
    found = concentrations(torch.zeros(6), torch.tensor([0, 0, 0, 1, 1, 1]), 2, temperature=0.3, smoothing=10.0)
    assert found.tolist() == [0.0, 0.0]


def test_concentrations() -> None:
    torch.manual_seed(0)
    labels = torch.cat([torch.arange(20) % 6, torch.tensor([6]), torch.arange(60) % 3])  # 6 has one, 7 none
    distances = torch.rand(len(labels)) + 0.5
    raw = np.zeros(8)
    for k in range(8):
        mine = distances[labels == k].double().numpy()
        raw[k] = mine.mean() / np.log(len(mine) + 10) if len(mine) > 1 else 0
    raw[[6, 7]] = raw.max()
    raw = raw.clip(np.percentile(raw, 10), np.percentile(raw, 90))
    expected = torch.tensor(0.2 * raw / raw.mean()).float()
    torch.testing.assert_close(concentrations(distances, labels, 8, temperature=0.2, smoothing=10.0), expected)
