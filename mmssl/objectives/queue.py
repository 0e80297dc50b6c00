"""A queue of embeddings: the negatives that a batch is too small to hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.objectives.accumulated import Accumulated


class Queue(nn.Module):
    """Holds the last `size` embeddings (size, dim) of all processes, random directions before that.

    He et al., CVPR 2020 (MoCo).
    """

    rows: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"the queue's size is {size}; expected at least 1")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))  # where the oldest stands
        self.noted = Accumulated()

    def note(self, new: Tensor, present: Tensor | None = None) -> None:
        """Keeps new embeddings (n, dim), in training, until `write`; of all, those that are present (n,) bool."""
        self.noted.add(new, new.new_ones(len(new), dtype=torch.bool) if present is None else present)

    def write(self) -> None:
        """Puts what all processes noted in place of the oldest."""
        noted = self.noted.take()
        if noted:
            self.push(*noted)

    @torch.no_grad()
    def push(self, new: Tensor, present: Tensor) -> None:
        """Puts every process's new embeddings (n, dim) that are present (n,) bool in place of the oldest.

        How many there are stays on the device: absent ones, sorted to the front, write what stood there already.
        """
        everywhere, there = dist.gather(new), dist.gather(present)
        kept = there.byte().argsort(stable=True)[-len(self.rows) :]
        there = there[kept][:, None]
        places = (self.place + torch.arange(len(kept), device=new.device) - (~there).sum()) % len(self.rows)
        self.rows[places] = torch.where(there, everywhere[kept].to(self.rows.dtype), self.rows[places])
        self.place.copy_((self.place + there.sum()) % len(self.rows))
