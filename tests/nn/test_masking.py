"""Masks, the draws behind them, and the codes of places, against loops and against lightly's."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.draws import _unit, draws
from mmssl.nn.masking import block_mask, blockwise_mask, pick, random_mask, token_encoder
from mmssl.nn.positions import sincos

SEEDS = torch.randint(2**31, (400,), generator=torch.Generator().manual_seed(0))


def test_draws_are_even_and_independent() -> None:
    found = draws(SEEDS, 10, 30)
    assert found.shape == (400, 10, 30) and found.min() > 0 and found.max() < 1
    counts = torch.histc(found, 20, 0, 1) / found.numel()
    assert (counts - 0.05).abs().max() < 2e-3  # 0.05 / sqrt(6000) is one standard deviation of a count
    for x in (found.flatten(1), found.flatten(1).T):
        assert (torch.corrcoef(x) - torch.eye(len(x))).abs().max() < 0.35
    near = draws(torch.arange(400), 300)  # neighbouring seeds are no closer
    assert (torch.corrcoef(near) - torch.eye(400)).abs().max() < 0.35


def test_draws_never_reach_the_ends() -> None:
    ends = _unit(torch.tensor([0, 2**32 - 1]))
    assert 0 < ends[0] < ends[1] < 1


def test_draws_belong_to_the_sample_not_to_its_batch() -> None:
    torch.testing.assert_close(draws(SEEDS, 7)[[5, 2]], draws(SEEDS[[5, 2]], 7), rtol=0, atol=0)
    assert draws(SEEDS, 7).unique().numel() > 2790


def test_random_masks_hide_equally_many_anywhere() -> None:
    mask, seen = random_mask(SEEDS, (14, 14), ratio=0.75)
    assert mask.sum(1).eq(147).all() and seen.shape == (400, 49)
    assert not mask.gather(1, seen).any() and seen.diff(dim=1).gt(0).all()
    assert (mask.float().mean(0) - 0.75).abs().max() < 0.1  # five standard deviations
    tokens = torch.arange(196.0)[None, :, None].expand(400, -1, 2)
    torch.testing.assert_close(pick(tokens, seen)[..., 1].long(), seen)


def test_tubes_run_through_all_frames() -> None:
    mask, seen = random_mask(SEEDS, (8, 14, 14), ratio=0.9, tube=True)
    frames = mask.view(400, 8, 196)
    assert frames.sum(2).eq(176).all() and frames.eq(frames[:, :1]).all()
    assert seen.shape == (400, 160) and not mask.gather(1, seen).any()
    with pytest.raises(UserError, match=r"these tokens lie on the grid \(14, 14\); set mask: random"):
        random_mask(SEEDS, (14, 14), ratio=0.9, tube=True)


@pytest.mark.parametrize(
    "grid, block, hidden", [((12, 12), (2, 2), 22), ((2, 4, 5), (1, 2, 2), 8), ((4, 4), (1, 1), 10)]
)
def test_block_masks_hide_whole_blocks(grid: tuple[int, ...], block: tuple[int, ...], hidden: int) -> None:
    mask = block_mask(SEEDS, grid, ratio=0.6, block=block).view(400, *grid)
    corners = mask[(slice(None), *(slice(None, None, side) for side in block))]
    assert corners.flatten(1).sum(1).eq(hidden).all()
    again = corners
    for axis, side in enumerate(block, start=1):
        again = again.repeat_interleave(side, axis).narrow(axis, 0, grid[axis - 1])
    assert again.equal(mask)


def test_masks_that_hide_nothing_or_all_are_refused() -> None:
    for call in (
        lambda: random_mask(SEEDS, (2, 2), ratio=0.99),
        lambda: block_mask(SEEDS, (2, 2), ratio=0.5, block=(2, 2)),
        lambda: blockwise_mask(SEEDS, (2, 2), ratio=0.1),
    ):
        with pytest.raises(UserError, match=r"parts of the grid \(2, 2\); change the ratio"):
            call()


def grown(height: int, width: int, wanted: int, least: int) -> Tensor:
    """Places rectangles one after the other until ten in a row do not fit, as the paper's algorithm does."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    tries = 0
    while mask.sum() < wanted and tries < 10:
        tries += 1
        left = wanted - int(mask.sum())
        area, ratio = random.uniform(least, left), math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if high < height and wide < width:
            top, side = random.randint(0, height - high), random.randint(0, width - wide)
            new = mask.clone()
            new[top : top + high, side : side + wide] = True
            if 0 < new.sum() - mask.sum() <= left:
                mask, tries = new, 0
    return mask


@pytest.mark.parametrize("grid, least", [((14, 14), 16), ((8, 8), 4)])
def test_blockwise_masks_are_like_those_of_the_loop(grid: tuple[int, int], least: int) -> None:
    random.seed(0)
    wanted = round(0.4 * math.prod(grid))
    ours = blockwise_mask(SEEDS, grid, ratio=0.4, least=least).view(400, *grid)
    loop = torch.stack([grown(*grid, wanted, least) for _ in range(400)])
    assert ours.flatten(1).sum(1).le(wanted).all()

    def figures(mask: Tensor) -> list[Tensor]:
        x = mask.float()
        same = [(x.diff(dim=axis) == 0).float().mean() for axis in (1, 2)]  # how often neighbours share their fate
        return [x.mean(), x[:, 1:-1, 1:-1].mean(), *same]

    for mine, theirs in zip(figures(ours), figures(loop), strict=True):
        assert abs(mine - theirs) < 0.02, (figures(ours), figures(loop))


def test_places_are_those_of_mae() -> None:
    utils = pytest.importorskip("lightly.models.utils")
    theirs = torch.as_tensor(utils.get_2d_sine_cosine_positional_embedding(64, 7, False)).float()
    torch.testing.assert_close(sincos(64, (7, 7)), theirs)


def test_places_in_space_and_time_tell_every_cell_apart() -> None:
    codes = sincos(32, (3, 4, 5))
    assert codes.shape == (60, 32)
    assert torch.cdist(codes, codes).add(torch.eye(60) * 9).min() > 0.1
    by_cell = codes.view(3, 4, 5, 32)
    torch.testing.assert_close(by_cell[0, ..., :16], sincos(16, (4, 5)).view(4, 5, 16))
    torch.testing.assert_close(by_cell[:, 1, 2, 16:], sincos(16, (3,)))
    with pytest.raises(UserError, match="a grid of 3 axes need a width that 8 divides; found 12"):
        sincos(12, (2, 2, 2))


def test_only_encoders_with_tokens_are_masked() -> None:
    vit = {"name": "vit", "in_channels": 1, "image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
    assert token_encoder(create_encoder("spectrogram", backbone=vit)).cell == (8, 8)
    with pytest.raises(UserError, match="'pointnet' gives none to hide; choose vit"):
        token_encoder(create_encoder("pointnet"))
    with pytest.raises(UserError, match="spectrogram.backbone 'convnet' has no tokens to mask; choose one such as vit"):
        token_encoder(create_encoder("spectrogram"))
    with pytest.raises(UserError, match="a masked method drops some; leave it out"):
        token_encoder(create_encoder("spectrogram", backbone=vit, temporal=1))
