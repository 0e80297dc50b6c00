"""Similarity matrices: a cell for each pair, brightest where two are alike, with what was compared at the sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.modalities.audio import Waveform
from mmssl.plots.items import drawn_item
from mmssl.plots.retrieval import CELL, GAP, LINE, plot
from mmssl.types import Trained

COLORS = ["red", "green", "blue", "white"]


class Knows(nn.Module):
    """Knows the colour of a square, or of its caption."""

    device = torch.device("cpu")

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.preprocess, self.spaces = modality, self, {"clip": None}

    def __call__(self, raw: Any) -> Any:
        return raw

    def collate(self, items: list[Any]) -> Tensor:
        if self.modality == "text":
            return torch.tensor([[float(color in text) for color in COLORS] for text in items])
        means = torch.stack([torch.tensor(np.asarray(x.convert("RGB"), dtype=np.float32)).mean((0, 1)) for x in items])
        table = torch.tensor([[220, 30, 30], [30, 200, 40], [40, 60, 220], [240, 240, 240.0]])
        return torch.nn.functional.one_hot(torch.cdist(means, table).argmin(1), 4).float()

    def embed(self, x: Tensor, *, space: str | None = None) -> Tensor:
        assert space == "clip"
        return x


@pytest.mark.parametrize("modalities", [("image", "text"), ("text", "image")])
def test_captions_lie_in_rows_and_pictures_above(color_shards: Path, modalities: tuple[str, str]) -> None:
    subject: Any = Trained({"image": Knows("image"), "text": Knows("text")})  # type: ignore[dict-item]
    [(name, drawn)] = plot(subject, data={"shards": str(color_shards)}, modalities=modalities, count=4)
    assert name == "text-image"
    step, margin = CELL + GAP, LINE + GAP
    assert drawn.size == (margin + 4 * step, 5 * step)
    pixels = np.asarray(drawn).astype(int)
    cells = np.array([[pixels[step * (r + 1) + 5, margin + step * c + 5].sum() for c in range(4)] for r in range(4)])
    # every eighth of 64: two of the first shard, which begins with red, and two of the second, which begins with green
    assert ((cells > 400) == (np.array([0, 0, 1, 1])[:, None] == np.array([0, 0, 1, 1]))).all()
    thumbnail = pixels[CELL // 2 - 4 : CELL // 2 + 4, margin + CELL // 2 - 4 : margin + CELL // 2 + 4]
    assert thumbnail.mean((0, 1)).argmax() == 0  # the first square is red
    assert (pixels[step : step + CELL, :LINE] < 128).any()  # its caption is written


def test_a_sound_is_drawn_as_its_envelope_and_anything_else_as_an_empty_cell() -> None:
    loud_later = torch.cat([torch.full((4000,), 0.1), torch.full((4000,), 0.8)])
    cell = drawn_item("audio", Waveform(loud_later, 8000), side=CELL, line=LINE)
    ink = (cell < 200).any(2).sum(0)
    assert ink[: CELL // 2 - 1].max() < ink[CELL // 2 + 1 :].min()
    assert (drawn_item("pulse", None, side=CELL, line=LINE) == 255).all()
    assert drawn_item("image", Image.new("RGB", (20, 10), "red"), side=CELL, line=LINE).shape == (CELL, CELL, 3)


def test_what_is_not_there_is_one_clear_error(color_shards: Path) -> None:
    subject: Any = Trained({"image": Knows("image"), "text": Knows("text")})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="there is no encoder 'audio'"):
        list(plot(subject, data={"shards": str(color_shards)}, modalities=("image", "audio")))
