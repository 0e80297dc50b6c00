"""SeLaVi by its formula (Asano et al., NeurIPS 2020): its labels, their shares and order, and what they cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import permutations, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.methods import selavi
from mmssl.methods.selavi import SeLaVi, matched
from mmssl.objectives.bank import reserve
from mmssl.transforms.audio import Gain
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch, evenness, perceptron, pictures, same, shake

OPTIONS: dict[str, Any] = {
    "visual": "image",
    "clusters": 3,
    "heads": 2,
    "hidden": (5,),
    "dropout": 0.0,
    "labelings": 5,
    "sharpness": 6.0,
    "spread": 0.9,
    "iterations": 3,
    "warm": 0,
}


class Ear(Tiny):
    modality = "audio"

    def forward(self, x: Tensor) -> Features:
        return super().forward(x.view(-1, 3, 4, 4))


def made(samples: int = 12, **options: Any) -> tuple[dict[str, Encoder], SeLaVi]:
    torch.manual_seed(4)
    encoders: dict[str, Encoder] = {"image": Tiny(), "audio": Ear()}
    objective = SeLaVi(encoders, **OPTIONS | options)
    shake(objective, by=0.8)
    reserve(objective, samples)
    return encoders, objective


def shown(rows: int, *, deaf: tuple[int, ...] = (), blind: tuple[int, ...] = ()) -> Batch:
    made = pictures([4], rows, absent=blind)
    made.views["audio"] = [pictures([4], rows, seed=9).views["image"][0].flatten(1)]
    made.extra["audio_present"] = torch.tensor([row not in deaf for row in range(rows)])
    return made


def said(objective: SeLaVi, encoders: dict[str, Encoder], batch: Batch, key: str, head: int) -> Tensor:
    """What a head makes of a modality, BatchNorm as its running statistics have it."""
    pooled = encoders[key](batch.views[key][0]).pooled
    return perceptron(objective.classifiers[key][head], pooled, norm=True)  # type: ignore[index]


def by_authors(p: Tensor, shares: Tensor, *, sharpness: float, iterations: int) -> Tensor:
    """Labels of samples with a product of probabilities (N, K), by rows and columns scaled in turn."""
    q = p.double() ** (0.5 * sharpness)
    for _ in range(iterations):
        q = q * (shares / shares.sum() / q.sum(dim=0))
        q = q / q.sum(dim=1, keepdim=True) / len(q)
    return q.argmax(dim=1)


@pytest.mark.parametrize("align", [True, False])
def test_labels_are_those_that_both_modalities_give_together(align: bool) -> None:
    encoders, objective = made(align=align)
    objective.eval()
    whole, index = shown(12, deaf=(2,), blind=(7,)), [5, 0, 11, 3, 8, 1, 10, 4, 9, 2, 6, 7]
    there = [row for row in range(12) if row not in (2, 7)]
    probability = []
    for head in range(2):
        each = []
        for key in ("image", "audio"):
            layers = objective.classifiers[key][head].layers  # type: ignore[index]
            with torch.no_grad():
                each.append(layers(encoders[key](whole.views[key][0]).pooled)[there].softmax(dim=1))
        probability.append(each)
    expected = torch.full((12, 2), -1)
    orders, evenly = [], []
    for head, (seen, heard) in enumerate(probability):
        orders.append(
            min(permutations(range(3)), key=lambda p: float((seen - heard[:, list(p)]).abs().sum()))
            if align
            else (0, 1, 2)
        )
        both = seen * heard[:, list(orders[-1])]
        shares = torch.empty(3, dtype=torch.double)
        shares[both.sum(dim=0).argsort()] = objective.shares[head].double().sort().values
        labels = by_authors(both, shares, sharpness=6.0, iterations=3)
        evenly.append(by_authors(both, torch.ones(3), sharpness=6.0, iterations=3).equal(labels))
        for row, label in zip(there, labels.tolist(), strict=True):
            expected[index[row], head] = label
    assert not all(evenly), "shares matter"
    assert not align or any(order != (0, 1, 2) for order in orders)
    before = [objective.classifiers["audio"][head].layers[-1].weight.clone() for head in range(2)]  # type: ignore[index]

    def sweep() -> Iterator[Batch]:
        for rows in torch.arange(12).chunk(3):
            part = whole.map(lambda x, rows=rows: x[rows])
            part.extra["index"] = torch.tensor(index)[rows]
            yield part

    objective.before_epoch(encoders, epoch(sweep=sweep))
    assert objective.labels.rows.tolist() == expected.tolist()
    for head, order in enumerate(orders):  # the network says what was said of it, in another order
        now = objective.classifiers["audio"][head].layers[-1].weight  # type: ignore[index]
        assert torch.equal(now, before[head][list(order)])


def test_the_order_is_the_best_of_all() -> None:
    torch.manual_seed(0)
    seen, heard = torch.rand(20, 5), torch.rand(20, 5)
    costs = {p: float((seen - heard[:, list(p)]).abs().sum()) for p in permutations(range(5))}
    assert tuple(matched(seen, heard).tolist()) == min(costs, key=costs.__getitem__)


def test_batchnorm_sees_batches_before_the_first_labels_only() -> None:
    encoders, objective = made(warm=3)
    norm = objective.classifiers["audio"][1].layers[1]  # type: ignore[index]
    whole = shown(12)
    whole.extra["index"] = torch.arange(12)
    objective.before_epoch(encoders, epoch(batches=lambda: repeat(whole), sweep=lambda: iter([whole])))
    assert norm.num_batches_tracked == 3
    objective.after_step(encoders, 1.0)
    weight = objective.classifiers["audio"][0].layers[-1].weight.clone()  # type: ignore[index]
    objective.before_epoch(encoders, epoch(sweep=lambda: iter([whole])))
    assert objective.labelled == 5 and torch.equal(weight, objective.classifiers["audio"][0].layers[-1].weight)  # type: ignore[index]


def test_the_loss_is_the_papers_in_value_and_gradient() -> None:
    encoders, objective = made(7)
    objective.labels.rows[:] = torch.tensor([[1, 0], [0, 1], [1, 1], [2, 2], [0, 0], [1, 2], [0, 1]])
    objective.labels.rows[3] = -1  # not there when labels were made
    whole = shown(6, deaf=(4,), blind=(0,))  # of the numbers 0 3 6 2 5 1
    found = objective(encoders, whole)
    losses, right, agree, labels = [], {"image": 0.0, "audio": 0.0}, 0.0, []
    for head in range(2):
        scores = {key: said(objective, encoders, whole, key, head) for key in ("image", "audio")}
        for row in (2, 3, 5):
            label = int(objective.labels.rows[whole.extra["index"][row], head])
            labels += [label] if head == 0 else []
            losses += [-x[row].log_softmax(dim=0)[label] / 2 for x in scores.values()]
            agree += float(scores["image"][row].argmax() == scores["audio"][row].argmax()) / 6
            for key, x in scores.items():
                right[key] += float(x[row].argmax() == label) / 6
    same(found.total, torch.stack(losses).sum() / 6, objective, *encoders.values())
    for name, value in {"accuracy_image": right["image"], "accuracy_audio": right["audio"], "agreement": agree}.items():
        assert found.logs[name] == pytest.approx(value), name
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor(3.0).log())
    torch.testing.assert_close(
        found.logs["assignment_entropy"], evenness(torch.bincount(torch.tensor(labels), minlength=3))
    )
    expected = said(objective, encoders, whole, "audio", 0).detach()
    torch.testing.assert_close(found.embeddings["audio"], expected)
    assert objective.spaces() == {key: objective.classifiers[key][0] for key in ("image", "audio")}  # type: ignore[index]


def test_labels_are_made_anew_at_three_halves_powers_of_training() -> None:
    encoders, objective = made(labelings=5)
    whole, swept = shown(12), []
    whole.extra["index"] = torch.arange(12)
    for progress in (0.0, 0.1, 0.125, 0.13, 0.35, 0.36, 0.64, 0.65, 0.99, 1.0):  # (i / 4)^1.5: 0.125, 0.354, 0.650
        objective.after_step(encoders, progress)
        before = int(objective.labelled)
        objective.before_epoch(encoders, epoch(sweep=lambda: iter([whole])))
        swept.append(int(objective.labelled) > before)
    assert swept == [True, False, True, False, False, True, False, True, False, True]


def test_what_is_refused() -> None:
    for options in ({"heads": 0}, {"labelings": 0}):
        with pytest.raises(UserError, match="expected at least one of each"):
            made(**options)
    with pytest.raises(UserError, match="has no encoder 'video'"):
        made(visual="video")
    with pytest.raises(UserError, match="3 clusters of 2 training samples"):
        made(samples=2)


def test_defaults_are_the_papers() -> None:
    """opt.py and scripts/master.sh of selavi: mlp_dim, headcount, nopts, lamb, gauss_sd, match; MLPv2 of model.py."""
    assert defaults(SeLaVi) == {
        "visual": "video",
        "clusters": 400,
        "heads": 10,
        "hidden": (512,),
        "dropout": 0.3,
        "labelings": 100,
        "sharpness": 20.0,
        "spread": 0.1,
        "iterations": 100,
        "align": True,
        "warm": 20,
    }
    layers = [type(x).__name__ for x in made(dropout=0.3)[1].classifiers["audio"][0].layers]  # type: ignore[index]
    assert layers == ["Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    view = selavi.method.view({"image": Tiny().preprocess})
    assert view.steps["image"] == [[Crop(scale=(0.37, 0.57), ratio=(1.0, 1.0)), Flip()]]
    assert selavi.method.view.modalities["audio"] == [Gain(decibels=1.0)]
    assert float(made(spread=0.0)[1].shares.std()) == 0 and float(made(spread=30.0)[1].shares.min()) > 0.009
