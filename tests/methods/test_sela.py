"""SeLa by its formula (Asano et al., ICLR 2020): its labels, when they are made, and what they cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.errors import UserError
from mmssl.methods import sela
from mmssl.methods.sela import SeLa
from mmssl.objectives.bank import reserve
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch_of, evenness, pictures, same, shake, spread

OPTIONS: dict[str, Any] = {"clusters": 3, "heads": 2, "labelings": 4, "sharpness": 5.0, "iterations": 2}


def made(samples: int = 12, **options: Any) -> tuple[Tiny, SeLa]:
    encoder = Tiny()
    objective = SeLa({"image": encoder}, **OPTIONS | options)
    shake(objective, by=1.0)
    reserve(objective, samples)
    return encoder, objective


def test_labels_are_the_spread_predictions_of_each_head() -> None:
    encoder, objective = made()
    shown, index = pictures([4], 11, absent=[2, 7]), [5, 0, 11, 3, 8, 1, 10, 4, 9, 2, 6]
    objective.before_epoch({"image": encoder}, epoch_of(shown, index=index))
    assert encoder.seen == [(False, False)] * 2 and encoder.training, "in evaluation mode, and back"
    there = [row for row in range(11) if row not in (2, 7)]
    features = encoder(shown.views["image"][0]).pooled[there]
    expected = torch.full((12, 2), -1)
    for head in range(2):
        mine = slice(3 * head, 3 * head + 3)
        scores = features @ objective.classifiers.weight[mine].T + objective.classifiers.bias[mine]
        assigned = spread(scores.log_softmax(dim=1), epsilon=1 / 5, iterations=2)
        for row, label in zip(there, assigned.argmax(dim=1).tolist(), strict=True):
            expected[index[row], head] = label
    assert objective.labels.rows.tolist() == expected.tolist()
    assert objective.labels.rows[:, 0].ne(objective.labels.rows[:, 1]).any()
    greedy = scores.argmax(dim=1)
    assert not greedy.equal(assigned.argmax(dim=1)), "spreading makes a difference here"


@pytest.mark.parametrize("views", [1, 2])
def test_the_loss_is_the_papers_in_value_and_gradient(views: int) -> None:
    encoder, objective = made(7)
    objective.labels.rows[:] = torch.tensor([[1, 0], [0, 1], [1, 1], [2, 2], [0, 0], [1, 2], [0, 1]])
    objective.labels.rows[3] = -1  # not there when labels were made
    objective.labelled.fill_(3)
    shown = pictures([4] * views, 6, absent=[4])  # of the numbers 0 3 6 2 5 1
    found = objective({"image": encoder}, shown)
    losses, right, labels = [], [], []
    for row in (0, 2, 3, 5):
        known = objective.labels.rows[shown.extra["index"][row]].tolist()
        labels.append(known[0])
        told = []
        for view in shown.views["image"]:
            scores = objective.classifiers(encoder(view).pooled[row])
            for head in range(2):
                mine = scores[3 * head : 3 * head + 3]
                losses.append(-mine.log_softmax(dim=0)[known[head]])
                told.append(float(mine.argmax() == known[head]))
        right.append(sum(told) / len(told))
    same(found.total, torch.stack(losses).mean(), encoder, objective)
    assert 0 < sum(right) < 4
    torch.testing.assert_close(found.logs["accuracy"], torch.tensor(sum(right) / 4))
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor(3.0).log())
    torch.testing.assert_close(
        found.logs["assignment_entropy"], evenness(torch.bincount(torch.tensor(labels), minlength=3))
    )
    assert found.logs["labelings"] == 3
    torch.testing.assert_close(found.embeddings["image"], encoder(shown.views["image"][0]).pooled.detach())
    assert not found.embeddings["image"].requires_grad


def test_before_any_labels_there_is_nothing_to_learn() -> None:
    encoder, objective = made(7)
    found = objective({"image": encoder}, pictures([4], 6))
    found.total.backward()
    assert found.total == 0 and found.logs["accuracy"].isnan()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_labels_are_made_anew_at_the_squares_of_training() -> None:
    encoder, objective = made(labelings=4)
    shown, swept = pictures([4], 12), []
    begun = epoch_of(shown, index=list(range(12)))
    for progress in (0.0, 0.0, 0.0624, 0.0625, 0.2, 0.25, 0.56, 0.5625, 0.9):
        objective.after_step({"image": encoder}, progress)
        assert objective.done == pytest.approx(progress)
        before = len(encoder.seen)
        objective.before_epoch({"image": encoder}, begun)
        swept.append(len(encoder.seen) > before)
    assert swept == [True, False, False, True, False, True, False, True, False]
    late = made(labelings=4)[1]
    late.after_step({}, 0.6)
    late.before_epoch({"image": encoder}, begun)
    assert late.labelled == 4, "those that were missed are not made up for"


def test_what_is_refused() -> None:
    for options in ({"heads": 0}, {"labelings": 0}):
        with pytest.raises(UserError, match="expected at least one of each"):
            made(**options)
    made(heads=1, labelings=1, samples=3)
    with pytest.raises(UserError, match="3 clusters of 2 training samples"):
        made(samples=2)
    with pytest.raises(UserError, match="not counted"):
        made(samples=None)  # type: ignore[arg-type]
    assert SeLa({"a": Tiny(), "b": Tiny()}, **OPTIONS, encoder="b").uses == ("b",)


def test_defaults_are_the_papers() -> None:
    """main.py of self-label: ncl, hc (10 in the paper's best), nopts, lamb; section 3.2; augmentation of util.py."""
    expected = {"clusters": 3000, "heads": 10, "labelings": 100, "sharpness": 25.0, "iterations": 100, "encoder": None}
    assert defaults(SeLa) == expected
    assert sela.method.objective is SeLa
    jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
    view = sela.method.view({"image": Tiny().preprocess})
    assert view.steps["image"] == [[Crop(scale=(0.08, 1.0)), Flip(), jitter, Grayscale(p=0.2)]]
    changed = {"flip": {"p": 0.9}, "color_jitter": {"p": 0.3}, "grayscale": None, "blur": {"p": 0.6}}
    other = sela.method.view({"image": Tiny().preprocess}, views=2, image=changed)
    jitter = ColorJitter(p=0.3, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
    assert other.steps["image"] == [[Crop(), Flip(p=0.9), jitter, Blur(p=0.6)]] * 2
