"""A film without sound lacks the modality `audio`; a path into JSON that leads nowhere is told at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import webdataset

from mmssl.data.shards import Source
from mmssl.errors import UserError
from mmssl.modalities import video


@pytest.fixture
def films(tmp_path: Path) -> str:
    pictures = np.zeros((4, 32, 32, 3), np.uint8)
    silent = video.encode(pictures, fps=4)
    loud = video.encode(pictures, fps=4, audio=np.sin(np.arange(16000) / 9).astype(np.float32), sample_rate=16000)
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for key, film in (("a", silent), ("b", loud)):
            writer.write({"__key__": key, "mp4": film, "json": {"caption": key}})
    return str(tmp_path / "x.tar")


def test_a_silent_film_lacks_sound_and_is_kept(films: str) -> None:
    samples = list(Source(shards=films).samples({"video", "audio"}))
    assert [set(s) & {"video", "audio"} for s in samples] == [{"video"}, {"video", "audio"}]


def test_a_path_into_json_is_followed_and_checked(films: str) -> None:
    found = [s["text"] for s in Source(shards=films, fields={"text": "json.caption"}).samples({"text"})]
    assert found == ["a", "b"]
    with pytest.raises(UserError, match=r"has 'json.captoin' for 'text'; did you mean 'json.caption'"):
        list(Source(shards=films, fields={"text": "json.captoin"}).samples({"text"}))
