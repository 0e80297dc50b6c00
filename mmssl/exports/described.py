"""What an exported encoder must be shown, as JSON beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from mmssl.files import write_atomically
from mmssl.types import Encoder

NAME = "preprocess.json"


def statistics_of(encoder: Encoder) -> tuple[list[float], list[float]] | None:
    """Returns mean and std by which an encoder normalises its input, of images and videos per channel."""
    front = getattr(encoder, "normalize", None) or getattr(encoder, "front", None)
    mean, std = getattr(front, "mean", None), getattr(front, "std", None)
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return None
    return [round(value, 7) for value in mean.tolist()], [round(value, 7) for value in std.tolist()]


def describe(encoder: Encoder, folder: Path, *, within: bool, **more: Any) -> None:
    """Writes preprocess.json, and a tokenizer where texts need one.

    within: whether what is exported normalises its input itself; without, that is left to whoever shows it.
    more: what else it says.
    """
    content: dict[str, Any] = {"modality": encoder.modality, **encoder.preprocess.config()}
    if found := statistics_of(encoder):
        content |= {"mean": found[0], "std": found[1], "normalized_inside": within}
        content["input"] = "pixels from 0 to 1" + ("" if within else ", minus mean, divided by std")
    encoder.save_files(folder)
    write_atomically(folder / NAME, json.dumps({**content, **more}, indent=2).encode())
