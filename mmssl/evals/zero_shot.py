"""Zero-shot classification: the nearest of the classes' names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evals.classifier import read_classes, read_templates, zero_shot_classifier
from mmssl.evals.score import bootstrap
from mmssl.evals.stream import embed_stream, open_source
from mmssl.types import Score, Trained


class ZeroShot:
    """Top-1 and top-5 accuracy, and each class's own, with prompts averaged as in Radford et al., ICML 2021.

    data: shards (and fields) with the modality and a label. classes: a list, a file with one name per line,
    or `dataset.factor` of a card. templates: a list or a file of prompts with `{}`. label: the sample's key that
    holds the class, a name or its number. space: the task whose joint embedding is used. modality: what is classified.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        classes: str | list[str],
        templates: str | list[str] | None = None,
        label: str = "label",
        space: str = "clip",
        modality: str = "image",
        per_class: bool = True,
    ) -> None:
        self.source = open_source(data)
        self.classes, self.templates = read_classes(classes), read_templates(templates)
        self.label, self.space, self.modality, self.per_class = label, space, modality, per_class

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields top1, top5 and class/<name>; trivial is the share of the commonest class."""
        encoders = trained.encoders
        weights = zero_shot_classifier(encoders["text"], self.classes, self.templates, space=self.space)
        embedded, kept = embed_stream(encoders, self.source, [self.modality], space=self.space, keep=[self.label])
        labels = torch.tensor([class_number(row[self.label], self.classes) for row in kept])
        ranks = rank_of(embedded[self.modality] @ weights.T, labels)
        chance = 1 / len(self.classes)
        commonest = labels.bincount().max().item() / len(labels)
        yield "top1", bootstrap(ranks < 1, chance=chance, trivial=commonest)
        if len(self.classes) > 5:
            yield "top5", bootstrap(ranks < 5, chance=5 * chance)
        for number, name in enumerate(self.classes if self.per_class else ()):
            if (labels == number).any():
                yield f"class/{name}", bootstrap(ranks[labels == number] < 1, chance=chance)


def rank_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns how many wrong candidates (N, C) score at least as high as the right one (N,); ties count against."""
    right = scores.gather(1, labels[:, None])
    return (scores >= right).sum(dim=1) - 1


def class_number(label: Any, classes: list[str]) -> int:
    """Returns the number of a label that is a class's name or its number."""
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and 0 <= label < len(classes):
        return label
    raise UserError(f"the data has the label {label!r}; expected one of the {len(classes)} classes, by name or number")


evaluation = ZeroShot
