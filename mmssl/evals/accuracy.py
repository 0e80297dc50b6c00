"""The accuracy of the classifier that a task trained, such as finetune and distill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mmssl.data.subset import limited
from mmssl.errors import UserError
from mmssl.evals.linear import ranked, tops
from mmssl.evals.parts.labelled import Labelled
from mmssl.evals.parts.layers import Tapped
from mmssl.evals.parts.needs import EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.source import warn_of_overlap
from mmssl.evals.parts.stream import show_some
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.types import Score, Trained


class Accuracy(WithUntrained):
    """Top-1 and top-5 accuracy of a task's classifier: the class whose score is the highest in the task's space.

    space: the task's name.
    train: the shards that it learnt the classes from, by which they are numbered.
    data: shards with labels to judge on; classes meet as evals/parts/classes.py says.
    label: the sample's key that holds the class, a name or a number.
    encoder: its key, by default the only one's.
    baselines: also judge the encoder and the classifier with random weights.
    limit: samples to judge on at most, drawn from a fixed seed.
    """

    def __init__(
        self,
        *,
        space: str,
        train: dict[str, Any],
        data: dict[str, Any],
        label: str = "label",
        encoder: str | None = None,
        baselines: bool = False,
        limit: int | None = None,
    ) -> None:
        self.space, self.encoder, self.baselines = space, encoder, baselines
        self.sets = Labelled(train, data, label=label)
        self.sets.test = limited(self.sets.test, limit)

    def needs(self, trained: Trained) -> Needs:
        encoder = require_encoder(trained, self.encoder)
        needed = self.sets.needs(encoder.preprocess.field)
        return replace(needed, encoders={self.encoder: EncoderNeed(space=self.space)}, counted=("train",))

    def warm(self, fresh: Trained) -> None:
        show_some(require_encoder(fresh, self.encoder, space=self.space), self.sets.train, space=self.space)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields top1, and top5 where there are more classes than five."""
        warn_of_overlap(self.sets.train, self.sets.test)
        test = self.sets.test_rows(Tapped(require_encoder(trained, self.encoder, space=self.space), (self.space,)))
        classes = max(self.sets.labels().values()) + 1
        if test.x.shape[1] != classes:
            raise UserError(
                f"the space {self.space!r} has {test.x.shape[1]} numbers, and train has {classes} classes; name the "
                "space of a task that trains a classifier, and the set that it learnt from"
            )
        yield from tops(ranked(test.x, test.y), classes, test)


evaluation = Accuracy
