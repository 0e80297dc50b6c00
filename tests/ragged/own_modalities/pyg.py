"""The same with the graphs and the batches of PyTorch Geometric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from own_modalities.graphs import GIN, Dropped, GraphPreprocess, among
from torch import Tensor
from torch_geometric.data import Batch, Data

from mmssl.methods.simclr import SimCLR
from mmssl.types import Method, Ragged


@dataclass
class PygPreprocess(GraphPreprocess):
    def __call__(self, raw: Any) -> Data:
        graph = super().__call__(raw)
        return Data(x=graph.x, edge_index=graph.edges)

    def collate(self, items: Sequence[Data]) -> Batch:
        return Batch.from_data_list(list(items))

    def blank(self) -> Data:
        return Data(x=torch.zeros(0, self.features), edge_index=torch.zeros(2, 0, dtype=torch.long))


class PygGIN(GIN):
    def __init__(self, *, width: int = 16, depth: int = 2, features: int = 2) -> None:
        super().__init__(width=width, depth=depth, features=features)
        self.preprocess = PygPreprocess(features)

    def packed(self, x: Batch) -> tuple[Ragged, Tensor]:
        return Ragged(x.x, x.ptr.diff()), x.edge_index


class PygDropped(Dropped):
    def dropped(self, graph: Data) -> Data:
        keep = torch.rand(len(graph.x)) >= self.drop
        keep[torch.randint(len(keep), ())] = True
        return Data(x=graph.x[keep], edge_index=among(graph.edge_index, keep))


encoder = PygGIN
method = Method(PygDropped, SimCLR)
