"""Media files open on every PyAV that is served, whatever their titles are written in."""

import contextlib
import io

import av
import numpy as np
import pytest

from mmssl.errors import DamagedError
from mmssl.modalities import audio, video
from mmssl.modalities import container as media

LATIN = "Öländska Ängar".encode("latin-1")  # no UTF-8


def titled(format):
    """Writes a video or a sound with a title, in whose place bytes that are not UTF-8 then stand."""
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


@pytest.fixture
def listening():
    """The address of a server, and the connections that came."""
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:
        came = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    came.append(connection)
                    connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", came
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "hls": HLS,
    "hls key": HLS.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF'),
    "sdp": "v=0\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{}\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT3S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{}</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>",
    "reference": "[Reference]\nRef1={}\n",
    "subtitles": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\ntimestamp: 00:00:00:000\n{}",
    "text": "1\n00:00:00,000 --> 00:00:01,000\n{}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_no_format_opens_further_files_or_addresses(kind, tmp_path, listening):
    """A path that names them is read by FFmpeg's own playlist readers: concat opens the file beside it."""
    address, came = listening
    film = video.encode(np.zeros((5, 32, 32, 3), np.uint8), fps=10)
    for name in ("film.mp4", "list.sub"):
        (tmp_path / name).write_bytes(film)
    places = ["film.mp4", str(tmp_path / "film.mp4"), f"file:{tmp_path}/film.mp4", f"http://{address}/film.mp4"]
    for place in [*places, f"tcp://{address}", "pipe:0"]:
        text = PLAYLISTS[kind].replace("{}", place).encode()
        (tmp_path / "list.mp4").write_bytes(text)
        for raw in (text, tmp_path / "list.mp4"):
            with pytest.raises(DamagedError):
                video.Video(raw).frames([0.0])
            with pytest.raises(DamagedError):
                _ = video.Video(raw).duration
            with pytest.raises(DamagedError):
                _ = audio.Audio(raw).is_there
    assert not came


def test_every_format_that_is_read_is_known_to_ffmpeg():
    """And none of them is one that opens others."""
    names = {name for listed in av.formats_available for name in listed.split(",")}
    allowed = set(media.FORMATS.split(","))
    assert {"mov", "matroska", "avi", "mpeg", "wav", "flac", "ogg", "mp3"} <= allowed <= names
    assert not allowed & {"concat", "hls", "dash", "sdp", "image2", "rtsp", "vobsub", "lavfi", "imf", "tty", "data"}
