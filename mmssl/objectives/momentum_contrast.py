"""Contrast with a teacher's embeddings in a queue: what MoCo does, and what methods that build on it do first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast
from mmssl.nn.head import Projection
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.objectives.queue import Queue
from mmssl.objectives.teacher import Teacher
from mmssl.types import Batch, Encoder, Spaces


class MomentumContrast(MultiView):
    """Compares one view's projection with the teacher's of the other, and with those of earlier samples in a queue.

    He et al., CVPR 2020 (MoCo). A method's class says with `depth` how many hidden layers, as wide as the features, its
    projector has where `hidden` is null.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    temperature: of the softmax.
    queue: how many keys of earlier samples are the negatives.
    momentum: of the teacher's moving average.
    """

    compares = 2
    depth: ClassVar[int] = 0

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        temperature: float = 0.07,
        queue: int = 65536,
        momentum: float = 0.999,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        layers = (self.dim,) * self.depth if hidden is None else hidden
        self.head = Projection(self.dim, out=embed_dim, hidden=layers, norm=False, bias=True)
        self.teacher = Teacher(encoders[self.key], self.head)
        self.queue = Queue(queue, embed_dim)
        self.temperature, self.momentum = temperature, momentum

    def contrast(self, encoders: Mapping[str, Encoder], batch: Batch, *, query: int = 0) -> Contrast:
        """Returns one view's embeddings as queries against the queue, the teacher's of the other as own keys.

        Those of samples that are present are noted for the queue. query: which of the first two views asks.
        """
        views, present = self.views(batch), self.present(batch)
        (pooled,) = pooled_views(encoders[self.key], [views[query]], len(present))
        return self.against_queue(pooled, self.taught(views[1 - query], len(present)), present)

    def against_queue(self, pooled: Tensor, keys: Tensor, present: Tensor) -> Contrast:
        """Returns embeddings of pooled features as queries against the queue; notes their own keys (B, D) for it."""
        queries = F.normalize(self.head.project(pooled), dim=1)
        self.queue.note(keys, present)
        return Contrast(queries, self.queue.rows, 1 / self.temperature, own=keys)

    def taught(self, view: Tensor, samples: int) -> Tensor:
        """Returns the teacher's embeddings (B, D) of a view of B samples."""
        return F.normalize(self.teacher([view], samples)[0], dim=1)

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.teacher.follow(encoders[self.key], self.head, decay=self.momentum)
        self.queue.write()

    def spaces(self) -> Spaces:
        return {self.key: self.head}
