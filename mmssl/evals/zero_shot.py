"""Zero-shot classification: the nearest of the classes' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.data.subset import limited
from mmssl.evals.parts.classes import chance, labels_of, match_classes, number_classes, number_listed
from mmssl.evals.parts.classifier import embedded_prompts, read_classes, read_templates
from mmssl.evals.parts.needs import ClassesNeed, EncoderNeed, Needs
from mmssl.evals.parts.report import warn
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import embed_stream, show_some
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.types import Score, Trained


class ZeroShot(WithUntrained):
    """Top-1 and top-5 accuracy, and each class's own, with prompts averaged as in Radford et al., ICML 2021.

    data: shards (and fields) with the modality and a label.
    classes: a list, a file with one name per line, or `dataset.factor` of a card.
    templates: a list or a file of prompts with `{}`, by default mmssl's own.
    label: the sample's key that holds the class, a name, or a place in the list where the set has no names;
        evals/parts/classes.py has the rule.
    space: the task whose joint embedding is used.
    modality: what is classified.
    per_class: whether each class's accuracy is a figure of its own, with an interval.
    baselines: also judge the encoders with random weights.
    limit: samples at most, drawn from a fixed seed.
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
        baselines: bool = False,
        limit: int | None = None,
    ) -> None:
        self.source = limited(open_source(data), limit)
        self.classes, self.templates = read_classes(classes), read_templates(templates)
        self.label, self.space, self.modality, self.per_class = label, space, modality, per_class
        self.baselines = baselines
        self.names = {"where": self.source.shards[0], "known_as": "the list of classes"}

    def needs(self, trained: Trained) -> Needs:
        return Needs(
            encoders=dict.fromkeys(("text", self.modality), EncoderNeed(space=self.space)),
            data={"data": (self.source, (self.modality, self.label))},
            classes=ClassesNeed(train=self.classes, test=self.source, label=self.label, **self.names),
        )

    def warm(self, fresh: Trained) -> None:
        show_some(fresh.encoders[self.modality], self.source, space=self.space)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields top1, top5 and class/<name>; trivial is the share of the commonest class."""
        encoders = trained.encoders
        prompts = embedded_prompts(encoders["text"], self.classes, self.templates, space=self.space)
        embedded, metadata = embed_stream(encoders, self.source, [self.modality], space=self.space, keep=[self.label])
        places, found = labels_of(metadata, self.label)
        number_classes(found, where=self.names["where"])
        labels = torch.tensor(match_classes(found, number_listed(self.classes, found), **self.names))
        x = embedded[self.modality][places]
        ranks = rank_of(x @ F.normalize(prompts.mean(dim=0), dim=1).T, labels)
        count = len(self.classes)
        commonest = labels[labels < count].bincount().max().item() / len(labels)
        there = {name: labels == number for number, name in enumerate(self.classes) if (labels == number).any()}
        parts = {name: float((ranks[mine] < 1).float().mean()) for name, mine in there.items()}
        top1 = bootstrap(ranks < 1, chance=chance(labels, count), trivial=commonest, parts=parts)
        warn_of_templates(x, labels, dict(zip(self.templates, prompts, strict=True)), top1)
        yield "top1", top1
        if count > 5:
            yield "top5", bootstrap(ranks < 5, chance=chance(labels, count, guesses=5))
        for name, mine in there.items() if self.per_class else ():
            yield f"class/{name}", bootstrap(ranks[mine] < 1, chance=1 / count)


def warn_of_templates(x: Tensor, labels: Tensor, prompts: Mapping[str, Tensor], top1: Score) -> None:
    """Warns where one template alone, its prompts (C, D), tells more of x (N, D) right than all do, beyond chance."""
    alone = {template: float((rank_of(x @ rows.T, labels) < 1).float().mean()) for template, rows in prompts.items()}
    best, *others = sorted(alone.items(), key=lambda one: -one[1])
    if others and best[1] > top1.high:
        described = ", ".join(f"{template!r} {value:.3f}" for template, value in [best, *others][:5])
        warn(f"top1 is {top1.value:.3f}, but one template alone reaches {best[1]:.3f}; choose templates ({described})")


def rank_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns how many wrong candidates (N, C) score at least as high as the right one (N,); ties count against.

    A label that is none of the candidates comes after them all.
    """
    known = labels < scores.shape[1]
    right = scores.gather(1, labels.where(known, 0)[:, None])
    return ((scores >= right).sum(dim=1) - 1).where(known, scores.shape[1])


evaluation = ZeroShot
