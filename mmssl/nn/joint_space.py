"""One embedding for several modalities: a head for each, and the pairs that are to match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError, did_you_mean
from mmssl.nn.head import Projection
from mmssl.types import Batch, Encoder, Spaces


@dataclass(slots=True)
class Pair:
    """Two modalities of the local samples against those of every process, one direction.

    queries (B, D), keys (world B, D); positives (B,) the key of each query; valid (B,), keep (world B,) bool:
    samples that have both modalities.
    """

    name: str
    queries: Tensor
    keys: Tensor
    positives: Tensor
    valid: Tensor
    keep: Tensor


class JointSpace(nn.Module):
    """Projects each modality into one space and lays out the pairs, in both directions, over all processes."""

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int,
        hidden: Sequence[int],
        pairs: Sequence[tuple[str, str]] | None,
    ) -> None:
        super().__init__()
        self.pairs = [tuple(pair) for pair in pairs or combinations(encoders, 2)]
        self.modalities = tuple(dict.fromkeys(name for pair in self.pairs for name in pair))
        for name in self.modalities:
            if name not in encoders:
                raise UserError(f"pairs names {name!r}, but there is no such encoder; {did_you_mean(name, encoders)}")
        if not self.pairs:
            raise UserError(f"a joint space needs two modalities, but the only encoder is {', '.join(encoders)}")
        self.heads = nn.ModuleDict(
            {name: Projection(encoders[name].dim, out=embed_dim, hidden=tuple(hidden)) for name in self.modalities}
        )

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> dict[str, Tensor]:
        """Returns modality -> normalised embeddings (B, D) of the batch's first view."""
        return {name: self.heads[name](encoders[name](batch.views[name][0])) for name in self.modalities}

    def spaces(self) -> Spaces:
        """Returns modality -> head."""
        return cast("Spaces", dict(self.heads.items()))

    def match(self, embeddings: Mapping[str, Tensor], batch: Batch, *, both: bool = True) -> Iterator[Pair]:
        """Yields every pair of modalities, in both directions or in the one that it is written in."""
        rows = len(next(iter(embeddings.values())))
        device = next(iter(embeddings.values())).device
        positives = torch.arange(rows, device=device) + dist.rank() * rows
        everywhere = {name: dist.gather_with_grad(x.float()) for name, x in embeddings.items()}
        for a, b in self.pairs:
            valid = _present(batch, a, rows, device) & _present(batch, b, rows, device)
            keep = dist.gather(valid)
            for query, key in ((a, b), (b, a))[: 1 + both]:
                yield Pair(f"{query}-{key}", embeddings[query], everywhere[key], positives, valid, keep)


def _present(batch: Batch, name: str, rows: int, device: torch.device) -> Tensor:
    given = batch.extra.get(f"{name}_present")
    return torch.ones(rows, dtype=torch.bool, device=device) if given is None else given
