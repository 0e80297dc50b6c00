"""Clips with masks and key points: their frames, sizes and shares, and every way in which they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl import limits
from mmssl.errors import DamagedError
from mmssl.evals.parts.annotated import ASPECT, VOID, annotated
from mmssl.modalities.video import Frames

FPS = 4


def clip(frames: int = 6, height: int = 12, width: int = 16) -> Frames:
    draw = np.random.default_rng(0)
    return Frames(draw.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), FPS)


def of(**fields: Any) -> dict[str, Any]:
    return {"video": clip(), **fields}


def masks(frames: int = 6, height: int = 12, width: int = 16) -> dict[str, Any]:
    return {"masks": np.random.default_rng(1).integers(0, 4, (frames, height, width), dtype=np.uint8)}


def test_void_is_that_of_davis() -> None:
    assert (VOID, ASPECT) == (255, 0.03)


def test_frames_are_one_for_each_annotation() -> None:
    found = annotated(of(masks=masks()), size=12)
    assert found.frames.dtype == torch.uint8
    assert torch.equal(found.frames, torch.from_numpy(clip().pictures).movedim(-1, 1))
    assert found.masks is not None and found.masks.dtype == torch.long
    assert (found.masks.numpy() == masks()["masks"]).all()
    assert found.tracks is None and found.visible is None
    slower = annotated(of(masks=masks(3), meta={"fps": 2}), size=12)
    assert torch.equal(slower.frames, found.frames[[1, 3, 5]]), "each from the middle of its time"
    assert len(annotated(of(masks=masks(12), meta={"fps": 8}), size=12).frames) == 12
    for meta in (None, {}, {"fps": None}, "x"):
        assert len(annotated(of(masks=masks(), meta=meta), size=12).frames) == 6


@pytest.mark.parametrize(("size", "square", "shape"), [(6, False, (6, 8)), (6, True, (6, 6)), (24, False, (24, 32))])
def test_frames_are_scaled_to_the_shorter_side_or_both(size: int, square: bool, shape: tuple[int, int]) -> None:
    made = of(masks=masks())
    whole = torch.from_numpy(clip().pictures).movedim(-1, 1).float()
    expected = F.interpolate(whole, size=shape, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    found = annotated(made, size=size, square=square)
    assert torch.equal(found.frames, expected)
    assert found.masks is not None and found.masks.shape == (6, 12, 16), "masks stay as they are"
    upright = annotated({"video": clip(6, 16, 12), "masks": masks(6, 16, 12)}, size=6)
    assert upright.frames.shape[2:] == (8, 6)
    assert annotated({"video": clip(6, 10, 15), "masks": masks(6, 10, 15)}, size=5).frames.shape[2:] == (5, 8)


def test_tracks_are_shares_of_the_sides_and_seen_where_they_are_finite() -> None:
    tracks = np.random.default_rng(2).uniform(0, 12, (6, 3, 2))
    tracks[2, 1] = np.nan
    tracks[3, 0, 1] = np.inf
    visible = np.ones((6, 3), np.uint8)
    visible[4, 2] = 0
    found = annotated(of(tracks={"tracks": tracks, "visible": visible}), size=6)
    assert found.tracks is not None and found.visible is not None and found.masks is None
    np.testing.assert_allclose(found.tracks, tracks / (16, 12), rtol=1e-5)
    seen = visible.astype(bool)
    seen[2, 1] = seen[3, 0] = False
    assert (found.visible.numpy() == seen).all()
    alone = annotated(of(tracks={"tracks": tracks}), size=6).visible
    assert alone is not None and int(alone.sum()) == 16


@pytest.mark.parametrize("count", [5, 7])
def test_a_length_that_is_off_by_a_frame_is_forgiven(count: int) -> None:
    assert len(annotated(of(masks=masks(count)), size=12).frames) == count


@pytest.mark.parametrize("count", [4, 8])
def test_a_length_that_is_off_by_more_is_damaged(count: int) -> None:
    with pytest.raises(DamagedError, match="annotations of another length than the clip"):
        annotated(of(masks=masks(count)), size=12)


@pytest.mark.parametrize(("height", "width", "fits"), [(24, 32, True), (100, 136, True), (100, 138, False)])
def test_masks_have_the_shape_of_the_frames_whatever_their_size(height: int, width: int, fits: bool) -> None:
    for turned in (False, True):  # 136 / 100 is 2% more than 16 / 12, 138 / 100 is 3.5% more
        h, w = (height, width) if not turned else (round(height * 1.02), width) if fits else (height + 6, width - 5)
        made = of(masks=masks(6, h, w))
        if fits:
            found = annotated(made, size=12)
            assert found.masks is not None and found.masks.shape == (6, h, w)
        else:
            with pytest.raises(DamagedError, match="masks of another shape than the frames"):
                annotated(made, size=12)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "without masks or tracks"),
        ({"masks": {}}, "without masks or tracks"),
        ({"masks": {"masks": np.zeros((6, 12), np.uint8)}}, "masks that are not"),
        ({"masks": {"masks": np.zeros((6, 12, 16), np.float32)}}, "whole numbers"),
        ({"masks": {"masks": np.zeros((6, 0, 16), np.uint8)}}, "masks that are not"),
        ({"tracks": {"tracks": np.zeros((6, 3))}}, r"tracks that are not \(T, K, 2\)"),
        ({"tracks": {"tracks": np.zeros((6, 3, 3))}}, r"tracks that are not \(T, K, 2\)"),
        ({"masks": masks(2)}, "fewer than three"),
        ({"masks": masks(), "tracks": {"tracks": np.zeros((5, 1, 2))}}, "several lengths"),
        ({"tracks": {"tracks": np.zeros((6, 1, 2)), "visible": np.ones((5, 1))}}, "several lengths"),
    ],
)
def test_what_does_not_fit_is_damaged(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(DamagedError, match=told):
        annotated(of(**fields), size=12)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_three_frames_of_whole_numbers_are_enough(kind: Any) -> None:
    made = {"video": clip(3), "masks": {"masks": np.ones((3, 12, 16), kind)}}
    assert len(annotated(made, size=12).frames) == 3


def test_what_would_not_be_held_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of pixels scaled to 224 on its shorter side; and masks, frames and scaled frames by the option."""
    line = Frames(np.zeros((6, 1, 60000, 3), dtype=np.uint8), FPS)
    with pytest.raises(DamagedError, match="limit is picture_side=65536.*picture_side=13440000"):
        annotated({"video": line, "masks": masks(6, 1, 60000)}, size=224)
    tracks = {"tracks": np.zeros((6, 1, 2))}
    cases = [
        (masks(), 12, 6 * 12 * 16),
        (masks(), 24, 6 * 24 * 32),
        (tracks, 24, 6 * 24 * 32),
        (tracks, 6, 6 * 12 * 16),
    ]
    for given, size, pixels in cases:
        sample = of(**({"masks": given} if "masks" in given else {"tracks": given}))
        monkeypatch.setenv(limits.VARIABLE, f"clip_pixels={pixels - 1}")
        with pytest.raises(DamagedError, match=f"limit is clip_pixels={pixels - 1};"):
            annotated(sample, size=size)
        monkeypatch.setenv(limits.VARIABLE, f"clip_pixels={pixels}")
        assert len(annotated(sample, size=size).frames) == 6


def test_many_masks_of_one_picture_are_left_out() -> None:
    """At 1,000,000 frames a second the clip's second and a half would be shown so often."""
    many = {"masks": np.zeros((1_500_000, 1, 1), dtype=np.uint8)}
    with pytest.raises(DamagedError, match="clip_pixels"):
        annotated({"video": clip(), "masks": many, "meta": {"fps": 10**6}}, size=12)
