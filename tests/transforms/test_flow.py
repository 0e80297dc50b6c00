"""Optical flow of textures that move by known steps: its signs and units, and how motion is measured."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.errors import LackingError, UserError
from mmssl.modalities.video import Frames
from mmssl.transforms.flow import FlowPreprocess, dense_flow, motion, opencv

TEXTURE = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).resize((160, 160))
)


def panned(steps: list[tuple[int, int]], size: int = 64) -> np.ndarray:
    """Images (T, size, size, 3) of a texture whose corner is moved to the right and downwards by each step in turn."""
    left, top, made = 60, 60, []
    for right, down in [(0, 0), *steps]:
        left, top = left - right, top - down
        made.append(TEXTURE[top : top + size, left : left + size])
    return np.stack(made)


@pytest.fixture(autouse=True)
def _opencv() -> None:
    pytest.importorskip("cv2")


def inner(flow: torch.Tensor) -> torch.Tensor:
    """Medians (2, T) away from the edges, where what moves in is not known."""
    return flow[:, :, 8:-8, 8:-8].flatten(2).median(dim=2).values


def test_flow_says_how_many_pixels_to_the_right_and_downwards() -> None:
    steps = [(3, 0), (-3, 0), (0, 2), (0, -4), (2, -3), (0, 0)]
    images = torch.from_numpy(panned(steps)).movedim(3, 0)
    flow = dense_flow(images)
    assert flow.shape == (2, 6, 64, 64) and flow.dtype == torch.float32
    torch.testing.assert_close(inner(flow), torch.tensor(steps).T.float(), atol=0.1, rtol=0)


def test_the_middle_of_a_film_is_taken_and_pixels_are_those_that_are_shown() -> None:
    steps = [(9, 9)] * 3 + [(4, 0), (0, -4)] + [(9, 9)] * 2
    film = Frames(panned(steps, size=64), 10.0)  # 8 images
    prepare = FlowPreprocess(size=32, frames=2, fps=10.0)
    found = prepare(film)
    assert found.shape == prepare.blank().shape == (2, 2, 32, 32)
    assert prepare.blank().dtype == torch.float32 and not prepare.blank().any()
    middle = prepare.film(film)
    torch.testing.assert_close(found, dense_flow(middle))
    assert prepare.span == pytest.approx(0.3) and prepare.duration(film) == pytest.approx(0.8)
    # times 0.25 + 0.05, + 0.1, + 0.1: images 3, 4 and 5
    torch.testing.assert_close(inner(found), torch.tensor([[2.0, 0.0], [0.0, -2.0]]), atol=0.15, rtol=0)
    (window,) = prepare.windows(film, [(0.25, 0.55)])
    torch.testing.assert_close(window, found)
    images = FlowPreprocess(size=32, frames=2, fps=10.0, by="raft")
    assert torch.equal(images(film), middle) and images.blank().shape == middle.shape
    assert images.blank().dtype == torch.uint8


def test_it_reads_films_unless_told_otherwise() -> None:
    prepare = FlowPreprocess()
    assert (prepare.modality, prepare.field) == ("flow", "video")
    prepare.field = "left"
    assert prepare.field == "left"
    assert len(prepare.items(np.zeros((2, 3, 8, 8, 3), np.uint8))) == 2, "an array of films"


def test_motion_is_the_logarithm_of_its_mean_length_without_the_cameras() -> None:
    still = panned([(0, 0), (0, 0)], size=64)
    with pytest.raises(LackingError, match="without motion"):
        motion(still)
    moving = still.copy()
    moving[1:, 16:48, 16:48] = panned([(0, 0), (4, 0)], size=64)[1:, 16:48, 16:48]
    found = motion(moving)
    flow = dense_flow(torch.from_numpy(moving).movedim(3, 0)).double().numpy()
    for step in range(2):
        x, y = flow[0, step] - flow[0, step].mean(), flow[1, step] - flow[1, step].mean()
        wanted = math.log(1000 * 240 / 64 * float(np.sqrt(x * x + y * y).mean()) + 1)
        assert float(found[step]) == pytest.approx(wanted, rel=1e-5)
    pan = motion(panned([(3, 0)] * 2))
    assert float(pan.max()) < float(motion(moving).max()), "a camera's pan of 3 pixels everywhere counts less"
    large = np.kron(moving, np.ones((1, 2, 2, 1), np.uint8))
    torch.testing.assert_close(motion(large), found, atol=0.2, rtol=0)  # twice as many pixels are log 2 = 0.7


def test_without_opencv_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"optical flow needs OpenCV .* pip install 'mmssl\[flow\]'"):
        opencv()
