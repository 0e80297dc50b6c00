"""Watch and learn: a film's window belongs to one or more of the subtitles around it, however few of these fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmssl import dist
from mmssl.losses.contrast import Contrast, gathered
from mmssl.losses.infonce import mil_nce
from mmssl.numerics.missing import MISSING
from mmssl.objectives.joint_space import JointSpace, inverse_of
from mmssl.objectives.multi_view import pooled_views
from mmssl.types import Batch, Encoder, Features, Loss, Method
from mmssl.views import subtitled


class WatchAndLearn(JointSpace):
    """A window and its subtitles are found among all others, any of the subtitles being enough. Zhong et al., 2020.

    The encoders are listed as video and text. Positives are all subtitles that are shown with a window; negatives are
    the others' subtitles for the window, and the others' windows for its subtitles (Miech et al., CVPR 2020). The
    adversarial module by which the paper tells noise is not here: it was built from the paper's abstract, and neither
    its text nor its code could be had.

    temperature: of the softmax, where the learnt one starts; by default that of the encoders' own two-tower model, else
        0.07.
    max_scale: ceiling of the temperature's inverse; by default 100, or where a pretrained one starts above that.
    """

    modalities = ("video", "text")

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int | None = None,
        hidden: tuple[int, ...] = (),
        temperature: float | None = None,
        max_scale: float | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__(encoders, embed_dim=embed_dim, hidden=hidden, pairs=[self.modalities], bf16=bf16)
        self.scale = self.begin_scale(inverse_of(temperature), default=1 / 0.07, ceiling=max_scale)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        views, present = batch.views["text"], batch.present("video") & batch.present("text")
        seen = self._embed("video", encoders, batch.views["video"][0])  # (B, D)
        pooled = pooled_views(encoders["text"], views, len(present))
        said = torch.stack([self.heads["text"](Features(x)) for x in pooled], dim=1)  # (B, P, D)
        real = present[:, None].expand(-1, len(views))  # (B, P) subtitles that there are
        if "said" in batch.extra:
            real = real & (torch.arange(len(views), device=present.device) < batch.extra["said"][:, None])
        films, lines = gathered(seen, present), gathered(said.flatten(0, 1), real.flatten())
        of_line = torch.arange(len(films.rows), device=present.device).repeat_interleave(len(views))
        scale = self.scale()
        by_film = Contrast(seen, lines.rows, scale, labels=(films.own, of_line), keep=lines.keep, bf16=self.bf16)
        own = films.own.repeat_interleave(len(views))
        by_line = Contrast(said.flatten(0, 1), films.rows, scale, positives=own, keep=films.keep, bf16=self.bf16)
        others = by_line.log_sums.others.view_as(real).masked_fill(~real, MISSING).logsumexp(dim=1)
        total = dist.mean(mil_nce(by_film, others), real.any(dim=1))
        correct = by_film.correct().float().masked_fill(~real.any(dim=1), torch.nan)
        logs = {"temperature": 1 / scale.detach(), "correct": correct.nanmean()}
        nearest: Tensor = said[:, 0]
        return Loss(total, logs, {"video": seen.detach(), "text": nearest.detach()}, {"correct": correct})


method = Method(subtitled.view, WatchAndLearn)
