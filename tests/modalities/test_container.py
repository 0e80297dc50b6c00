"""Media files open on every PyAV that is served, whatever their titles are written in."""

import io

import av
import numpy as np
import pytest

from mmssl.modalities import audio, video
from mmssl.modalities import container as media

LATIN = "Öländska Ängar".encode("latin-1")  # no UTF-8


def titled(format):
    """Writes a film or a sound with a title, in whose place bytes that are not UTF-8 then stand."""
    stream, title = io.BytesIO(), "x" * len(LATIN)
    codec = {"mp4": "mpeg4", "mov": "mpeg4", "matroska": "mpeg4", "avi": "mpeg4", "asf": "wmv2", "mpegts": "mpeg4"}
    with av.open(stream, "w", format=format) as container:
        container.metadata["title" if format != "mpegts" else "service_name"] = title
        if format in codec:
            track = container.add_stream(codec[format], rate=10)
            track.width = track.height = 32
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * index, np.uint8), format="rgb24")
                frame.pts = index
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
        else:
            audio.add_track(container, np.full(16000, 0.25), 16000, audio.CODECS[format])()
    data, wide = stream.getvalue(), title.encode("utf-16-le")
    found = title.encode() if title.encode() in data else wide
    assert found in data
    return data.replace(found, LATIN.ljust(len(found), b"\xff"))


@pytest.mark.parametrize("format", ["mp4", "mov", "matroska", "avi", "asf", "mpegts"])
def test_films_with_titles_in_another_encoding(format):
    shown = video.Video(titled(format)).frames([0.05, 0.55]).mean(axis=(1, 2, 3))
    assert shown == pytest.approx([0, 100], abs=5)


@pytest.mark.parametrize("format", ["wav", "flac", "mp3"])
def test_sounds_with_titles_in_another_encoding(format, monkeypatch):
    monkeypatch.setattr(audio.wav, "read", lambda data: None)
    sound = audio.Audio(titled(format))
    assert sound.duration == pytest.approx(1.0, abs=0.1)
    assert sound.read(sample_rate=16000)[4000:8000].numpy() == pytest.approx(0.25, abs=0.2)


def test_the_clock_follows_ffmpeg():
    """Of both stamps the one that went backwards less often (libavcodec, guess_correct_pts); none stays none."""
    from types import SimpleNamespace

    clock, stream = media.Clock(), SimpleNamespace(time_base=0.5)
    found = [
        clock(SimpleNamespace(pts=pts, dts=dts, time_base=None), stream)
        for pts, dts in [(None, None), (0, 2), (4, 3), (2, 4), (8, 5), (6, None), (None, 9)]
    ]
    assert found == [None, 0, 2, 2, 2.5, 3, 4.5]
