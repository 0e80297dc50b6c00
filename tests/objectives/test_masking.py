"""Masks, the draws behind them, and the codes of places, against loops and against lightly's."""

from __future__ import annotations

import inspect
import math
import random

import pytest
import torch
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.positions import sincos
from mmssl.numerics.seeded_random import _unit, draws
from mmssl.objectives.masking import block_mask, blockwise_mask, pick, random_mask, token_encoder
from mmssl.types import Encoder

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


@pytest.mark.parametrize("ratio, hidden", [(0.4, 2), (0.45, 3), (0.1, 1), (0.9, 5)])
def test_the_share_that_is_hidden_is_rounded(ratio: float, hidden: int) -> None:
    mask, seen = random_mask(SEEDS[:50], (2, 3), ratio=ratio)
    assert mask.sum(1).eq(hidden).all() and mask.shape == (50, 6) and seen.shape == (50, 6 - hidden)
    for row, places in zip(mask, seen, strict=True):
        assert places.tolist() == [place for place in range(6) if not row[place]]
    mask, seen = random_mask(SEEDS[:50], (5, 2, 3), ratio=ratio, tube=True)
    assert mask.sum(1).eq(5 * hidden).all() and mask.view(50, 5, 6).eq(mask[:, None, :6]).all()
    for row, places in zip(mask, seen, strict=True):
        assert places.tolist() == [place for place in range(30) if not row[place]]
    mask, _ = random_mask(SEEDS[:50], (5, 2, 3), ratio=0.5)
    assert mask.sum(1).eq(15).all() and not mask.view(50, 5, 6).eq(mask[:, None, :6]).all()


def test_masks_that_hide_nothing_or_all_are_refused() -> None:
    """Whatever hides one part, or all but one, is allowed."""
    for call in (
        lambda: random_mask(SEEDS, (2, 2), ratio=0.99),
        lambda: random_mask(SEEDS, (2, 2), ratio=0.01),
        lambda: block_mask(SEEDS, (2, 2), ratio=0.5, block=(2, 2)),
        lambda: block_mask(SEEDS, (2, 2), ratio=0.0, block=(1, 1)),
        lambda: blockwise_mask(SEEDS, (2, 2), ratio=0.1),
        lambda: blockwise_mask(SEEDS, (2, 2), ratio=0.99),
    ):
        with pytest.raises(
            UserError, match=r"the mask would hide [014] of [14] parts of the grid \(2, 2\); change the"
        ):
            call()
    for ratio, hidden in ((0.25, 1), (0.75, 3)):
        assert random_mask(SEEDS, (2, 2), ratio=ratio)[0].sum(1).eq(hidden).all()
        assert block_mask(SEEDS, (2, 2), ratio=ratio, block=(1, 1)).sum(1).eq(hidden).all()
        blockwise_mask(SEEDS, (2, 2), ratio=ratio, least=1)


def test_tokens_are_picked_at_their_places() -> None:
    tokens, places = torch.randn(2, 5, 3), torch.tensor([[4, 0, 1], [2, 2, 3]])
    expected = torch.stack([torch.stack([tokens[i, p] for p in places[i]]) for i in range(2)])
    assert pick(tokens, places).equal(expected)


@pytest.mark.parametrize("grid, least, aspect", [((6, 11), 3, 0.3), ((9, 5), 5, 0.6), ((8, 8), 4, 0.2)])
def test_blockwise_masks_are_those_of_the_papers_loop(grid: tuple[int, int], least: int, aspect: float) -> None:
    """Each rectangle's area, shape and place from four draws, as masking_generator.py of BEiT has them in a loop."""
    (height, width), seeds = grid, SEEDS[:60]
    masks = blockwise_mask(seeds, grid, ratio=0.45, least=least, aspect=aspect).view(-1, *grid)
    wanted, differ = round(0.45 * height * width), 0
    for found, drawn in zip(masks, draws(seeds, 40, 4).tolist(), strict=True):
        mask = [[False] * width for _ in range(height)]
        for size, shape, down, across in drawn:
            left = wanted - sum(map(sum, mask))
            area = least + size * (left - least)
            log_ratio = math.log(aspect) + shape * (math.log(1 / aspect) - math.log(aspect))
            high = round(math.sqrt(area * math.exp(log_ratio)))
            wide = round(math.sqrt(area / math.exp(log_ratio)))
            if high >= height or wide >= width:
                continue
            top, side = int(down * (height - high + 1)), int(across * (width - wide + 1))
            new = [(i, j) for i in range(top, top + high) for j in range(side, side + wide) if not mask[i][j]]
            if len(new) <= left:
                for i, j in new:
                    mask[i][j] = True
        differ += found.tolist() != mask
    assert differ <= 1, "but for how processors round"


def test_defaults_are_the_papers() -> None:
    """BEiT's min_num_patches and min_aspect; without least, rectangles of 16."""
    defaults = {"least": 16, "aspect": 0.3}
    parameters = inspect.signature(blockwise_mask).parameters
    assert {name: parameters[name].default for name in defaults} == defaults
    assert inspect.signature(random_mask).parameters["tube"].default is False


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


def test_places_on_a_line_are_those_of_the_transformer() -> None:
    """Vaswani et al., NeurIPS 2017: sines and cosines of place / 10000^(2i / D), here the sines first."""
    found = sincos(6, (5,))
    for place in range(5):
        angles = [place / 10000 ** (2 * i / 6) for i in range(3)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(found[place], torch.tensor(expected))
    assert found.dtype == torch.float32


def test_places_of_a_picture_tell_the_column_then_the_row() -> None:
    found = sincos(8, (2, 3)).view(2, 3, 8)
    for row in range(2):
        for column in range(3):
            expected = torch.cat([sincos(4, (3,))[column], sincos(4, (2,))[row]])
            torch.testing.assert_close(found[row, column], expected)


@pytest.mark.parametrize("grid, least", [((3,), 2), ((2, 3), 4), ((2, 3, 4), 8)])
def test_the_width_is_divided_among_the_axes(grid: tuple[int, ...], least: int) -> None:
    for width in (least, 3 * least):
        assert sincos(width, grid).shape == (math.prod(grid), width)
    for width in (least - 1, least + least // 2):
        with pytest.raises(UserError, match=f"of {len(grid)} axes need a width that {least} divides; found {width}"):
            sincos(width, grid)


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
    nameless = type("Own", (Encoder,), {})()
    with pytest.raises(UserError, match="'Own' gives none to hide; choose vit"):
        token_encoder(nameless)
    vit = {"name": "vit", "in_channels": 1, "image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
    assert token_encoder(create_encoder("spectrogram", backbone=vit)).cell == (8, 8)
    with pytest.raises(UserError, match="'pointnet' gives none to hide; choose vit"):
        token_encoder(create_encoder("pointnet"))
    with pytest.raises(UserError, match="spectrogram.backbone 'convnet' has no tokens to mask; choose one such as vit"):
        token_encoder(create_encoder("spectrogram"))
    with pytest.raises(UserError, match="a masked method drops some; leave it out"):
        token_encoder(create_encoder("spectrogram", backbone=vit, temporal=1))
