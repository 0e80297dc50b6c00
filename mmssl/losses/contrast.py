"""The one way to score queries against keys: which keys there are, which are positive, and which do not count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mmssl import dist
from mmssl.losses.tiles import LogSums, Pairs, Softplus, Sum, precise, tiled


@dataclass(frozen=True, eq=False)
class Contrast:
    """Queries and the keys that each is compared with, by dot product over the temperature; losses take it whole.

    Losses read sums over the keys, made a tile at a time, so that the scores (B, N) are never held at once.

    queries: (..., B, D), of unit length where cosine is meant, as are all keys.
    keys: (..., N, D), compared with every query: those of a batch, a queue, a memory bank, prototypes.
    scale: 1 / temperature.
    positives: (..., B) the number of each query's positive key, or (..., B, N) bool where there may be several; by
        default key i is query i's, and where there are own keys none is.
    labels: (..., B) of the queries and (..., N) of the keys, in place of positives: of the same label is positive.
    own: (B, D), or (B, P, D) for several, positive keys that no other query is compared with; or (B, P) int, the
        numbers of keys. Each is told from the other keys, but not from a query's further own ones.
    keep: (N,) or (..., B, N) bool, the keys that count; by default all.
    exclude: (B,) the number of a key that does not count for this query, such as the query itself.
    bf16: whether queries and keys are rounded to bfloat16 to be multiplied, for speed on a GPU; sums stay float32.
    """

    queries: Tensor
    keys: Tensor
    scale: Tensor | float = 1.0
    positives: Tensor | None = None
    labels: tuple[Tensor, Tensor] | None = None
    own: Tensor | None = None
    keep: Tensor | None = None
    exclude: Tensor | None = None
    bf16: bool = False

    @property
    def targets(self) -> Tensor:
        """The numbers of the positive keys (..., B), also where they are the default."""
        rows = self.queries.shape[-2]
        return torch.arange(rows, device=self.queries.device) if self.positives is None else self.positives

    @property
    def many(self) -> bool:
        """Whether positives are given by a mask or by labels, so that a query may have any number of them."""
        return self.labels is not None or (self.positives is not None and self.positives.dtype == torch.bool)

    @property
    def counting(self) -> Tensor | None:
        """Which queries' positives (..., B), given by number, are among the keys that count; None for all."""
        if self.keep is None or self.own is not None:
            return None
        targets = self.targets
        return self.keep[targets] if self.keep.ndim == 1 else self.keep.gather(-1, targets[..., None])[..., 0]

    @cached_property
    def log_sums(self) -> LogSummed:
        """Sums over each query's keys, for InfoNCE and its kin."""
        return self._log_sums(columns=False)

    @cached_property
    def log_sums_both_ways(self) -> LogSummed:
        """Sums over each query's keys and, from the same products, over each key's queries, those of this process."""
        return self._log_sums(columns=True)

    def _log_sums(self, *, columns: bool) -> LogSummed:
        queries, keys = _grouped(self.queries, 2), _grouped(self.keys, 2)
        pairs = self._pairs(self.counting if columns else None)
        how = LogSums(queries, keys, pairs, columns=columns)
        others, other_way, positive, linear, own = self._tiled(how, pairs, queries, keys)
        lead = self.queries.shape[:-1]
        own = self._own_scores() if pairs.own is None else own.view(*lead, own.shape[-1])
        known, best = None, own.detach().amax(-1) if how.positive is None else how.positive.peak.view(lead)
        if how.positive is not None:
            known = Positives(*(x.view(lead) for x in (positive, linear, how.count)))
        correct = best > how.rows.peak.view(lead)
        return LogSummed(others.view(lead), own, other_way.view(*lead[:-1], -1) if columns else None, known, correct)

    def softplus_sums(self, bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Returns sums of log(1 + exp(score + bias)) over other keys (..., B), and own keys' score + bias (..., B, P).

        Of positives given by a mask or by labels the negative score is taken.
        """
        queries, keys, pairs = _grouped(self.queries, 2), _grouped(self.keys, 2), self._pairs()
        sums, own = self._tiled(Softplus(queries, pairs), pairs, queries, keys, bias)
        lead = self.queries.shape[:-1]
        return sums.view(lead), self._own_scores() + bias if pairs.own is None else own.view(*lead, own.shape[-1])

    def correct(self) -> Tensor:
        """Returns whether a positive key has a higher score than all others (..., B) bool."""
        counting, correct = None if self.many else self.counting, self.log_sums.correct
        return correct if counting is None else correct & counting

    def _tiled(
        self, how: Sum, pairs: Pairs, queries: Tensor, keys: Tensor, bias: Tensor | float | None = None
    ) -> tuple[Tensor, ...]:
        return tiled(how, pairs, queries, keys, scale=self.scale, bias=bias, bf16=self.bf16)

    def _pairs(self, asking: Tensor | None = None) -> Pairs:
        """Tells the keys of the tiles' groups; positives by number are own ones."""
        own = self.own
        if own is None and not self.many:
            own = self.targets[..., None]
        positive: Tensor | tuple[Tensor, Tensor] | None = None
        if self.labels is not None:
            positive = _grouped(self.labels[0], 1), _grouped(self.labels[1], 1)
        elif self.many and self.positives is not None:
            positive = _grouped(self.positives, 2)
        keep = self.keep
        return Pairs(
            own=None if own is None or own.is_floating_point() else _grouped(own, 2),
            exclude=None if self.exclude is None else _grouped(self.exclude[..., None], 2),
            keep=None if keep is None else _grouped(keep[None] if keep.ndim == 1 else keep, 2),
            asking=None if asking is None else _grouped(asking[..., None], 2),
            positive=positive,
        )

    def _own_scores(self) -> Tensor:
        """Scores (B, P) of own keys that are given as such."""
        if self.own is None or not self.own.is_floating_point():
            return self.queries.new_zeros(*self.queries.shape[:-1], 0, dtype=precise(self.queries))
        own, dtype = self.own if self.own.ndim == 3 else self.own[:, None], precise(self.queries)
        return self.scale * (self.queries.to(dtype)[:, None] * own.to(dtype)).sum(dim=2)


def _grouped(x: Tensor, last: int) -> Tensor:
    """Makes one of all dimensions but these last ones."""
    return x.flatten(0, -last - 1) if x.ndim > last else x[None]


class Positives(NamedTuple):
    """Sums over positive keys that count (..., B): logarithm of that of exp(score), plain sum of scores, how many."""

    log_sum: Tensor
    scores: Tensor
    number: Tensor


class LogSummed(NamedTuple):
    """Logarithms of sums of exp(score) over keys that are not positive, and what belongs to those that are.

    others: (..., B) over keys that are neither own nor positive.
    own: (..., B, P) scores of own keys, or of the positive by number.
    other_way: (..., N) of each key over the queries that count and that it is not own to; None where not asked for.
    positive: sums over positives given by a mask or labels.
    correct: (..., B) bool, whether the best of the positives has a higher score than all others.
    """

    others: Tensor
    own: Tensor
    other_way: Tensor | None
    positive: Positives | None
    correct: Tensor


class Gathered(NamedTuple):
    """Rows (world B, ...) of every process; own (B,), the numbers of this one's; keep (world B,) bool."""

    rows: Tensor
    own: Tensor
    keep: Tensor | None


def gathered(rows: Tensor, present: Tensor | None = None) -> Gathered:
    """Returns the rows (B, ...) of every process, in the order of ranks, with their gradient where they have one.

    present: (B,) bool, which of this process's rows count.
    """
    own = torch.arange(len(rows), device=rows.device) + dist.rank() * len(rows)
    keep = None if present is None else dist.gather(present)
    return Gathered(dist.gather_with_grad(rows.float()), own, keep)


def in_batch(queries: Tensor, keys: Tensor, *, scale: Tensor | float, present: Tensor | None = None) -> Contrast:
    """Compares queries (B, D) with the keys (B, D) of all processes' samples, of which key i is query i's positive.

    Asked both ways it is CLIP's loss (Radford et al., ICML 2021), and MoCo v3's (Chen et al., ICCV 2021).

    scale: 1 / temperature.
    present: (B,) bool, samples that count; by default all.
    """
    everywhere = gathered(keys, present)
    return Contrast(queries, everywhere.rows, scale, positives=everywhere.own, keep=everywhere.keep)
