"""The one way to score queries against keys: which keys there are, which are positive, and which do not count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmssl import dist
from mmssl.numerics.missing import MISSING

HELD = 2**25  # logits held at a time by `chunked`; beyond, they are computed again for the gradient


@dataclass(frozen=True, eq=False)
class Contrast:
    """Queries and the keys that each is compared with, by dot product over the temperature; losses take it whole.

    queries: (..., B, D), of unit length where cosine is meant, as are all keys.
    keys: (..., N, D), compared with every query: those of a batch, a queue, a memory bank, prototypes.
    scale: 1 / temperature.
    positives: (B,) the number of each query's positive key, or (..., B, N) bool where there may be several; by default
        key i is query i's, and where there are own keys none is.
    own: (B, D), or (B, P, D) for several, positive keys that no other query is compared with; or (B, P) int, the
        numbers of keys. Each is told from the other keys, but not from a query's further own ones.
    keep: (N,) or (..., B, N) bool, the keys that count; by default all.
    exclude: (B,) the number of a key that does not count for this query, such as the query itself.
    """

    queries: Tensor
    keys: Tensor
    scale: Tensor | float = 1.0
    positives: Tensor | None = None
    own: Tensor | None = None
    keep: Tensor | None = None
    exclude: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """Scores of the keys (..., B, N), float32; MISSING where one does not count, or is an own one."""
        return self._scored[0]

    @property
    def own_logits(self) -> Tensor:
        """Scores of the own keys (B, P), float32."""
        return self._scored[1]

    @cached_property
    def _scored(self) -> tuple[Tensor, Tensor]:
        logits, own = scores(self.queries, self.keys, self.scale), self.own
        if own is None:
            own_logits = logits.new_zeros(len(logits), 0)
        elif not own.is_floating_point():
            own_logits = logits.gather(1, own)
            logits = logits.scatter(1, own, MISSING)  # not in place, for the line above keeps them
        elif own.ndim == 3:
            own_logits = scores(self.queries[:, None], own, self.scale)[:, 0]
        else:  # one each: faster than by `scores`
            own_logits = self.scale * (self.queries.float() * own.float()).sum(dim=1, keepdim=True)
        if self.keep is not None:
            logits = logits.masked_fill_(~self.keep, MISSING)
        if self.exclude is not None:
            logits = logits.scatter_(1, self.exclude[:, None], MISSING)
        return logits, own_logits

    @property
    def targets(self) -> Tensor:
        """The positives, also where they are the default: (B,) numbers or (..., B, N) bool."""
        return torch.arange(len(self.queries), device=self.queries.device) if self.positives is None else self.positives

    @cached_property
    def matches(self) -> Tensor:
        """Which keys are positive and count (..., B, N) bool."""
        chosen = self.targets
        if chosen.dtype != torch.bool:
            chosen = torch.zeros_like(self.logits, dtype=torch.bool).scatter_(1, chosen[:, None], True)
        return chosen if self.keep is None and self.exclude is None else chosen & (self.logits.detach() > MISSING)

    def correct(self) -> Tensor:
        """Returns whether a positive key has the highest score of all (B,) bool."""
        logits = self.logits.detach()  # kept with its gradient, for the loss
        if self.own is not None:
            return self.own_logits.detach().amax(dim=1) > logits.amax(dim=1)
        nearest, targets = logits.argmax(dim=1), self.targets
        return self.matches.gather(1, nearest[:, None])[:, 0] if targets.dtype == torch.bool else nearest == targets


def scores(queries: Tensor, keys: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Returns scale q.k of queries (..., B, D) and keys (..., N, D), float32 under autocast too: (..., B, N).

    Scores of all losses come from here: a faster kernel has this one place, and those who read Contrast.logits.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return (scale * queries.float()) @ keys.float().mT  # the scale first, which is less to multiply


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


def chunked(part: Callable[..., Tensor], *rows: Tensor, keys: int) -> Tensor:
    """Joins what `part` makes of rows (B, N, ...), so few at a time that at most HELD logits are held at once.

    keys: how many each row is compared with.
    """
    size = max(1, HELD // (len(rows[0]) * keys))
    if size >= rows[0].shape[1]:
        return part(*rows)
    parts = zip(*(x.split(size, dim=1) for x in rows), strict=True)
    return torch.cat([checkpoint(part, *each, use_reentrant=False) for each in parts], dim=1)
