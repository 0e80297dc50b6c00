"""A video without sound lacks the modality `audio`; a path into JSON that leads nowhere is told at once."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from numbered import loader, numbers, write_tar
from own_files import png
from PIL import Image

from mmssl.data.fields import find
from mmssl.data.full_pass import Plain
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.verify import verify
from mmssl.errors import UserError
from mmssl.modalities import audio, video
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.views.synchronised import view


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


@pytest.mark.parametrize(
    ("fields", "found"),
    [("gif jpg", "jpg"), ("bmp txt tiff", "bmp"), ("mask.png webp", "webp"), ("wav mp3 mp4", "wav"), ("txt", None)],
)
def test_of_fields_that_fill_one_key_the_commonest_format_is_read(fields: str, found: str | None) -> None:
    assert find("audio" if "wav" in fields else "image", fields.split(), {}) == found


def test_half_a_character_in_json_is_counted(tmp_path: Path) -> None:
    write = [{"txt": b"whole"}, {"text.json": b'["whole", "\\ud83d"]'}, {"json": b'{"caption": "\\ud83d"}'}]
    write.append({"json": b'{"caption": "fine"}'})
    with webdataset.TarWriter(str(tmp_path / "x.tar"), encoder=False) as writer:
        for key, fields in enumerate(write):
            writer.write({"__key__": str(key), **fields})
    for fields in ({}, {"text": "json.caption"}):
        source = Source(shards=str(tmp_path / "x.tar"), fields=fields)
        assert [s["text"] for s in source.samples({"text"})] == (["fine"] if fields else ["whole"])
        assert source.damaged["text that is not Unicode", str(tmp_path / "x.tar")] == 1
    assert len([p for p in verify(tmp_path, decode=True) if "text that is not Unicode" in p]) == 1


def test_a_path_into_json_is_followed_and_checked(films: str) -> None:
    found = [s["text"] for s in Source(shards=films, fields={"text": "json.caption"}).samples({"text"})]
    assert found == ["a", "b"]
    with pytest.raises(UserError, match=r"has 'json.captoin' for 'text'; did you mean 'json.caption'"):
        list(Source(shards=films, fields={"text": "json.captoin"}).samples({"text"}))


def jsons(folder: Path, values: list[Any], name: str = "caption") -> str:
    lines = [{"__key__": f"{n:03d}", "json": json.dumps({name: value}).encode()} for n, value in enumerate(values)]
    return str(write_tar(folder / "x.tar", lines))


CAPTION = "a caption that is neither text nor a list of texts"
LABEL = "a label that is neither a name nor a whole number"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("one", "one"),
        (["one", "two"], ["one", "two"]),
        (["", "two"], ["two"]),
        (None, None),
        (math.nan, None),
        (5, CAPTION),
        (0, CAPTION),
        (2.5, CAPTION),
        (True, CAPTION),
        (False, CAPTION),
        ({"en": "one"}, CAPTION),
        (["one", None], CAPTION),
        ([["one"]], CAPTION),
        ("", "empty text"),
        ([], "empty text"),
    ],
)
def test_a_caption_in_json_is_text_or_counted(tmp_path: Path, value: Any, found: Any) -> None:
    source = Source(shards=jsons(tmp_path, ["first", value]), fields={"text": "json.caption"})
    texts = [sample["text"] for sample in source.samples({"text"})]
    damaged = {reason: count for (reason, _), count in source.damaged.items()}
    if found is None or found in (CAPTION, "empty text"):
        assert texts == ["first"]
        assert damaged == {found or "a sample without text": 1}
    else:
        assert (texts, damaged) == (["first", found], {})


@pytest.mark.parametrize(
    ("value", "found"),
    [(3, 3), ("ant", "ant"), (3.0, 3), (True, LABEL), (3.5, LABEL), ([3], LABEL), ({"a": 1}, LABEL), (math.inf, LABEL)],
)
def test_a_label_in_json_is_a_name_or_a_whole_number(tmp_path: Path, value: Any, found: Any) -> None:
    source = Source(shards=jsons(tmp_path, [1, value], "class"), fields={"label": "json.class"})
    labels = [sample["label"] for sample in source.samples({"label"})]
    assert labels == ([1] if found == LABEL else [1, found])
    assert [reason for reason, _ in source.damaged] == ([LABEL] if found == LABEL else [])


@pytest.mark.parametrize("key", ["image", "audio", "video", "points", "points_b"])
def test_json_is_no_picture_and_opens_no_file(tmp_path: Path, key: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "own.png")
    source = Source(
        shards=jsons(tmp_path, [str(tmp_path / "own.png"), [[1.0, 2.0, 3.0]]]), fields={key: "json.caption"}
    )
    with pytest.raises(UserError, match=f"has 'json.caption' for '{key}'; what is there is no {key}$"):
        list(source.samples({key}))


def test_a_json_that_is_no_object_is_no_crash(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar", [{"__key__": str(n), "json": value} for n, value in enumerate((b"5", b"null", b"[1]"))]
    )
    with pytest.raises(UserError, match="has 'text'; its fields are json"):
        list(Source(shards=str(tmp_path / "x.tar")).samples({"text"}))
    assert len(list(Source(shards=str(tmp_path / "x.tar")).samples({"meta"}))) == 2


def test_what_stands_in_a_shard_never_ends_a_run_by_itself(tmp_path: Path) -> None:
    """A caption of a wrong kind, and an image that a view refuses as it would a caller's."""
    values: list[Any] = [str(n) for n in range(100)]
    values[50] = 7
    source = Source(shards=jsons(tmp_path, values), fields={"text": "json.caption"})
    own = loader(source, batch=10, workers=0)
    assert set(numbers(own.epoch(0))) == set(range(100)) - {50}
    assert set(own.report()["damaged"]) == {CAPTION}


def test_an_array_that_a_view_refuses_is_counted(tmp_path: Path) -> None:
    arrays = [np.full((8, 8, 3), n, np.uint8) for n in range(60)]
    arrays[7] = np.zeros((8, 8, 2), np.uint8)  # neither grey nor colour
    files = []
    for array in arrays:
        stream = io.BytesIO()
        np.save(stream, array)
        files.append(stream.getvalue())
    write_tar(tmp_path / "x.tar", [{"__key__": str(n), "image.npy": data} for n, data in enumerate(files)])
    shown = Plain({"image": ImagePreprocess(size=8)})
    own = Loader(Source(shards=str(tmp_path / "x.tar")), shown, batch=10, workers=0)
    assert len(list(own.epoch(0))) == 6
    ((reason, shards),) = own.report()["damaged"].items()
    assert reason.startswith("expected an image (H, W)")
    assert sum(shards.values()) >= 1


@pytest.mark.parametrize("sound", ["silence", "none", "half"])
def test_films_without_sound_are_counted_apart_and_stop_no_run(tmp_path: Path, sound: str) -> None:
    """Of eight films two are heard. Silence, or no track, is skipped; a film of which half is silent only there."""
    pictures = np.zeros((8, 32, 32, 3), np.uint8)
    loud = np.sin(np.arange(32000) / 9).astype(np.float32) / 2
    quiet = loud * (np.arange(32000) > 16000) if sound == "half" else loud * 0
    track = {"audio": quiet, "sample_rate": 16000} if sound != "none" else {}
    heard = {"audio": loud, "sample_rate": 16000}
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for number in range(8):
            film = video.encode(pictures, fps=4, **(heard if number < 2 else track))
            writer.write({"__key__": str(number), "mp4": film})
    prepare = {"video": VideoPreprocess(32, frames=2, fps=4.0), "audio": AudioPreprocess(16000, 0.25)}
    source, hard = Source(shards=str(tmp_path / "x.tar")), {"max_damaged": 0.0, "strict": True}
    own = Loader(source, view(prepare), batch=8, epoch_samples=16, workers=0, **hard)
    batches = list(own.epoch(0))
    report = own.report()
    reason = "a video without sound" if sound == "none" else "silent sound"
    assert not report["damaged"] and set(report["lacking"]) == {reason}
    skipped = report["lacking"][reason][str(tmp_path / "x.tar")]
    assert skipped + 16 <= report["drawn"] and skipped >= (1 if sound == "half" else 12)
    assert all(batch.views["audio"][0].abs().amax(dim=1).min() > 0.1 for batch in batches)
    numbers = set(torch.cat([batch.extra["index"] for batch in batches]).tolist())
    assert numbers > {0, 1} if sound == "half" else numbers == {0, 1}


def test_a_set_in_which_nothing_is_heard_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.data.stream.ENOUGH", 15)
    silence = audio.encode(np.zeros(16000, np.float32), sample_rate=16000)
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        writer.write({"__key__": "0", "png": png(7), "wav": silence})
    shown = view({"image": ImagePreprocess(size=32), "audio": AudioPreprocess(16000, 0.25)})
    own = Loader(Source(shards=str(tmp_path / "x.tar")), shown, batch=1, workers=0)
    with pytest.raises(UserError, match=r"^15 samples in a row are unusable: silent sound \(15 in .*x.tar\)$"):
        next(iter(own.epoch(0)))
