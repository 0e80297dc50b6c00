"""Values as classes: bins of colour or brightness, soft at their edges, the rare ones weighed up."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.numerics.color import lab
from mmssl.numerics.kmeans import CHUNK, kmeans


class Bins(nn.Module):
    """Bins by their centres (K, C), and what each counts. Zhang et al., ECCV 2016.

    centers: (K, C), zeros where `learn` is to find them.
    neighbors: how many of the nearest bins share a value, by a Gaussian of width sigma.
    """

    centers: Tensor
    weights: Tensor

    def __init__(self, centers: Tensor, *, neighbors: int = 5, sigma: float = 5.0) -> None:
        super().__init__()
        if not 1 <= neighbors <= len(centers) or sigma <= 0:
            raise UserError(f"a value cannot be shared by {neighbors} of {len(centers)} bins with a width of {sigma}")
        self.neighbors, self.sigma = neighbors, sigma
        self.register_buffer("centers", centers.float())
        self.register_buffer("weights", torch.ones(len(centers)))

    @torch.no_grad()
    def learn(self, values: Tensor, *, find: bool, uniform: float) -> None:
        """Finds the centres by k-means if asked to, and weighs bins against how common they are, in values (N, C).

        A bin's weight is 1 / ((1 - uniform) share + uniform / K), scaled to a mean of 1 over what occurs; the shares
        are smoothed over neighbouring bins by the Gaussian.
        """
        if find:
            self.centers.copy_(kmeans(values, len(self.centers)))
        shares = torch.bincount(self.nearest(values), minlength=len(self.centers)).double() / len(values)
        spread = (-torch.cdist(self.centers, self.centers).double().square() / (2 * self.sigma**2)).exp()
        smooth = (spread / spread.sum(dim=0)) @ shares.to(spread.device)
        self.weights.copy_(rarity(smooth, uniform))

    @torch.no_grad()
    def soften(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the nearest bins of values (N, C) and the share of each: (N, neighbors) whole numbers, and floats."""
        bins, shares = [], []
        for part in values.float().split(max(1, CHUNK // len(self.centers))):
            apart = torch.cdist(part, self.centers, compute_mode="donot_use_mm_for_euclid_dist")
            near = apart.topk(self.neighbors, dim=1, largest=False)
            bins.append(near.indices)
            shares.append((-near.values.square() / (2 * self.sigma**2)).softmax(dim=1))
        return torch.cat(bins), torch.cat(shares)

    def nearest(self, values: Tensor) -> Tensor:
        """Returns the nearest bin of each of values (N, C): (N,)."""
        return self.soften(values)[0][:, 0]

    def target(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the nearest bins of values (B, C, H, W), their shares (both B, k, H, W), and weights (B, H, W)."""
        shape = (len(values), *values.shape[2:])
        bins, shares = (x.unflatten(0, shape).movedim(-1, 1) for x in self.soften(_rows(values)))
        return bins, shares, self.weights[bins[:, 0]]

    def numbers(self, values: Tensor) -> Tensor:
        """Returns the nearest bin at every place of values (B, C, H, W): (B, H, W)."""
        return self.nearest(_rows(values)).unflatten(0, (len(values), *values.shape[2:]))

    def annealed_mean(self, logits: Tensor, *, temperature: float = 0.38) -> Tensor:
        """Decodes logits (B, K, H, W): the mean of the centres by their probabilities, sharpened: (B, C, H, W)."""
        return torch.einsum("bkhw,kc->bchw", (logits.float() / temperature).softmax(dim=1), self.centers)


def rarity(shares: Tensor, uniform: float) -> Tensor:
    """Returns what each of K classes counts by its share (K,): 1 / ((1 - uniform) share + uniform / K), of mean 1."""
    weights = 1 / ((1 - uniform) * shares + uniform / len(shares))
    return weights / (shares * weights).sum()


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C)."""
    return x.detach().movedim(1, -1).flatten(0, -2)


def ab_grid(step: int = 10) -> Tensor:
    """Returns the points (K, 2) of a grid on the ab plane, every `step`, whose cells sRGB reaches: 261 every 10.

    (The authors' list has 313, some of whose cells no sRGB colour falls in.)
    """
    level = torch.linspace(0, 1, 86)
    other = torch.cartesian_prod(level, level)
    # The colours of one a and b lie on a line through the cube of sRGB, which ends on the faces: those are enough.
    faces = [torch.cat([torch.full((len(other), 1), end), other], dim=1) for end in (0.0, 1.0)]
    cube = torch.cat([face.roll(axis, dims=1) for face in faces for axis in range(3)])
    return (lab(cube)[:, 1:] / step).round().add(0.0).unique(dim=0) * step  # adding makes 0 of -0


def sampled(parts: Iterable[Tensor], wanted: int) -> Tensor:
    """Draws rows (N, C) from parts until they are `wanted` over all processes, an eighth of them from each part."""
    mine, share = [], -(-wanted // dist.world())
    for part in parts:
        mine.append(part[torch.randperm(len(part), device=part.device)[: share // 8 + 1]])
        if sum(map(len, mine)) >= share:
            break
    return dist.gather(torch.cat(mine)[:share])
