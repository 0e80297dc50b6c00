"""Heads from an encoder's features to a task's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.mlp import mlp
from mmssl.types import Features, Head


class Projection(Head):
    """Projects pooled features to an embedding (B, out) of unit length; `project` leaves the length as it is.

    out: size of the embedding; None only normalises.
    hidden: sizes of hidden layers; none is the linear projection of CLIP (Radford et al., ICML 2021), some an MLP
        with ReLU.
    norm: BatchNorm after each hidden layer.
    last_norm: after the last one as well, with `affine` its own scale and shift.
    gelu: GELU in place of ReLU.
    dropout: in front of every linear layer.
    """

    def __init__(
        self,
        dim: int,
        *,
        out: int | None = 512,
        hidden: Sequence[int] = (),
        norm: bool = True,
        bias: bool = False,
        last_norm: bool = False,
        affine: bool = True,
        gelu: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._config: dict[str, Any] = {"dim": dim, "out": out, "hidden": list(hidden), "norm": norm, "bias": bias}
        self._config |= {"last_norm": last_norm, "affine": affine, "gelu": gelu, "dropout": dropout}
        self.embed_dim = dim if out is None else out
        if out is None and hidden:
            raise UserError("a head without an output size has no hidden layers either; give out")
        sizes = (dim, *hidden, out) if out is not None else ()
        options = {"norm": norm, "bias": bias, "last_norm": last_norm, "affine": affine, "gelu": gelu}
        self.layers = mlp(sizes, **options, dropout=dropout) if sizes else nn.Sequential()

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this head again."""
        return dict(self._config)

    def project(self, pooled: Tensor) -> Tensor:
        """Returns what the layers make of pooled features (B, D), float32, not normalised."""
        projected: Tensor = self.layers(pooled)
        return projected.float()

    def forward(self, features: Features) -> Tensor:
        return F.normalize(self.project(features.pooled), dim=-1)


class Middle(Head):
    """The first hidden layer of a Projection with norm, behind its ReLU: (B, out) of unit length.

    What a deep projection makes of features there serves other tasks better than they do, or its end.
    Chen et al., NeurIPS 2020 (SimCLR v2).
    """

    def __init__(self, dim: int, *, out: int) -> None:
        super().__init__()
        self._config = {"dim": dim, "out": out}
        self.layers = mlp((dim, out, out))[:3]

    @classmethod
    def of(cls, head: Projection) -> Middle:
        """Returns the middle of a head, whose layers it shares."""
        config = head.config()
        if not config["hidden"] or not config["norm"]:
            raise UserError("a head without hidden layers, or without norm, has no middle; give hidden")
        middle = cls(config["dim"], out=config["hidden"][0])
        middle.layers = head.layers[:3]
        return middle

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this head again."""
        return dict(self._config)

    def forward(self, features: Features) -> Tensor:
        return F.normalize(self.layers(features.pooled).float(), dim=-1)


class Rectified(Head):
    """A linear layer behind a ReLU: (B, out) of unit length, none of its numbers below 0.

    dim: numbers that it reads.
    dropout: in front of it.
    cells: it reads all cells of a map, each in its place, and not pooled features.
    """

    def __init__(self, dim: int, *, out: int, dropout: float = 0.0, cells: bool = False) -> None:
        super().__init__()
        self._config = {"dim": dim, "out": out, "dropout": dropout, "cells": cells}
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, out), nn.ReLU())
        self.cells = cells

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this head again."""
        return dict(self._config)

    def forward(self, features: Features) -> Tensor:
        seen = tokens_of(features).flatten(1) if self.cells else features.pooled
        return F.normalize(self.layers(seen).float(), dim=-1)


class Classes(Head):
    """A linear classifier of pooled features, or of what a projection's first hidden layer makes of them, (B, classes).

    classes: how many.
    hidden: width of that layer, which is `middle`; 0 for none.
    """

    def __init__(self, dim: int, *, classes: int, hidden: int = 0) -> None:
        super().__init__()
        self._config = {"dim": dim, "classes": classes, "hidden": hidden}
        self.middle = Middle(dim, out=hidden) if hidden else None
        self.linear = nn.Linear(hidden or dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this head again."""
        return dict(self._config)

    def scores(self, pooled: Tensor) -> Tensor:
        """Returns the logits (B, classes) of pooled features (B, D), float32."""
        seen = pooled if self.middle is None else self.middle.layers(pooled)
        logits: Tensor = self.linear(seen)
        return logits.float()

    def forward(self, features: Features) -> Tensor:
        return F.normalize(self.scores(features.pooled), dim=-1)


class Leading(Head):
    """The first `out` numbers of the pooled features, to unit length: (B, out). Jing et al., ICLR 2022."""

    def __init__(self, dim: int, *, out: int) -> None:
        super().__init__()
        if not 0 < out <= dim:
            raise UserError(f"the head takes {out} of {dim} numbers; expected 1 to {dim}")
        self.dim, self.out = dim, out

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this head again."""
        return {"dim": self.dim, "out": self.out}

    def forward(self, features: Features) -> Tensor:
        return F.normalize(features.pooled[:, : self.out].float(), dim=-1)


class Cells(Projection):
    """Projects every token to unit length: (B, N, out), or (sum N, out) where tokens are packed.

    coordinates: append where each token lies on its grid, -1 to 1 across and down. The rest as Projection has it.
    Raises UserError for an encoder that gives no tokens, or no grid where coordinates are wanted.
    """

    def __init__(
        self,
        dim: int,
        *,
        out: int | None = 64,
        hidden: Sequence[int] = (),
        norm: bool = True,
        bias: bool = False,
        coordinates: bool = False,
        gelu: bool = False,
    ) -> None:
        super().__init__(dim + 2 * coordinates, out=out, hidden=hidden, norm=norm, bias=bias, gelu=gelu)
        self.coordinates = coordinates
        self._config |= {"dim": dim, "coordinates": coordinates}
        for name in ("last_norm", "affine", "dropout"):
            del self._config[name]

    def project_tokens(self, features: Features) -> Tensor:
        """Returns what the layers make of every token, float32, not normalised."""
        tokens = tokens_of(features)
        if self.coordinates:
            tokens = append_coordinates(tokens, grid_of(features))
        projected: Tensor = self.layers(tokens.flatten(0, -2)).float()
        return projected.view(*tokens.shape[:-1], -1)

    def forward(self, features: Features) -> Tensor:
        return F.normalize(self.project_tokens(features), dim=-1)


def append_coordinates(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Appends to tokens (B, N, D) their places on the grid (..., H, W): x and y from -1 to 1; (B, N, D + 2)."""
    height, width = grid[-2:]
    down, across = (
        (torch.arange(n, device=tokens.device, dtype=tokens.dtype) + 0.5) * 2 / n - 1 for n in (height, width)
    )
    plane = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], dim=-1)
    frames = tokens.shape[1] // (height * width)
    return torch.cat([tokens, plane.flatten(0, 1).repeat(frames, 1).expand(len(tokens), -1, -1)], dim=-1)


def tokens_of(features: Features) -> Tensor:
    """Returns the tokens; UserError for an encoder that gives none."""
    if features.tokens is None:
        raise UserError(
            "the task looks at tokens, but this encoder gives none; choose one with tokens, such as convnet"
        )
    return features.tokens


def grid_of(features: Features) -> tuple[int, ...]:
    """Returns the grid that the tokens lie on; UserError where they lie on none."""
    if features.grid is None:
        raise UserError("the task looks at cells, but this encoder's tokens lie on no grid; choose one such as convnet")
    return features.grid


class Dilated(Head):
    """Relates cells over space and time: five dilated 3D convolutions, then a linear layer to unit length, (B, N, out).

    Each is a 3x3 convolution over a frame, wider from layer to layer, and one over three frames; the cells' places
    are appended first. Cells of single images count as a clip of one frame. Vondrick et al., ECCV 2018.
    width: channels.
    dilations: of each layer.
    """

    def __init__(
        self, dim: int, *, out: int = 64, width: int = 256, dilations: Sequence[int] = (1, 2, 4, 8, 16)
    ) -> None:
        super().__init__()
        self._config = {"dim": dim, "out": out, "width": width, "dilations": list(dilations)}
        layers: list[nn.Module] = []
        for inputs, step in zip((dim + 2, *[width] * (len(dilations) - 1)), dilations, strict=True):
            layers += [
                nn.Conv3d(inputs, width, (1, 3, 3), padding=(0, step, step), dilation=(1, step, step), bias=False),
                nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv3d(width, out, 1))

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this head again."""
        return dict(self._config)

    def forward(self, features: Features) -> Tensor:
        grid = grid_of(features)
        tokens = append_coordinates(tokens_of(features), grid)
        volume = tokens.mT.unflatten(2, (-1, *grid[-2:]))  # (B, D + 2, T, H, W)
        return F.normalize(self.layers(volume).float().flatten(2).mT, dim=-1)


def similarity_map(seen: Features, embedding: Tensor, head: Head) -> Tensor:
    """Returns the products of each cell's embedding with one embedding (B, D): (B, H, W), or (B, T, H, W) of a film."""
    cells, grid = embed_cells(seen, head)
    return torch.einsum("bnd,bd->bn", cells, embedding).unflatten(1, grid)


def embed_cells(seen: Features, head: Head | None = None) -> tuple[Tensor, tuple[int, ...]]:
    """Returns every cell's embedding (B, N, D), without a head the tokens themselves, and the grid.

    A head for whole images takes every cell for an image of its own; one for tokens embeds them as it does.
    UserError for features without cells.
    """
    if seen.tokens is None or seen.grid is None:
        raise UserError("there is no map without cells, and this encoder gives none; choose one such as convnet")
    cells = seen.tokens if head is None else head(seen)
    if head is not None and cells.ndim == 2:
        cells = head(Features(seen.tokens.flatten(0, 1))).unflatten(0, seen.tokens.shape[:2])
    return cells, seen.grid
