"""A frame and the flow around it: the same part and moment, drawn where it moves; mirrored and backwards as physics has
it."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.errors import DamagedError, LackingError, UserError
from mmssl.modalities.video import Frames
from mmssl.transforms.flow import FlowPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Sample
from mmssl.views.frame_and_flow import view

SIZE, FPS, FRAMES = 48, 10.0, 4
PREPROCESS: dict[str, Any] = {"image": ImagePreprocess(24), "flow": FlowPreprocess(SIZE, frames=FRAMES, fps=FPS)}
WHOLE: dict[str, Any] = {"image": {"crop": {"scale": [1.0, 1.0]}, "flip": {"p": 0.0}}, "time_flip": 0.0}
PLAIN = WHOLE | {"split_channels": False}
NOISE = np.random.default_rng(0).integers(60, 255, (40, 40, 3), dtype=np.uint8)
TEXTURE = np.asarray(Image.fromarray(NOISE).resize((160, 160)))


@pytest.fixture(autouse=True)
def _opencv() -> None:
    pytest.importorskip("cv2")


def film(moving: range, images: int = 15, *, numbered: bool = False) -> Frames:
    """A square of texture on the left that moves 2 pixels to the right after each image of a range, on black.

    numbered: the corner at the top tells an image's number.
    """
    made, left = np.zeros((images, SIZE, SIZE, 3), np.uint8), 2
    for number in range(images):
        made[number, 26:42, left : left + 16] = TEXTURE[:16, :16]
        made[number, :8, :8] = 12 * number * numbered
        left += 2 * (number in moving)
    return Frames(made, FPS)


def shown(clip: Any, preprocess: dict[str, Any] = PREPROCESS, **options: Any) -> Sample:
    return view(preprocess, **options)({"video": clip})


def begin(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def across(sample: Sample) -> list[float]:
    """Motion to the right, in whole pixels, of what moves in each step."""
    moving = [step[step.abs() > 1] for step in sample["flow"][0][0]]
    return [round(float(each.median())) if len(each) > 50 else 0.0 for each in moving]


def number(sample: Sample) -> int:
    return round(float(sample["image"][0][:, 1, 1].float().mean()) / 12)


def test_the_frame_is_that_in_the_middle_of_the_flow() -> None:
    assert view(PREPROCESS).reads == ("video",)
    firsts = set()
    for seed in range(12):
        begin(seed)
        sample = shown(film(range(8, 10), numbered=True), **PLAIN)
        assert sample["image"][0].shape == (3, 24, 24) and sample["flow"][0].shape == (2, FRAMES, SIZE, SIZE)
        first = number(sample) - FRAMES // 2
        assert across(sample) == [2.0 * (image in range(8, 10)) for image in range(first, first + FRAMES)]
        firsts.add(first)
    assert len(firsts) > 4


def test_windows_are_drawn_as_often_as_there_is_motion_in_them_or_evenly() -> None:
    moves = []
    for power in (1.0, 0.0):
        for seed in range(12):
            begin(seed)
            moves.append(any(across(shown(film(range(12, 14)), motion=power, **PLAIN))))
    assert all(moves[:12]), "else nothing moves"
    assert 0 < sum(moves[12:]) < 8


def test_only_a_part_of_a_long_film_is_looked_through() -> None:
    still = 0
    for seed in range(12):
        begin(seed)
        try:
            assert any(across(shown(film(range(12, 14)), search=0.7, **PLAIN)))
        except LackingError:
            still += 1
    assert 0 < still < 12, "0.7 of 1.5 s may have no motion"


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_both_show_the_same_part_and_a_mirrored_film_moves_the_other_way(p: float) -> None:
    """Of a quarter of the image, twice as large, in which everything moves."""
    pan = np.stack([TEXTURE[40 : 40 + SIZE, 60 - 2 * n : 60 - 2 * n + SIZE] for n in range(FRAMES + 1)])
    crop = {"scale": [0.25, 0.25], "ratio": [1.0, 1.0]}
    begin(4)
    sample = shown(Frames(pan, FPS), **PLAIN | {"image": {"crop": crop, "flip": {"p": p}}}, motion=0.0)
    flow = FlowPreprocess(SIZE, frames=FRAMES, fps=FPS, by="raft")
    begin(4)
    images = shown(
        Frames(pan, FPS),
        {**PREPROCESS, "flow": flow},
        **PLAIN | {"image": {"crop": crop, "flip": {"p": p}}},
        motion=0.0,
    )["flow"][0]
    frame = torch.nn.functional.avg_pool2d(images[:, FRAMES // 2].float(), 2)  # what the image shows, at its size
    assert (
        float((frame - sample["image"][0]).abs().mean()) < 4 < float((frame.flip(2) - sample["image"][0]).abs().mean())
    )
    (right, _, left), (_, down, top) = sample["places"]["image"][0].tolist()
    assert (abs(right), down, right < 0) == (24.0, 24.0, p == 1)
    part = pan[FRAMES // 2, round(top) : round(top) + 24, round(min(left, left + right)) :][:, :24]
    shown_part = sample["image"][0].movedim(0, 2).numpy()
    assert np.array_equal(shown_part[:, ::-1] if p else shown_part, part)
    moved = sample["flow"][0][:, :, 12:-12, 12:-12].flatten(2).median(dim=2).values
    expected = torch.tensor([[-4.0 if p else 4.0], [0.0]]).expand(2, FRAMES)
    torch.testing.assert_close(moved, expected, atol=0.4, rtol=0)


def test_a_film_that_runs_backwards_moves_backwards_and_its_frame_is_the_same() -> None:
    made = []
    for time_flip in (0.0, 1.0):
        begin(3)
        made.append(shown(film(range(6, 8)), **PLAIN | {"time_flip": time_flip}))
    assert torch.equal(made[0]["image"][0], made[1]["image"][0])
    assert across(made[1]) == [-step for step in reversed(across(made[0]))] and any(across(made[0]))


def test_the_frame_is_shown_in_one_of_its_channels() -> None:
    channels = set()
    for seed in range(12):
        made = []
        for split in (False, True):
            begin(seed)
            made.append(shown(film(range(15)), **WHOLE, split_channels=split)["image"][0])
        assert torch.equal(made[1][0], made[1][1]) and torch.equal(made[1][0], made[1][2])
        channels |= {n for n in range(3) if torch.equal(made[1][0], made[0][n])}
    assert channels == {0, 1, 2}


def test_what_cannot_be_shown_is_left_out_or_refused() -> None:
    assert view(PREPROCESS)({"video": None}) == {}
    with pytest.raises(DamagedError, match="clip shorter than the window"):
        shown(film(range(4), images=4))
    with pytest.raises(LackingError, match="without motion"):
        shown(film(range(0)))
    with pytest.raises(UserError, match="shows image and flow, found image; list an encoder for each"):
        view({"image": ImagePreprocess(24)})
    with pytest.raises(UserError, match="found image, video"):
        view({"image": ImagePreprocess(24), "video": VideoPreprocess(24)})


def test_without_opencv_it_is_refused_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    raft = {**PREPROCESS, "flow": FlowPreprocess(SIZE, frames=FRAMES, fps=FPS, by="raft")}
    monkeypatch.setitem(sys.modules, "cv2", None)
    for preprocess, power in ((PREPROCESS, 0.0), (raft, 1.0)):
        with pytest.raises(UserError, match="optical flow needs OpenCV"):
            view(preprocess, motion=power)
    assert shown(film(range(15)), raft, motion=0.0)["flow"][0].dtype == torch.uint8, "RAFT alone needs none"


def test_an_encoder_that_finds_flow_itself_is_shown_the_images() -> None:
    begin(1)
    raft = {**PREPROCESS, "flow": FlowPreprocess(SIZE, frames=FRAMES, fps=FPS, by="raft")}
    sample = shown(film(range(15), numbered=True), raft, **PLAIN)
    images = sample["flow"][0]
    assert images.shape == (3, FRAMES + 1, SIZE, SIZE) and images.dtype == torch.uint8
    numbers = (images[:, :, 2, 2].float().mean(dim=0) / 12).round().int().tolist()
    assert numbers == list(range(number(sample) - 2, number(sample) + 3))


def test_masks_move_with_the_frame() -> None:
    clip, mask = film(range(15)), np.zeros((SIZE, SIZE), np.uint8)
    mask[:8, :8] = 1
    begin(0)
    made = view(PREPROCESS, fields={"mask": "mask"}, **PLAIN)
    assert made.reads == ("video", "mask")
    moved = made({"video": clip, "mask": Image.fromarray(mask)})["fields"]["image"]["mask"][0]
    assert moved.shape[-2:] == (24, 24) and int(moved.sum()) == 16
