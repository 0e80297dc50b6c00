"""Zero-shot classification: the nearest of the classes' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F

from mmssl.data.subset import limited
from mmssl.evals.parts.classes import chance, labels_of, match_classes, number_classes, number_listed
from mmssl.evals.parts.classifier import embedded_with_plain, read_classes, read_templates
from mmssl.evals.parts.needs import ClassesNeed, EncoderNeed, Needs
from mmssl.evals.parts.report import warn
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import embed_stream, show_some
from mmssl.evals.parts.templates import PLAIN
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.types import Score, Trained


class ZeroShot(WithUntrained):
    """Top-1 and top-5 accuracy, and each class's own, with prompts averaged as in Radford et al., ICML 2021.

    data: shards (and fields) with the modality and a label.
    classes: a list, a file with one name per line, or `dataset.factor` of a card.
    templates: a list or a file of prompts with `{}`, or a set by its name: short, the default, plain (the class's name
        alone), photo, or imagenet80; evals/parts/templates.py has them.
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
        prompts, plain = embedded_with_plain(encoders["text"], self.classes, self.templates, space=self.space)
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
        warn_of_templates(x, labels, dict(zip(self.templates, prompts, strict=True)), top1, plain)
        yield "top1", top1
        if count > 5:
            yield "top5", bootstrap(ranks < 5, chance=chance(labels, count, guesses=5))
        for name, mine in there.items() if self.per_class else ():
            yield f"class/{name}", bootstrap(ranks[mine] < 1, chance=1 / count)


def warn_of_templates(x: Tensor, labels: Tensor, prompts: Mapping[str, Tensor], top1: Score, plain: Tensor) -> None:
    """Warns where the class names alone (C, D), or one template alone, tell more of x (N, D) right, beyond chance.

    prompts: template -> (C, D). top1: of all templates together.
    """
    alone = {template: float(_right(x, rows, labels).float().mean()) for template, rows in prompts.items()}
    if warn_of_plain(x, labels, prompts, alone, plain):
        return
    best, *others = sorted(alone.items(), key=lambda one: -one[1])
    if others and best[1] > top1.high:
        described = ", ".join(f"{template!r} {value:.3f}" for template, value in [best, *others][:5])
        warn(f"top1 is {top1.value:.3f}, but one template alone reaches {best[1]:.3f}; choose templates ({described})")


def warn_of_plain(
    x: Tensor, labels: Tensor, prompts: Mapping[str, Tensor], alone: Mapping[str, float], plain: Tensor
) -> bool:
    """Warns, with a table, where the class names alone are right more often than the templates given; tells whether.

    That is where a sample is right by one of the two only, and by which is no chance: McNemar's exact test, 0.025.
    """
    given = _right(x, F.normalize(torch.stack(list(prompts.values())).mean(dim=0), dim=1), labels)
    names = _right(x, plain, labels)
    won, lost = int((names & ~given).sum()), int((given & ~names).sum())
    if won <= lost or binomtest(won, won + lost, alternative="greater").pvalue > 0.025:
        return False
    singles = sorted((one for one in alone.items() if one[0] != PLAIN), key=lambda one: -one[1])[:3]
    rows = {
        f"the {len(prompts)} given": float(given.float().mean()),
        PLAIN: float(names.float().mean()),
        **dict(singles),
    }
    width = max(map(len, rows))
    table = "\n".join(f"  {name:{width}}  {value:.3f}" for name, value in rows.items())
    warn(
        f"the plain class name does better than the templates given; choose templates=plain, or others (top1):\n{table}"
    )
    return True


def _right(x: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Returns which of x (N, D) are nearest to their own of the rows (C, D)."""
    return rank_of(x @ rows.T, labels) < 1


def rank_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns how many wrong candidates (N, C) score at least as high as the right one (N,); ties count against.

    A label that is none of the candidates comes after them all.
    """
    known = labels < scores.shape[1]
    right = scores.gather(1, labels.where(known, 0)[:, None])
    return ((scores >= right).sum(dim=1) - 1).where(known, scores.shape[1])


evaluation = ZeroShot
