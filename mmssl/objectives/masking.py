"""Masks: which tokens of a grid are hidden, drawn on the device for the whole batch, of each sample's own seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.numerics.seeded_random import draws
from mmssl.types import Encoder, Patches, Reconstruction, TokenEncoder

ROUNDS = 40  # of blocks; by then masks that grow block by block have stopped growing


def token_encoder(encoder: Encoder) -> TokenEncoder:
    """Returns an encoder whose tokens can be masked; UserError for another."""
    if not isinstance(encoder, TokenEncoder):
        found = encoder.name or type(encoder).__name__
        raise UserError(
            f"the method hides tokens before the encoder runs, and {found!r} gives none to hide; "
            "choose vit for images, video_vit for videos, or spectrogram with vit as its backbone"
        )
    _ = encoder.cell
    return encoder


def random_mask(seeds: Tensor, grid: Sequence[int], *, ratio: float, tube: bool = False) -> tuple[Tensor, Tensor]:
    """Hides a share of the cells of a grid, equally many in every sample. He et al., CVPR 2022.

    tube: the same cells in all frames of a grid (T, H, W), so that nothing can be copied from a moment before. Tong et
    al., NeurIPS 2022. Returns (B, N) bool, true where hidden, and the places of those that are seen (B, n), ascending.
    """
    if tube and len(grid) != 3:
        raise UserError(f"tubes run through frames, and these tokens lie on the grid {tuple(grid)}; set mask: random")
    frames = grid[0] if tube else 1
    cells = prod(grid) // frames
    mask = _hidden(seeds, cells, round(cells * ratio), grid).repeat(1, frames)
    return mask, mask.byte().argsort(dim=1, stable=True)[:, : frames * (cells - round(cells * ratio))]


def block_mask(seeds: Tensor, grid: Sequence[int], *, ratio: float, block: Sequence[int]) -> Tensor:
    """Hides a share of the blocks of this many cells that a grid divides into: (B, N) bool. Xie et al., CVPR 2022."""
    coarse = [math.ceil(cells / side) for cells, side in zip(grid, block, strict=True)]
    mask = _hidden(seeds, prod(coarse), math.ceil(prod(coarse) * ratio), grid).view(-1, *coarse)
    for axis, (cells, side) in enumerate(zip(grid, block, strict=True), start=1):
        mask = mask.repeat_interleave(side, dim=axis).narrow(axis, 0, cells)
    return mask.flatten(1)


def blockwise_mask(seeds: Tensor, grid: Sequence[int], *, ratio: float, least: int = 16, aspect: float = 0.3) -> Tensor:
    """Hides rectangles of random size, shape and place until the share is reached, and never more: (B, N) bool.

    least: cells of a rectangle, unless fewer are left to hide.
    aspect: its least height over width, and the other way.
    Bao et al., ICLR 2022.
    """
    height, width = grid
    wanted = round(height * width * ratio)
    _check(wanted, height * width, grid)
    mask = torch.zeros(len(seeds), height, width, dtype=torch.bool, device=seeds.device)
    rows, columns = (torch.arange(n, device=seeds.device) for n in (height, width))
    for size, shape, down, across in draws(seeds, ROUNDS, 4).permute(1, 2, 0):  # each (B,)
        left = wanted - mask.sum(dim=(1, 2))
        area = least + size * (left - least)
        ratios = torch.exp((2 * shape - 1) * -math.log(aspect))
        high, wide = (area * ratios).sqrt().round(), (area / ratios).sqrt().round()
        top, side = (down * (height - high + 1)).floor(), (across * (width - wide + 1)).floor()
        block = _within(rows, top, high)[:, :, None] & _within(columns, side, wide)[:, None]
        new = (block & ~mask).sum(dim=(1, 2))
        fits = (high < height) & (wide < width) & (new > 0) & (new <= left)
        mask |= block & fits[:, None, None]
    return mask.flatten(1)


def first_hidden(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Returns the places of hidden tokens, and which of them are hidden: both (B, most), for masks (B, N) of no more.

    So the work is of one size, however many each mask hides.
    """
    places = mask.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, mask.gather(1, places)


def pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Returns the tokens (B, n, D) at places (B, n), of tokens (B, N, D)."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def reconstruction(encoder: TokenEncoder, patches: Patches, mask: Tensor, predicted: Tensor) -> Reconstruction:
    """Puts patches (B, N, P) together: with the hidden ones of mask (B, N) left out, predicted, and as they are."""
    hidden = mask[:, :, None]
    seen, drawn = patches.values.masked_fill(hidden, 0), torch.where(hidden, predicted, patches.values)
    return Reconstruction(*(encoder.joined(Patches(each, patches.grid)) for each in (seen, drawn, patches.values)))


def _hidden(seeds: Tensor, cells: int, hidden: int, grid: Sequence[int]) -> Tensor:
    """Hides this many of the cells, (B, cells) bool."""
    _check(hidden, cells, grid)
    return draws(seeds, cells).argsort(dim=1).argsort(dim=1) < hidden


def _check(hidden: int, cells: int, grid: Sequence[int]) -> None:
    if not 0 < hidden < cells:
        raise UserError(f"the mask would hide {hidden} of {cells} parts of the grid {tuple(grid)}; change the ratio")


def _within(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Returns which places (L,) lie in each sample's stretch, (B, L)."""
    return (places >= start[:, None]) & (places < (start + length)[:, None])
