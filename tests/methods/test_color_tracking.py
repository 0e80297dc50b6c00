"""Colour tracking: what is shown, what is asked, and what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.data.collate import collate
from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError, UserError
from mmssl.methods.color_tracking import ColorTracking, GrayClip
from mmssl.modalities import video
from mmssl.modalities.video import Frames
from mmssl.nn.color import lab
from mmssl.types import Batch, Features

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build

CONVNET = {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1], "stem_stride": 4}


def clip(frames: int = 30, *, fps: float = 12.0) -> Frames:
    """A bright square that moves over a dark ground, both coloured."""
    pictures = np.full((frames, 32, 32, 3), (20, 40, 90), dtype=np.uint8)
    for t in range(frames):
        pictures[t, 8:20, t % 20 : t % 20 + 12] = (240, 180, 40)
    return Frames(pictures, fps)


def view(**options: Any) -> GrayClip:
    encoder = create_encoder("frames", image=CONVNET, frames=8)
    return GrayClip({"video": encoder.preprocess}, cell=4, **options)


def shown(*clips: Any, **options: Any) -> Batch:
    seen = view(**options)
    return seen.on_device(collate([seen({"video": one}) for one in clips], seen))


def test_the_network_sees_grey_frames_and_the_target_is_the_colour_of_cells() -> None:
    made = shown(clip(), clip(), crop_scale=(1.0, 1.0), flip=0.0)
    (seen,) = made.views["video"]
    assert seen.shape == (2, 3, 4, 16, 16) and seen.dtype == torch.uint8
    assert torch.equal(seen[:, 0], seen[:, 1]) and torch.equal(seen[:, 0], seen[:, 2])
    assert made.extra["colors"].shape == (2, 4, 2, 4, 4)
    torch.manual_seed(0)
    (raw,) = shown(clip(), crop_scale=(1.0, 1.0), flip=0.0, gray=False).views["video"]
    assert not torch.equal(raw[:, 0], raw[:, 2]), "the guard is down"
    colored = view(crop_scale=(1.0, 1.0), flip=0.0, gray=False)
    two = colored.on_device(Batch({"video": [raw]}))
    expected = lab(raw)[0, 1:, 2, 4:8, 8:12].mean(dim=(1, 2))  # the third frame's cell (1, 2)
    torch.testing.assert_close(two.extra["colors"][0, 2, :, 1, 2], expected)


def test_a_clip_without_video_is_marked_and_does_not_count() -> None:
    seen = view()
    made = seen.on_device(collate([seen({"video": clip()}), seen({})], seen))
    assert made.present("video").tolist() == [True, False]
    assert made.extra["colors"].shape[:2] == (2, 4)


@pytest.mark.parametrize("coded", [False, True], ids=["raw", "H.264"])
def test_clips_that_are_short_or_grey_are_damaged(coded: bool) -> None:
    def handle(frames: Frames) -> Any:
        return video.Video(video.encode(frames.pictures, fps=frames.fps)) if coded else frames

    for good in (clip(8), clip(7)):
        view()({"video": handle(good)})
    with pytest.raises(DamagedError, match="shorter than the window"):
        view()({"video": handle(clip(5))})
    luma = clip().pictures.mean(axis=3, keepdims=True).astype(np.uint8)
    with pytest.raises(DamagedError, match="without colour"):
        view()({"video": handle(Frames(np.repeat(luma, 3, axis=3), 12.0))})


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="do not divide into cells of 5"):
        GrayClip({"video": create_encoder("frames", image=CONVNET).preprocess}, cell=5)


def test_the_loss_is_the_mean_over_the_cells_that_references_can_answer() -> None:
    model = build("color_tracking")
    objective, full = model.objectives["color_tracking"], batch("color_tracking", missing=False)
    colors = full.extra["colors"]
    labels = torch.cdist(colors.movedim(2, -1).flatten(2, 3), objective.centers).argmin(-1)  # (B, T, N)
    cells = objective.head(model.encoders["video"](full.views["video"][0])).unflatten(1, (4, 4))
    objective.scale.log.data.fill_(math.log(100))  # far from ties
    terms, right = [], []
    for b in range(8):
        attention = (100 * cells[b, 3] @ cells[b, :3].flatten(0, 1).T).softmax(dim=1)
        mixed = attention @ F.one_hot(labels[b, :3].flatten(), 4).float()
        known = labels[b, 3, :, None] == labels[b, :3].flatten()
        terms += [-mixed[i, labels[b, 3, i]].log() for i in range(4) if known[i].any()]
        right.append((mixed.argmax(1) == labels[b, 3]).float().mean())
    loss = objective(model.encoders, full)
    torch.testing.assert_close(loss.total, torch.stack(terms).mean())
    torch.testing.assert_close(loss.answers["correct"], torch.stack(right))
    still = (labels[:, 2] == labels[:, 3]).float().mean(1)
    torch.testing.assert_close(loss.answers["still"], still)
    assert 0 < loss.logs["majority"] < 1


def test_clusters_are_learnt_from_the_stream_of_whole_samples_and_saved() -> None:
    encoders = {"video": create_encoder("frames", image=CONVNET)}
    objective = ColorTracking(encoders, clusters=2, width=8, learn_from=60)
    made = shown(clip(), clip(), crop_scale=(1.0, 1.0))
    made.extra["colors"][1] = 99.0
    made.extra["video_present"] = torch.tensor([True, False])
    taken = []

    def stream() -> Any:
        while True:
            taken.append(1)
            yield made

    objective.learn(stream())
    assert len(taken) < 20
    a, b = lab(torch.tensor([[20, 40, 90], [240, 180, 40]], dtype=torch.uint8))[:, 1:]
    assert torch.cdist(objective.centers, torch.stack([b, a])).diagonal().max() < 25 or (
        torch.cdist(objective.centers, torch.stack([a, b])).diagonal().max() < 25
    )
    assert "centers" in objective.state_dict()


def test_an_encoder_that_merges_frames_is_refused() -> None:
    class Merged(torch.nn.Module):
        dim = 8

        def forward(self, x: torch.Tensor) -> Features:
            return Features(torch.zeros(len(x), 8), torch.zeros(len(x), 8, 8), grid=(2, 2, 2))

    encoders: Any = {"video": Merged()}
    with pytest.raises(UserError, match="choose one that keeps each frame"):
        ColorTracking(encoders, width=8)(encoders, batch("color_tracking"))
