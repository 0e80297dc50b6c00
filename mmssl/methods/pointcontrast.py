"""PointContrast: find each point of a scan in another scan of the same scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmssl import dist
from mmssl.losses.contrast import Contrast
from mmssl.losses.hardest import hardest_negative, is_known, positive_margin
from mmssl.losses.infonce import info_nce
from mmssl.losses.tiles import nearest
from mmssl.nn.head import Cells
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Ragged, Spaces
from mmssl.views import cloud_pair


class PointContrast(Objective):
    """Matches the points of two clouds by their features, against the points of the whole batch on all processes.

    Up to the limits of queries, positives and candidates all are used; beyond, as many at random. Xie et al., ECCV
    2020.

    embed_dim: size of a point's embedding.
    loss: info_nce asks each matched point of the first cloud for one of its matches among those of the others; hardest
        pulls matches within a margin together, and pushes each point's nearest candidate, known matches aside, beyond
        one.
    temperature: of info_nce: 0.07 is the authors' default, 0.4 that of their launch scripts.
    queries: matched points of info_nce, of a process.
    positives: matches of hardest, per sample of a process.
    candidates: for the nearest wrong point of hardest, per sample of a process.
    positive_margin: squared distance up to which a match costs nothing.
    negative_margin: distance from which a wrong point costs nothing.
    """

    modalities = ("points",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 32,
        loss: Literal["info_nce", "hardest"] = "info_nce",
        temperature: float = 0.07,
        queries: int = 4096,
        positives: int = 1024,
        candidates: int = 256,
        positive_margin: float = 0.1,
        negative_margin: float = 1.4,
    ) -> None:
        super().__init__(encoders)
        self.head = Cells(encoders["points"].dim, out=embed_dim)
        self.loss, self.temperature, self.queries = loss, temperature, queries
        self.positives, self.candidates = positives, candidates
        self.positive_margin, self.negative_margin = positive_margin, negative_margin

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        first, second = batch.views["points"]
        both = Ragged.cat([first, second])  # one pass costs less than two
        embedded = self.head(encoders["points"](both))
        a, b = embedded.split([len(first.values), len(second.values)])  # (sum N, D), (sum N', D)
        pairs = packed_pairs(batch)
        picked = one_each(pairs, limit=self.queries)
        losses = self._info_nce(a, b, picked) if self.loss == "info_nce" else self._hardest(a, b, pairs, batch)
        logs = {f"loss_{name}": x.detach() for name, x in losses.items()} if len(losses) > 1 else {}
        correct = answers(a, b, picked, pairs, first.sample, len(first))
        embeddings = {"points": a.detach()[picked[:, 0]]}
        return Loss(torch.stack(list(losses.values())).sum(), logs, embeddings, {"correct": correct})

    def _info_nce(self, a: Tensor, b: Tensor, picked: Tensor) -> dict[str, Tensor]:
        queries = a[picked[:, 0]]
        keys, start = dist.gather_rows(b[picked[:, 1]])
        own = torch.arange(len(queries), device=a.device) + start
        values = info_nce(Contrast(queries, keys, 1 / self.temperature, positives=own))
        return {"info_nce": dist.mean(values, torch.ones_like(values))}

    def _hardest(self, a: Tensor, b: Tensor, pairs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The mean over positives, and half the mean over the counting negatives of either direction."""
        clouds = len(batch.extra["matches"])
        chosen = at_most(pairs, self.positives * clouds)
        pull = positive_margin(a[chosen[:, 0]], b[chosen[:, 1]], margin=self.positive_margin)
        losses = {"positive": dist.mean(pull, torch.ones_like(pull)), "negative": a.new_zeros(())}
        for queries, keys, view in ((a, b, 1), (b, a, 0)):
            there = batch.present("points")[batch.views["points"][view].sample]
            number = at_most(there.nonzero()[:, 0], self.candidates * clouds)
            candidates, start = dist.gather_rows(keys[number])
            candidate_id = number.new_full((len(candidates),), -1)  # another process's points match none of this one's
            candidate_id[start : start + len(number)] = number
            push, counts = hardest_negative(
                queries[chosen[:, 1 - view]],
                candidates,
                query_id=chosen[:, 1 - view],
                candidate_id=candidate_id,
                known=pairs if view else pairs.flip(1),
                margin=self.negative_margin,
            )
            losses["negative"] = losses["negative"] + dist.mean(push, counts) / 2
        return losses

    def spaces(self) -> Spaces:
        return {"points": self.head}


def packed_pairs(batch: Batch) -> Tensor:
    """Returns the rows (K, 2) of the packed clouds that match, of the samples that have points."""
    matches = batch.extra["matches"]  # (B, M, 2)
    shift = torch.stack([view.starts for view in batch.views["points"]], dim=1)  # (B, 2)
    there = (matches[..., 0] >= 0) & batch.present("points")[:, None]
    return (matches + shift[:, None])[there]


def at_most(rows: Tensor, limit: int) -> Tensor:
    """Returns all rows, or this many at random and in random order."""
    return rows if len(rows) <= limit else rows[torch.randperm(len(rows), device=rows.device)[:limit]]


def one_each(pairs: Tensor, *, limit: int) -> Tensor:
    """Returns the first match of each query, for the view orders them at random; at most this many queries."""
    queries, place = pairs[:, 0].unique(return_inverse=True)
    order = torch.arange(len(pairs), device=pairs.device)
    first = order.new_full((len(queries),), len(pairs)).scatter_reduce(0, place, order, "amin")
    return at_most(pairs[first], limit)


@torch.no_grad()
def answers(a: Tensor, b: Tensor, picked: Tensor, pairs: Tensor, sample: Tensor, samples: int) -> Tensor:
    """Returns for what share of a sample's queries the nearest of all keys here is a match; NaN without any, (B,)."""
    if not len(picked):
        return a.new_full((samples,), torch.nan)
    number = nearest(a[picked[:, 0]], b[picked[:, 1]])
    right = is_known(picked[:, 0], picked[number, 1], pairs).to(a.dtype)
    asked = sample[picked[:, 0]]
    return torch.bincount(asked, right, samples) / torch.bincount(asked, minlength=samples)


method = Method(cloud_pair.view, PointContrast)
