"""One row for each training sample: a memory bank of embeddings, or weights that are learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.objectives.accumulated import Accumulated


class SampleRows(nn.Module):
    """Rows (n, dim), one for each training sample: n is known once `reserve`, or weights that are loaded, tell it.

    learnt: whether they are a parameter.
    """

    rows: Tensor

    def __init__(self, dim: int, *, learnt: bool = True) -> None:
        super().__init__()
        empty = torch.empty(0, dim)
        if learnt:
            self.rows = nn.Parameter(empty)
        else:
            self.register_buffer("rows", empty)

    def reserve(self, samples: int | None) -> None:
        """Makes a random row for each of the training set's samples; UserError where they are not counted."""
        self.rows.data = torch.randn(counted(samples), self.rows.shape[1], device=self.rows.device) * 0.01

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None and not len(self.rows):
            self.rows.data = self.rows.data.new_empty(len(saved), self.rows.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *rest)


def reserve(objective: nn.Module, samples: int | None) -> None:
    """Makes all the rows that an objective keeps of a training set of this many samples; None: they are not counted."""
    for module in objective.modules():
        if isinstance(module, SampleRows):
            module.reserve(samples)


def counted(samples: int | None) -> int:
    """Returns how many training samples there are; UserError where they are not counted."""
    if not samples:
        raise UserError(
            "the method keeps a row for each training sample, but these shards are not counted; "
            "use shards with an index.json, as `mmssl shards build` writes them"
        )
    return samples


class Scores(NamedTuple):
    """What `nce` takes: queries against their own rows and noise, the normaliser's logarithm, and how many samples."""

    contrast: Contrast
    log_z: Tensor
    samples: int


class Bank(SampleRows):
    """Remembers of every training sample the embedding of unit length that it had when it was last seen.

    momentum: how much of the old row stays. Wu et al., CVPR 2018.
    """

    log_z: Tensor
    writes: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.5) -> None:
        super().__init__(dim, learnt=False)
        self.momentum = momentum
        self.register_buffer("log_z", torch.tensor(torch.inf))  # infinite until a batch tells
        self.register_buffer("writes", torch.zeros((), dtype=torch.long))
        self.noted = Accumulated()

    def reserve(self, samples: int | None) -> None:
        super().reserve(samples)
        self.rows.data = F.normalize(self.rows, dim=1)

    def note(self, index: Tensor, new: Tensor, present: Tensor) -> None:
        """Keeps embeddings (B, dim) of the samples index (B,) that are present, in training, until `write`."""
        self.noted.add(index[present], new[present])

    @torch.no_grad()
    def write(self) -> None:
        """Moves the rows of what was noted, in all processes, towards it; of a sample noted twice the last counts."""
        noted = self.noted.take()
        if not noted:
            return
        index, new = (dist.gather(rows) for rows in noted)
        seen, place = index.unique(return_inverse=True)
        order = torch.arange(len(index), device=index.device)
        last = torch.zeros_like(seen).scatter_reduce_(0, place, order, "amax")
        moved = self.momentum * self.rows[seen] + (1 - self.momentum) * new[last].to(self.rows.dtype)
        self.rows[seen] = F.normalize(moved, dim=1)
        self.writes += 1

    def scores(self, queries: Tensor, index: Tensor, *, noise: int, temperature: float, present: Tensor) -> Scores:
        """Compares queries (B, dim) with their samples' rows and with `noise` random rows, one draw for all processes.

        The normaliser is estimated on the first batch, from the queries that are present, and stays as it is.
        """
        drawn = torch.Generator().manual_seed(int(self.writes))  # the same on every process
        others = self.rows[torch.randint(len(self.rows), (noise,), generator=drawn).to(self.rows.device)]
        contrast = Contrast(queries, others, 1 / temperature, own=self.rows[index])
        return Scores(contrast, self._log_z(contrast, present), len(self.rows))

    def _log_z(self, contrast: Contrast, present: Tensor) -> Tensor:
        """Returns the logarithm of the normaliser: n times the mean of exp(score), of the first batch's noise."""
        if not self.log_z.isinf():
            return self.log_z.clone()
        sums = contrast.log_sums.others.detach().double().exp()[present]
        count, total = dist.total(torch.stack([present.sum(), sums.sum()]))
        if not count:
            return torch.zeros_like(self.log_z)
        found = (total / (count * len(contrast.keys))).log() + math.log(len(self.rows))
        if self.training:
            self.log_z.copy_(found)
        return found.to(self.log_z.dtype)
