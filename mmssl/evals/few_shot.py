"""Few-shot episodes: new classes told apart from a handful of examples of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.labelled import Probe
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.source import peek_classes
from mmssl.types import Encoder, Score, Trained

HELD = 2**25  # numbers held at a time
STEPS = 100  # of the logistic regression, which then is within 1e-6 of its optimum


@dataclass(kw_only=True, eq=False)
class FewShot(Probe):
    """Mean accuracy over episodes of new classes, each told from a few examples. Wang et al., 2019 (SimpleShot).

    Examples come from the training set, queries from the test set. Features are centred on the training set's mean and
    scaled to unit length. The interval is over the episodes. Classes that the test set alone has are not drawn. The
    other options are those of every Probe.

    ways: classes of an episode.
    shots: examples of each class, one number or several.
    queries: samples of each class that are classified.
    episodes: how many are drawn.
    classifier: the nearest centroid, or logistic regression with C = 1 as in Tian et al., ECCV 2020.
    seed: of the episodes.
    """

    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 15
    episodes: int = 2000
    classifier: Literal["centroid", "logistic"] = "centroid"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ways < 2 or not self.shots or min(*self.shots, self.queries, self.episodes) < 1:
            raise UserError(
                f"few_shot has {self.ways} ways, {self.shots} shots, {self.queries} queries, {self.episodes} episodes; "
                "too few"
            )
        super().__post_init__()
        self.answers = nearest_centroid if self.classifier == "centroid" else logistic_scores

    def check(self, trained: Trained) -> None:
        """Asks besides for enough classes, where index.json tells how many there are."""
        super().check(trained)
        sides = [peek_classes(source, self.sets.label) for source in (self.sets.train, self.sets.test)]
        shared = len(set.intersection(*(set(classes) for classes, _ in sides)))
        if all(whole for _, whole in sides) and shared < self.ways:
            raise UserError(f"few_shot draws {self.ways} classes; the sets share {shared}: lower ways")

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields <ways>-way/<shots>-shot; n is the number of episodes."""
        train, test = self.sets.read(encoder, places)[places[0]]
        centre = train.x.mean(dim=0)
        rows = [F.normalize(part.x - centre, dim=1).to(encoder.device) for part in (train, test)]
        for shots in self.shots:
            numbers, examples, queries = _by_class(train.y, test.y, ways=self.ways, shots=shots)
            room = self.ways * max(examples.shape[1] + queries.shape[1], (shots + self.queries) * rows[0].shape[1])
            generator = torch.Generator().manual_seed(self.seed)
            found, drawn_classes = [], []
            for part in torch.arange(self.episodes).split(max(1, HELD // room)):
                classes = torch.rand(len(part), len(examples), generator=generator).argsort(dim=1)[:, : self.ways]
                support = rows[0][drawn(examples[classes], shots, generator)]  # (E, ways, shots, D)
                most = min(self.queries, int((queries >= 0).sum(dim=1).min()))
                asks = rows[1][drawn(queries[classes], most, generator)]
                predicted = self.answers(support, asks).argmax(dim=3)  # (E, ways, queries)
                right = predicted == torch.arange(self.ways, device=predicted.device)[:, None]
                found.append(right.float().mean(dim=2).cpu())
                drawn_classes.append(numbers[classes])
            values, asked = torch.cat(found), torch.cat(drawn_classes)  # (episodes, ways)
            there = {number: asked == number for number in asked.unique().tolist()}
            parts = {name: float(values[there[n]].mean()) for n, name in sorted(test.names.items()) if n in there}
            yield f"{self.ways}-way/{shots}-shot", bootstrap(values.mean(dim=1), chance=1 / self.ways, parts=parts)


def _by_class(train: Tensor, test: Tensor, *, ways: int, shots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the classes (C,) that have enough rows, and the rows of each, (C, most) padded with -1, of both sets."""
    counts = train.bincount(minlength=int(test.max()) + 1)
    there = (counts >= shots) & (test.bincount(minlength=len(counts)) > 0)
    if int(there.sum()) < ways:
        raise UserError(
            f"few_shot draws {ways} classes with {shots} examples each; the data has {int(there.sum())} such classes"
        )
    classes = there.nonzero()[:, 0]
    one, two = (
        torch.nn.utils.rnn.pad_sequence(
            [(labels == number).nonzero()[:, 0] for number in classes.tolist()], batch_first=True, padding_value=-1
        )
        for labels in (train, test)
    )
    return classes, one, two


def drawn(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws this many different entries of each last row of a table (..., M) that is padded with -1: (..., count)."""
    chance = torch.rand(table.shape, generator=generator).masked_fill(table < 0, -1)
    return table.gather(-1, chance.topk(count, dim=-1).indices)


def nearest_centroid(support: Tensor, queries: Tensor) -> Tensor:
    """Scores queries (E, ways, Q, D) by how near each class's mean example lies: (E, ways, Q, ways)."""
    return -torch.cdist(queries.flatten(1, 2), support.mean(dim=2)).unflatten(1, queries.shape[1:3])


def logistic_scores(support: Tensor, queries: Tensor) -> Tensor:
    """Scores queries (E, ways, Q, D) by logistic regression on the examples (E, ways, K, D) of unit length.

    Weights are combinations of the examples, so all is said by products of these: Nesterov's steps on the coefficients.
    """
    ways, count = support.shape[1], support.shape[1] * support.shape[2]
    rows = support.flatten(1, 2)
    products = rows @ rows.mT  # (E, ways K, ways K)
    truth = torch.eye(ways, device=rows.device).repeat_interleave(support.shape[2], dim=0)
    decay = 1 / count
    steepest = 0.5 + decay  # the loss curves no more, since rows have unit length
    momentum = (steepest**0.5 - decay**0.5) / (steepest**0.5 + decay**0.5)
    weight = before = rows.new_zeros(len(rows), count, ways)
    for _ in range(STEPS):
        ahead = weight + momentum * (weight - before)
        slope = ((products @ ahead).softmax(dim=2) - truth) / count + decay * ahead
        before, weight = weight, ahead - slope / steepest
    return (queries.flatten(1, 2) @ rows.mT @ weight).unflatten(1, queries.shape[1:3])


evaluation = FewShot
