"""Ambient sound by its formulas (Owens et al., ECCV 2016): clusters and codes of sounds, told from what is seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods import ambient_sound
from mmssl.methods.ambient_sound import AmbientSound
from mmssl.numerics.kmeans import kmeans
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch, evenness, pictures, same, shake


class Ear(Tiny):
    """What is heard is what it gives."""

    modality = "audio"

    def forward(self, x: Tensor) -> Features:
        return Features(x)


def made(**options: Any) -> tuple[dict[str, Encoder], AmbientSound]:
    torch.manual_seed(3)
    encoders: dict[str, Encoder] = {"image": Tiny(), "audio": Ear()}
    objective = AmbientSound(encoders, **{"size": 3, **options})
    shake(objective)
    return encoders, objective


def shown(rows: int, *, deaf: tuple[int, ...] = (), blind: tuple[int, ...] = ()) -> Batch:
    batch = pictures([4], rows, absent=blind)
    batch.views["audio"] = [torch.randn(rows, 6, generator=torch.Generator().manual_seed(8))]
    batch.extra["audio_present"] = torch.tensor([row not in deaf for row in range(rows)])
    return batch


def learn(objective: AmbientSound, encoders: dict[str, Encoder], batch: Batch) -> None:
    def sweep() -> Iterator[Batch]:
        for rows in torch.arange(len(batch.extra["index"])).chunk(3):
            part = batch.map(lambda x, rows=rows: x[rows])
            part.extra["index"] = 11 - rows
            yield part

    objective.before_epoch(encoders, epoch(sweep=sweep))
    objective.before_epoch(encoders, epoch(number=1))


def heard(batch: Batch, deaf: tuple[int, ...]) -> Tensor:
    """The training set's sounds in the order of their numbers."""
    return batch.views["audio"][0][[row for row in reversed(range(12)) if row not in deaf]]


def test_clusters_are_told_from_what_is_seen() -> None:
    encoders, objective = made(iterations=5)
    batch = shown(12, deaf=(4,), blind=(6,))
    learn(objective, encoders, batch)
    centres = kmeans(heard(batch, (4,)), 3, iterations=5)
    torch.testing.assert_close(objective.groups, centres)
    losses, right, labels = [], [], []
    for row in [row for row in range(12) if row not in (4, 6)]:
        label = int((centres - batch.views["audio"][0][row]).norm(dim=1).argmin())
        scores = objective.classifier(encoders["image"](batch.views["image"][0]).pooled[row])
        losses.append(-scores.log_softmax(dim=0)[label])
        right.append(float(scores.argmax() == label))
        labels.append(label)
    found = objective(encoders, batch)
    same(found.total, torch.stack(losses).mean(), objective, encoders["image"])
    assert float(found.logs["correct"]) == pytest.approx(sum(right) / 10)
    sizes = torch.bincount(torch.tensor(labels), minlength=3)
    assert float(found.logs["commonest"]) == pytest.approx(float(sizes.max()) / 10)
    torch.testing.assert_close(found.logs["assignment_entropy"], evenness(sizes))
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor(3.0).log())
    assert found.answers["correct"].isnan().nonzero()[:, 0].tolist() == [4, 6]


def test_bits_are_sides_of_the_mean_along_the_main_directions() -> None:
    encoders, objective = made(code="binary", size=4)
    batch = shown(12, deaf=(4,), blind=(6,))
    learn(objective, encoders, batch)
    x = heard(batch, (4,))
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    main = vectors[:, values.argsort(descending=True)[:4]].T
    torch.testing.assert_close((objective.groups * main).sum(dim=1).abs(), torch.ones(4))
    there = [row for row in range(12) if row not in (4, 6)]
    bits = ((batch.views["audio"][0] - x.mean(dim=0)) @ objective.groups.T)[there] > 0
    scores = objective.classifier(encoders["image"](batch.views["image"][0]).pooled)[there]
    found = objective(encoders, batch)
    expected = -torch.where(bits, F.logsigmoid(scores), F.logsigmoid(-scores)).mean()
    same(found.total, expected, objective, encoders["image"])
    assert float(found.logs["correct"]) == pytest.approx(float(((scores > 0) == bits).float().mean()))
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor(2.0).log())


def test_what_is_refused_and_defaults() -> None:
    with pytest.raises(UserError, match="needs encoders for video and audio"):
        made(visual="video")
    for options in ({"size": 1}, {"size": 7, "code": "binary"}):
        with pytest.raises(UserError, match="no more bits than the sound's 6 statistics"):
            made(**options)
    encoders, objective = made(size=13)
    with pytest.raises(UserError, match="12 sounds make no 13 groups"):
        learn(objective, encoders, shown(12))
    assert defaults(AmbientSound) == {"visual": "image", "code": "clusters", "size": 30, "iterations": 100}
    view = ambient_sound.method.view({"image": Tiny().preprocess})
    assert view.steps["image"] == [[Crop(scale=(0.7, 0.9), ratio=(1.0, 1.0)), Flip()]]
