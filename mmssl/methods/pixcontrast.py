"""PixContrast: each cell finds the teacher's cells of the same place among all of the other crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mmssl.losses.cells import cell_contrast
from mmssl.objectives.cell_pairs import CellPairs
from mmssl.types import Encoder, Method
from mmssl.views import byol


class PixContrast(CellPairs):
    """InfoNCE of each cell with the teacher's of the same place, against the other cells of the other crop.

    Xie et al., CVPR 2021 (in the paper of PixPro), eq. 2; checked against the formula, for the authors' code has none.

    embed_dim: size of a cell's projection.
    hidden: widths of the projection's hidden layers, and of the instances' predictor.
    temperature: of the softmax.
    radius: the most that the centres of cells which match lie apart, in diagonals of the larger cell.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    instance: weight of the loss of whole crops.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (2048,),
        temperature: float = 0.3,
        radius: float = 0.7,
        momentum: float = 0.99,
        instance: float = 0.0,
        encoder: str | None = None,
    ) -> None:
        options = {"radius": radius, "momentum": momentum, "instance": instance}
        super().__init__(encoders, embed_dim=embed_dim, hidden=hidden, encoder=encoder, **options)
        self.temperature = temperature

    def cost(self, mine: Tensor, taught: Tensor, near: Tensor) -> Tensor:
        return cell_contrast(mine, taught, near, temperature=self.temperature)


method = Method(byol.view, PixContrast)
