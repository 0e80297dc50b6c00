"""GraphCL on graphs of one's own making: a modality, its encoder, and two views. You et al., NeurIPS 2020."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.errors import DamagedError
from mmssl.methods.simclr import SimCLR
from mmssl.types import Encoder, Features, Method, Preprocess, Ragged, Sample, View


@dataclass
class Graph:
    """One graph: x (N, F) of its nodes, edges (2, E) between them."""

    x: Tensor
    edges: Tensor


class Graphs:
    """A batch of graphs: their nodes packed, and edges between packed nodes."""

    def __init__(self, nodes: Ragged, edges: Tensor) -> None:
        self.nodes, self.edges = nodes, edges

    @staticmethod
    def of(graphs: Sequence[Graph]) -> Graphs:
        nodes = Ragged.pack([graph.x for graph in graphs])
        edges = [graph.edges + start for graph, start in zip(graphs, nodes.starts, strict=True)]
        return Graphs(nodes, torch.cat(edges, dim=1))

    def __len__(self) -> int:
        return len(self.nodes)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Graphs:
        return Graphs(
            self.nodes.to(device, non_blocking=non_blocking), self.edges.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> Graphs:
        return Graphs(self.nodes.pin_memory(), self.edges.pin_memory())


@dataclass
class GraphPreprocess(Preprocess):
    """Takes arrays, or what JSON says, of `x` and `edges`; a sample without a graph is one of no node."""

    modality: ClassVar[str] = "graph"
    features: int = 2

    def __call__(self, raw: Any) -> Graph:
        x, edges = np.asarray(raw["x"], dtype=np.float32), np.asarray(raw["edges"], dtype=np.int64)
        if edges.size and edges.max() >= len(x):
            raise DamagedError("a graph with an edge to nowhere")
        return Graph(torch.from_numpy(x), torch.from_numpy(edges.reshape(2, -1)))

    def collate(self, items: Sequence[Graph]) -> Any:
        return Graphs.of(items)

    def blank(self) -> Graph:
        return Graph(torch.zeros(0, self.features), torch.zeros(2, 0, dtype=torch.long))


class GIN(Encoder):
    """Sums over neighbours, and a layer, several times; the mean over the nodes. Xu et al., ICLR 2019."""

    modality = "graph"

    def __init__(self, *, width: int = 16, depth: int = 2, features: int = 2) -> None:
        super().__init__()
        self.dim, self.preprocess = width, GraphPreprocess(features)
        self.layers = nn.ModuleList(nn.Linear(width if number else features, width) for number in range(depth))

    def forward(self, x: Any) -> Features:
        nodes, edges = self.packed(x)
        tokens = nodes.values
        for layer in self.layers:
            tokens = layer(tokens.index_add(0, edges[1], tokens[edges[0]])).relu()
        sums = tokens.new_zeros(len(nodes), self.dim).index_add(0, nodes.sample, tokens)
        return Features(sums / nodes.lengths.clamp(min=1)[:, None], tokens, lengths=nodes.lengths)

    def packed(self, x: Any) -> tuple[Ragged, Tensor]:
        """Returns the nodes of a batch and its edges."""
        return x.nodes, x.edges


class Dropped(View):
    """Shows each graph twice, without some of its nodes."""

    def __init__(self, preprocess: Any, *, drop: float = 0.2) -> None:
        super().__init__(preprocess)
        self.drop, self.shows = drop, {"graph": 2}

    def __call__(self, sample: Sample) -> Sample:
        graph = self.preprocess["graph"](sample["graph"])
        return {"graph": [self.dropped(graph) for _ in range(2)]}

    def dropped(self, graph: Any) -> Any:
        keep = torch.rand(len(graph.x)) >= self.drop
        keep[torch.randint(len(keep), ())] = True
        return Graph(graph.x[keep], among(graph.edges, keep))


def among(edges: Tensor, keep: Tensor) -> Tensor:
    """Returns the edges (2, E') between nodes that are kept (N,) bool, which are numbered anew."""
    return (keep.cumsum(0) - 1)[edges[:, keep[edges].all(0)]]


encoder = GIN
method = Method(Dropped, SimCLR)
