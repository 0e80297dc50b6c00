"""Encoding raw inputs: what cannot be read is named, in every modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from mmssl.encoders.raw import Raw
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import audio, image, points, video
from mmssl.transforms.text import TextPreprocess
from mmssl.types import Encoder, Features


class Words(Encoder):
    """Embeds a text as its first token."""

    modality, dim = "text", 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.preprocess = TextPreprocess(Tokenizer(models.WordLevel({"?": 0}, unk_token="?")))

    def forward(self, x: torch.Tensor) -> Features:
        return Features(x[:, :1] * self.weight)


GREY = np.full((8, 8, 3), 128, np.uint8)
FILES: dict[str, tuple[str, Any]] = {
    "image": ("png", lambda: image.encode(GREY, format="png")),
    "video": ("mp4", lambda: video.encode(np.stack([GREY] * 4), fps=4)),
    "audio": ("wav", lambda: audio.encode(np.full(16_000, 0.25), sample_rate=16_000)),
    "points": ("ply", lambda: points.encode(np.zeros((4, 3)))),
    "text": ("txt", lambda: b"a cat"),
}


def encoder(modality: str) -> Encoder:
    return Words() if modality == "text" else Raw(modality)  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", FILES)
def test_encode_names_what_it_cannot_read(modality: str, tmp_path: Path) -> None:
    extension, made = FILES[modality]
    good, bad, missing = (tmp_path / f"{name}.{extension}" for name in ("good", "bad", "missing"))
    good.write_bytes(made())
    bad.write_bytes(b"\xff\xfe rubbish")
    network = encoder(modality)
    assert network.encode([good, good]).shape == (2, network.dim)
    with pytest.raises(DamagedError) as caught:
        network.encode([good, good, bad], batch_size=2)
    assert str(caught.value).startswith(f"{str(bad)!r}: ")
    assert caught.value.reason
    assert "bad" not in caught.value.reason
    with pytest.raises(UserError) as unread:
        network.encode([good, missing])
    assert str(unread.value).count(str(missing)) == 1
    with pytest.raises(UserError, match=r"^inputs\[2\]: "):
        network.encode([good, good, 3.5], batch_size=2)


def test_encode_tells_the_place_of_what_has_no_path() -> None:
    data = bytearray(image.encode(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8), format="png"))
    data[len(data) // 2] ^= 1
    with pytest.raises(DamagedError, match=r"^inputs\[1\]: damaged picture: "):
        encoder("image").encode([GREY, bytes(data)])
    with pytest.raises(DamagedError, match=r"^inputs\[1\]: empty text"):
        encoder("text").encode(["a cat", " "])
