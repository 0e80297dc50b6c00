"""Fine-tuning with few labels: SimCLR v2's second step, from the middle of the projection head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from mmssl import dist
from mmssl.losses.labels import labelled
from mmssl.nn.head import Classes
from mmssl.objectives.few_labels import FewLabels, begin
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Spaces
from mmssl.views.template import Views


class Finetune(MultiView):
    """Cross-entropy with the classes of a few samples, which alone are shown.

    Chen et al., NeurIPS 2020 (SimCLR v2): the encoder begins with a run's weights (train.start), and the classifier
    stands on the first layer of that run's projection head, which learns too. An epoch is a pass over the few samples;
    with 1% or 10% of the labels the paper makes 60 or 30. The class of a sample is read as evaluations read it, and the
    classifier is the encoder's space of the task's name, which the evaluation `accuracy` judges.

    classes: how many there are.
    label: the sample's key that holds the class.
    fraction: of the training set, the same of every class and at least one sample, that is learnt from.
    seed: of which samples these are, as of semi_supervised.
    space: the head of the run that the encoder begins with, whose layers are kept; null begins with a random layer.
    hidden: width of what is kept of it, by default that of the features; 0 keeps nothing, and the classifier stands on
        the features themselves, as in the paper with all labels.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        classes: int = 1000,
        label: str = "label",
        fraction: float = 0.01,
        seed: int = 0,
        space: str | None = "simclr_middle",
        hidden: int | None = None,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Classes(self.dim, classes=classes, hidden=self.dim if hidden is None else hidden)
        self.known = FewLabels(classes=classes, label=label, fraction=fraction, seed=seed)
        self.space = space

    def choose(self, labels: Callable[[str], Mapping[int, int]]) -> Collection[int]:
        return self.known.learn(labels)

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        if epoch.number == 0 and self.space is not None and self.head.middle is not None:
            begin(self.head.middle, encoders[self.key], self.space)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        pooled = encoders[self.key](self.views(batch, least=1)[0]).pooled
        labels = self.known.of(batch)[:, 0]
        losses, counted, correct = labelled(self.head.scores(pooled), labels, self.present(batch))
        logs = {"correct": correct.nanmean()}
        return Loss(dist.mean(losses, counted), logs, {self.key: pooled.detach()}, {"correct": correct})

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(Views(1, image=[Crop(), Flip()]), Finetune)
