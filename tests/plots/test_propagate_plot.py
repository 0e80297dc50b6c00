"""Propagated masks as images: sheets and videos, carried above, true below."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.modalities import video
from mmssl.plots.propagate import plot
from mmssl.types import Trained


def test_every_clip_with_objects_becomes_a_sheet_and_a_film(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(3):
            pixels, mask = np.full((5, 32, 64, 3), 90, np.uint8), np.zeros((5, 32, 64), np.uint8)
            if number:  # the first clip has no object
                pixels[:, 8:20, 8:24], mask[:, 8:20, 8:24] = (250, 250, 250), 1
            stream = io.BytesIO()
            np.savez(stream, masks=mask)
            fields = {"mp4": video.encode(pixels, fps=5), "masks.npz": stream.getvalue()}
            writer.write({"__key__": str(number), "json": json.dumps({"fps": 5}).encode(), **fields})
    encoder = create_encoder("frames", image={"name": "convnet", "image_size": 32, "widths": [8], "depths": [1]})
    trained, data = Trained({"video": encoder}), {"shards": str(tmp_path)}
    drawn = dict(plot(trained, data=data, columns=3))
    assert list(drawn) == ["propagate-00", "propagate-00-film", "propagate-01", "propagate-01-film"]
    sheet, film = drawn["propagate-00"], drawn["propagate-00-film"]
    assert isinstance(sheet, Image.Image) and isinstance(film, list) and len(film) == 5
    assert sheet.width > 3 * 160 and film[0].size[0] < sheet.width
    first = np.asarray(film[0]).astype(int)  # two frames of 80 x 160 below each other, in margins of 4
    inside, outside = first[4 + 32, 4 + 40], first[4 + 70, 4 + 140]
    assert inside[0] > inside[1] + 50 and abs(outside - 90).max() < 12
    assert list(dict(plot(trained, data=data, count=1))) == ["propagate-00", "propagate-00-film"]
    with pytest.raises(UserError, match="no encoder 'image'"):
        dict(plot(trained, data=data, encoder="image"))
