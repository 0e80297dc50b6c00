"""Distillation with unlabelled data: SimCLR v2's third step, from a fine-tuned teacher into any network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.labels import labelled, soft_cross_entropy
from mmssl.nn.head import Classes
from mmssl.objectives.few_labels import FewLabels, begin
from mmssl.objectives.taught import Taught
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Spaces
from mmssl.views.template import Views


class Distill(Taught):
    """Cross-entropy of the student's classes with those that a frozen, fine-tuned teacher gives to the same view.

    Chen et al., NeurIPS 2020 (SimCLR v2); Hinton et al., 2015. The student is a classifier on the features of any
    encoder. train.start.image_teacher says in which run of `finetune` the teacher, listed as image_teacher or as the
    learner's key and _teacher, was trained. The loss is alpha x the mean over all samples of the distillation
    loss and (1 - alpha) x that of the cross-entropy with the class, which is 0 where the class is not known.

    encoder: key of the student.
    classes: how many there are.
    temperature: of both softmaxes; the paper has 1 for a smaller student, and 0.1 for one like the teacher.
    alpha: weight of the distillation; below 1 the few labels are learnt from as well.
    label: the sample's key that holds the class; it is not read with alpha 1.
    fraction: of the training set, the same of every class and at least one sample, whose class is known.
    seed: of which samples these are.
    space: name of the task that trained the teacher's classifier.
    hidden: width of the layer below the teacher's classifier, as of `finetune`: by default that of its features.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        encoder: str = "image",
        classes: int = 1000,
        temperature: float = 1.0,
        alpha: float = 1.0,
        label: str = "label",
        fraction: float = 0.01,
        seed: int = 0,
        space: str = "finetune",
        hidden: int | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if temperature <= 0 or not 0 <= alpha <= 1:
            raise UserError(f"temperature is {temperature} and alpha {alpha}; expected above 0, and from 0 to 1")
        self.temperature, self.alpha, self.space = temperature, alpha, space
        self.head = Classes(encoders[encoder].dim, classes=classes)
        dim = encoders[self.teacher].dim
        self.teacher_head = Classes(dim, classes=classes, hidden=dim if hidden is None else hidden)
        self.teacher_head.requires_grad_(False).eval()
        self.known = FewLabels(classes=classes, label=label, fraction=fraction, seed=seed)

    def choose(self, labels: Callable[[str], Mapping[int, int]]) -> None:
        if self.alpha < 1:
            self.known.learn(labels)

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        if epoch.number == 0:
            begin(self.teacher_head, encoders[self.teacher], self.space)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = batch.present(self.key) & batch.present(self.teacher)
        taught = self._taught(encoders[self.teacher], batch)
        pooled = encoders[self.key](batch.views[self.key][0]).pooled
        scores = self.head.scores(pooled)
        losses, counted, correct = labelled(scores, self.known.of(batch)[:, 0], present)
        apart = soft_cross_entropy(scores, taught, temperature=self.temperature)
        total = dist.mean(self.alpha * apart + (1 - self.alpha) * losses.where(counted, 0.0), present)
        agreed = (scores.argmax(dim=1) == taught.argmax(dim=1)).float().masked_fill(~present, torch.nan)
        logs = {"agreement": agreed.nanmean(), **({"correct": correct.nanmean()} if self.alpha < 1 else {})}
        return Loss(total, logs, {self.key: pooled.detach()}, {"correct": agreed})

    @torch.no_grad()
    def _taught(self, teacher: Encoder, batch: Batch) -> Tensor:
        """Returns the teacher's logits (B, classes)."""
        return self.teacher_head.scores(teacher(batch.views[self.teacher][0]).pooled)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(Views(1, image=[Crop(), Flip()]), Distill)
