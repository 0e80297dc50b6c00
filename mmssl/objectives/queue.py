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

    def note(self, new: Tensor) -> None:
        """Keeps new embeddings (n, dim), in training, until `write`."""
        self.noted.add(new)

    def write(self) -> None:
        """Puts what all processes noted in place of the oldest."""
        for new in self.noted.take():
            self.push(new)

    @torch.no_grad()
    def push(self, new: Tensor) -> None:
        """Puts every process's new embeddings (n, dim), n of any size, in place of the oldest."""
        everywhere = dist.gather(new)[-len(self.rows) :]
        places = (self.place + torch.arange(len(everywhere), device=new.device)) % len(self.rows)
        self.rows[places] = everywhere.to(self.rows.dtype)
        self.place.copy_((self.place + len(everywhere)) % len(self.rows))
