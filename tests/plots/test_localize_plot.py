"""Heat maps over frames: one row for each clip, the map's peak where it is, and the truth in green."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmssl.data.shards import Source
from mmssl.errors import UserError
from mmssl.modalities.audio import Waveform
from mmssl.modalities.video import Frames
from mmssl.plots.canvas import GAP, TITLE
from mmssl.plots.localize import SIDE, plot
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Features, Pretext, Trained, View


class Corner(nn.Module):
    """Hears a high sound in the upper left corner of the image, and a low one in the lower right."""

    visual = "image"

    def similarity_map(self, visual: Features, audio: Features) -> Tensor:
        maps = torch.zeros(len(audio.pooled), 4, 4)
        high = audio.pooled[:, 0] > 0.5
        maps[high, 0, 0] = maps[~high, 3, 3] = 1.0
        return maps


class Plain(nn.Module):
    device = torch.device("cpu")

    def __init__(self, preprocess: Any) -> None:
        super().__init__()
        self.preprocess, self.spaces = preprocess, dict[str, Any]()

    def forward(self, x: Tensor) -> Features:
        return Features(x.float().flatten(1).mean(1, keepdim=True))


def films(monkeypatch: pytest.MonkeyPatch, samples: list[Any]) -> Any:
    class Clips(Source):
        count = None

        def __init__(self, *, shards: str) -> None:
            pass

        def check(self, wanted: Any) -> None:
            pass

        def samples(self, wanted: Any, *, rank: int = 0, world: int = 1) -> Any:
            return iter(samples)

    monkeypatch.setattr("mmssl.plots.localize.open_source", lambda data: Clips(**data))
    encoders: Any = {
        "image": Plain(ImagePreprocess(size=16)),
        "audio": Plain(AudioPreprocess(sample_rate=100, seconds=0.5)),
    }
    return Trained(encoders, {"avol": Pretext(Corner(), View, {})})  # type: ignore[arg-type]


def clip(high: bool) -> dict[str, Any]:
    masks = np.zeros((4, 16, 16), np.uint8)
    masks[:, :4, :4] = 1
    return {
        "image": Frames(np.full((4, 16, 16, 3), 90, np.uint8), 4),
        "audio": Waveform(torch.full((100,), float(high)), 100),
        "masks": {"masks": masks},
        "meta": {"fps": 4, "impacts": [{"time": 0.5, "object": 0, "speed": 1.0}]},
    }


def test_rows_show_the_frame_both_maps_and_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = films(monkeypatch, [clip(True), clip(False), clip(True)])
    drawn = list(plot(subject, data={"shards": "x"}, truth="impacts", count=3, per_picture=2))
    assert [name for name, _ in drawn] == ["maps-0", "maps-1"]
    pixels = np.asarray(drawn[0][1]).astype(int)
    assert pixels.shape == (2 * (SIDE + TITLE) + 3 * GAP, 4 * SIDE + 5 * GAP, 3)

    def tile(row: int, column: int) -> np.ndarray:
        top, left = GAP * (row + 1) + SIDE * row + TITLE * (row + 1), GAP + column * (SIDE + GAP)
        return pixels[top : top + SIDE, left : left + SIDE]

    upper_left, lower_right = (slice(0, 30), slice(0, 30)), (slice(-30, None), slice(-30, None))
    assert (tile(0, 0) == 90).all()
    assert tile(0, 1)[upper_left].sum() > tile(0, 1)[lower_right].sum()
    assert tile(1, 1)[upper_left].sum() < tile(1, 1)[lower_right].sum()
    truth = tile(0, 3)
    assert (truth[2:36, 2:36] == truth[2, 2]).all()
    assert truth[2, 2, 1] > truth[2, 2, 0]
    assert (truth[60:] == 90).all()


def test_data_without_a_moment_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = clip(True)
    silent["meta"]["impacts"] = []
    with pytest.raises(UserError, match="no moment at which something sounds"):
        list(plot(films(monkeypatch, [silent]), data={"shards": "x"}, truth="impacts"))
