"""`shards verify` names every sample that is damaged, torn or hidden, and calls an empty set not whole."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numbered import number_set, write_tar
from PIL import Image

from mmssl.cli import main
from mmssl.data.patterns import expand
from mmssl.data.writer import build_from, verify
from mmssl.errors import UserError
from mmssl.modalities import audio, points, video

SOUND = np.sin(np.arange(32_000) / 9).astype(np.float32)


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def hollow(data: bytes) -> bytes:
    """Overwrites a third of a file in its middle."""
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def film(**options: object) -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (25, 32, 32, 3), np.uint8)
    return video.encode(frames, fps=12.5, **options)  # type: ignore[arg-type]


def late(data: bytes) -> bytes:
    """Cuts a video with its index at the front in the middle."""
    import av

    stream = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(stream, "w", format="matroska") as out:
        tracks = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    return stream.getvalue()[: len(stream.getvalue()) * 6 // 10]


def cloud(last: float) -> bytes:
    xyz = np.ones((5, 3))
    xyz[-1, -1] = last
    stream = io.BytesIO()
    np.save(stream, xyz)
    return stream.getvalue()


def audio_of(last: float) -> bytes:
    """Writes a WAV of floats."""
    from scipy.io import wavfile

    samples, stream = SOUND.copy(), io.BytesIO()
    samples[-1] = last
    wavfile.write(stream, 16_000, samples)
    return stream.getvalue()


WHOLE = {
    "jpg": picture("JPEG"),
    "png": picture("PNG"),
    "webp": picture("WEBP"),
    "mp4": film(audio=SOUND, sample_rate=16_000),
    "mute.mp4": film(),
    "nan.wav": audio_of(0.5),
    "wav": audio.encode(SOUND, sample_rate=16_000),
    "flac": audio.encode(SOUND, sample_rate=16_000, format="flac"),
    "mp3": audio.encode(SOUND, sample_rate=16_000, format="mp3"),
    "ogg": audio.encode(SOUND, sample_rate=16_000, format="ogg"),
    "ply": points.encode(np.ones((5, 3))),
    "npy": cloud(1.0),
    "txt": b"a text",
    "text.json": b'["one", "two"]',
    "json": b'{"a": 1}',
    "cls": b"3",
    "mask.npy": cloud(1.0),
    "unknown": b"whatever",
}
DAMAGED = {
    "jpg": WHOLE["jpg"][: len(WHOLE["jpg"]) // 2],
    "png": WHOLE["png"][: len(WHOLE["png"]) // 2],
    "webp": WHOLE["webp"][: len(WHOLE["webp"]) // 2],
    "mp4": hollow(WHOLE["mp4"]),
    "mkv": late(WHOLE["mp4"]),
    "wav": WHOLE["wav"][:20_000],
    "flac": WHOLE["flac"][: len(WHOLE["flac"]) // 2],
    "mp3": bytes(200),
    "nan.wav": audio_of(np.nan),
    "ply": WHOLE["ply"][:-4],
    "npy": cloud(np.nan)[:-8],
    "txt": b"\xff\xfe",
    "text.json": b'["one", null]',
    "json": b'{"a": ',
    "cls": b"three",
    "mask.npy": b"x",
}  # fmt: skip


@pytest.mark.parametrize("field", DAMAGED)
def test_each_damaged_field_is_named(tmp_path: Path, field: str) -> None:
    write_tar(tmp_path / "0.tar", [{"__key__": "good", **WHOLE}, {"__key__": "bad", **WHOLE, field: DAMAGED[field]}])
    assert verify(tmp_path) == [], "the tar as such is whole"
    (problem,) = verify(tmp_path, decode=True)
    assert problem.startswith(f"0.tar: bad, {field}: ")


def test_an_empty_set_is_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert any("holds no shards" in problem for problem in verify(tmp_path / "none"))
    (tmp_path / "bare").mkdir()
    write_tar(tmp_path / "bare/0.tar", [])
    assert "0.tar: holds no samples" in verify(tmp_path / "bare")
    build_from(lambda n: {"txt": b"a"}, 2, tmp_path / "a", workers=1)
    index = json.loads((tmp_path / "a/index.json").read_text())
    write_tar(tmp_path / "a/00000.tar", [])
    data = (tmp_path / "a/00000.tar").read_bytes()
    entry = {"name": "00000.tar", "samples": 0, "bytes": len(data), "fields": {}}
    index["shards"] = [{**entry, "sha256": hashlib.sha256(data).hexdigest()}]
    (tmp_path / "a/index.json").write_text(json.dumps({**index, "samples": 0}))
    assert verify(tmp_path / "a") == [f"{tmp_path / 'a'} holds no samples"]
    assert main(["shards", "verify", str(tmp_path / "a")]) == 2
    assert "all shards are whole" not in capsys.readouterr().out


def test_torn_and_hidden_members_are_found_without_decoding(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("1.txt", "2.txt", "d/._1.txt", ".DS_Store", "1.cls", "2.cls"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
    problems = verify(tmp_path)
    (torn,) = (problem for problem in problems if "stand together" in problem)
    assert torn.startswith("0.tar: 2 files of one sample that do not")
    assert torn.endswith("such as 1")
    assert "0.tar: 2 hidden files, which are passed over; such as d/._1.txt" in problems
    assert len(problems) == 2


def test_a_set_of_someone_elses_is_whole_as_far_as_that_can_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "0.tar", [{"__key__": "a", "txt": b"a"}])
    assert main(["shards", "verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "all shards are whole; without index.json nothing tells whether any is missing\n"


def test_a_whole_set_is_whole(tmp_path: Path) -> None:
    number_set(tmp_path / "a", [3, 0, 2])
    build_from(lambda n: {**WHOLE, "txt": b"a"}, 2, tmp_path / "b", workers=1)
    assert verify(tmp_path / "b", decode=True) == []


def test_the_parts_of_a_split_are_named_where_their_folder_is_given(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "index.json").write_text("{}")
    hint = f"; name one of its parts: {tmp_path / 'test'}, {tmp_path / 'train'}"
    assert verify(tmp_path) == [f"{tmp_path} holds no shards{hint}"]
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} holds no *.tar{hint}")):
        expand(str(tmp_path))
