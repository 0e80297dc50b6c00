"""Seeking shows what playing from the start shows, upright and in one size, whatever a video is made of."""

import io
import random
import struct
from contextlib import suppress
from fractions import Fraction
from itertools import takewhile

import av
import numpy as np
import pytest
from PIL import Image

from mmssl.modalities import container as media
from mmssl.modalities import video
from mmssl.modalities.playback import LeftOutError, Player

FPS, COUNT = 25, 250
MPEG = {"g": "16", "bf": "2", "b": "2M"}
CLOSED = {"flags": "+cgop", "sc_threshold": "1000000000"}
OPEN = "open-gop=1:scenecut=0:b-pyramid=2:keyint=32:bframes=3"
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def numbered(index, size=32):
    """An image whose number can be read off: its bits as bright and dark blocks."""
    bits = [220 if index >> bit & 1 else 30 for bit in range(8)]
    blocks = np.array(bits, np.uint8).reshape(2, 4).repeat(size // 2, 0).repeat(size // 4, 1)
    return np.repeat(blocks[..., None], 3, 2)


def number(picture):
    blocks = picture.reshape(2, 16, 4, 8, 3).mean(axis=(1, 3, 4)).reshape(-1)
    return int(sum(1 << bit for bit, value in enumerate(blocks) if value > 125))


def film(codec, format, options=None, muxer=None, *, late=0, change=lambda packet: None):
    """Writes the numbered images; `late` images' time passes before the first; `change` is done to each packet."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=format, container_options=muxer or {}) as container:
        track = container.add_stream(codec, rate=FPS, options=options or {})
        track.width = track.height = 32
        track.codec_context.thread_count = 1
        track.pix_fmt = {"cinepak": "rgb24", "mjpeg": "yuvj420p", "qtrle": "rgb24", "svq1": "yuv410p"}.get(
            codec, "yuv420p"
        )
        for index in range(COUNT + 1):
            frame = None
            if index < COUNT:
                frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24").reformat(format=track.pix_fmt)
                frame.pts, frame.time_base = index + late, Fraction(1, FPS)
            for packet in track.encode(frame):
                change(packet)
                container.mux(packet)
    return stream.getvalue()


def all_key(packet):
    packet.is_keyframe = True


def without_order(packet):
    packet.pts = packet.dts


def without_order_later(packet):
    if packet.dts > COUNT // 2:
        packet.pts = packet.dts


FILMS = {
    "h264 mp4": ("libx264", "mp4", {"g": "16"}),
    "h264 open groups": ("libx264", "mp4", {"x264-params": OPEN}),
    "h264 open groups, matroska": ("libx264", "matroska", {"x264-params": OPEN}),
    "h264 open groups, transport stream": ("libx264", "mpegts", {"x264-params": OPEN}),
    "h264 refreshed by columns": ("libx264", "mp4", {"g": "16", "x264-params": "intra-refresh=1"}),
    "h264 fragmented": ("libx264", "mp4", {"g": "16"}, FRAGMENTS),
    "h264 without edit list": ("libx264", "mp4", {"g": "16"}, {"use_editlist": "0"}),
    "mpeg1 program stream": ("mpeg1video", "mpeg", MPEG),
    "mpeg2 program stream": ("mpeg2video", "vob", MPEG),
    "mpeg2 closed groups, program stream": ("mpeg2video", "mpeg", {**MPEG, **CLOSED}),
    "mpeg2 transport stream": ("mpeg2video", "mpegts", MPEG),
    "mpeg2 mp4": ("mpeg2video", "mp4", MPEG),
    "mpeg2 matroska": ("mpeg2video", "matroska", MPEG),
    "mpeg4 mp4": ("mpeg4", "mp4", MPEG),
    "mpeg4 transport stream": ("mpeg4", "mpegts", MPEG),
    "mpeg4 program stream": ("mpeg4", "mpeg", MPEG),
    "wmv2 asf": ("wmv2", "asf", {"g": "16", "b": "2M"}),
    "wmv2 avi": ("wmv2", "avi", {"g": "16", "b": "2M"}),
    "cinepak avi": ("cinepak", "avi", {"g": "16"}),
    "svq1 mov": ("svq1", "mov", {"g": "16"}),
    "mjpeg avi": ("mjpeg", "avi"),
    "flv": ("flv", "flv", {"g": "16", "b": "2M"}),
    "vp8 webm": ("libvpx", "webm", {"g": "16", "deadline": "realtime", "b": "1M"}),
    "h264 without stamps": ("libx264", "h264", {"g": "16"}),
    "mxf": ("mpeg2video", "mxf", MPEG),
}
# The index of these lies, or their stamps do, so that only playing with FFmpeg's rule of stamps tells what is shown.
LYING = {
    "mpeg4 avi": ("mpeg4", "avi", MPEG),
    "h264 avi": ("libx264", "avi", {"g": "16"}),
    "h264 mxf": ("libx264", "mxf", {"g": "16"}),
    "nut": ("mpeg4", "nut", MPEG),
    "h264 asf": ("libx264", "asf", {"g": "16"}),
    "every image marked a key": ("mpeg4", "mp4", {"g": "100", "b": "2M"}, None, all_key),
    "cinepak, every image marked a key": ("cinepak", "avi", {"g": "100"}, None, all_key),
    "h264, every image marked a key": ("libx264", "mp4", {"g": "100", "bf": "0"}, None, all_key),
    "decoding times in the second half": ("libx264", "mp4", {"g": "16"}, None, without_order_later),
    "decoding times in place of others": ("libx264", "mp4", {"g": "16"}, None, without_order),
}


def made(codec, format, options=None, muxer=None, change=lambda packet: None):
    return film(codec, format, options, muxer, change=change)


def samples(trials=6):
    """Single times, and several in ascending order."""
    rng = random.Random(0)
    return [sorted(rng.uniform(0, COUNT / FPS) for _ in range(rng.choice((1, 2, 5)))) for _ in range(trials)]


@pytest.mark.parametrize("kind", FILMS)
def test_a_seek_finds_the_picture(kind):
    clip = video.Video(made(*FILMS[kind]))
    for times in samples():
        expected = [int(time * FPS + 1e-4) for time in times]
        assert [number(p) for p in clip.frames(times)] == expected, times


def decoded(data, times, monkeypatch, **options):
    """Returns the numbers of the images shown, and how many were decoded for it."""
    plain, count = media.decoded, []
    with media.opened(data) as container, monkeypatch.context() as patch:
        patch.setattr(media, "decoded", lambda *given: (count.append(f) or f for f in plain(*given)))
        player = Player(container, seeking=True, min_size=None, **options)
        return [number(player.at(time)) for time in times], len(count)


@pytest.mark.parametrize("kind", ["h264 mp4", "h264 open groups, matroska"])
def test_what_no_image_leans_on_is_left_out(kind, monkeypatch):
    data = made(*FILMS[kind])
    times = [4 + index / 4 for index in range(9)]
    shown, few = decoded(data, times, monkeypatch, only=times)
    expected, every = decoded(data, times, monkeypatch)
    assert shown == expected == [int(time * FPS + 1e-4) for time in times]
    assert few < 0.85 * every
    dense = [4 + index / FPS for index in range(40)]
    assert decoded(data, dense, monkeypatch, only=dense)[0] == list(range(100, 140))


def test_an_image_that_stays_long_is_not_left_out():
    """Every 40 images the last one stays for 11 times as long, so that none of the times lies near its start."""

    def pause(packet):
        packet.pts, packet.dts = (stamp + 10 * (stamp // 40) for stamp in (packet.pts, packet.dts))

    clip, left_out = video.Video(film("libx264", "mp4", {"g": "16"}, change=pause)), 0
    for turn in range(5):
        times = [(50 * turn + 46.5) / FPS]
        assert [number(p) for p in clip.frames(times)] == [40 * turn + 39]
        with media.opened(clip.data) as container, suppress(LeftOutError):
            left_out += 1
            Player(container, seeking=True, min_size=None, only=times).at(times[0])
            left_out -= 1
    assert left_out, "at least one of them is an image on which no other leans"


def played(data):
    """Plays with plain PyAV; returns when each image starts, by FFmpeg's rule (guess_correct_pts), and its number."""
    shown, last, faults = [], [-(2**62)] * 2, [0, 0]
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            for kind, stamp in enumerate((frame.pts, frame.dts)):
                if stamp is not None:
                    faults[kind] += stamp <= last[kind]
                    last[kind] = stamp
            stamp = frame.pts if faults[0] <= faults[1] or frame.dts is None else frame.dts
            shown.append((float(stamp * stream.time_base), number(frame.to_ndarray(format="rgb24"))))
    return shown


@pytest.mark.parametrize("kind", LYING)
def test_a_lying_film_is_played(kind):
    data = made(*LYING[kind])
    shown = played(data)
    clip = video.Video(data)
    for times in samples(12):
        expected = [list(takewhile(lambda one, time=time: one[0] <= time + 1e-6, shown))[-1][1] for time in times]
        assert [number(p) for p in clip.frames(times)] == expected, times


@pytest.mark.parametrize("format", ["mp4", "fragmented", "mov", "matroska", "mpegts"])
def test_a_film_that_starts_late(format):
    """In mp4 an empty edit says so. Whatever starts first starts at 0."""
    muxer = FRAGMENTS if format == "fragmented" else {}
    data = film("libx264", {"fragmented": "mp4"}.get(format, format), {"g": "16"}, muxer, late=3 * FPS)
    clip = video.Video(data)
    assert clip.duration == pytest.approx(COUNT / FPS, abs=1e-3)
    for times in samples():
        assert [number(p) for p in clip.frames(times)] == [int(time * FPS + 1e-4) for time in times], times


def test_a_film_whose_beginning_is_cut_off():
    """An edit list says where in the track time 0 is (ISO 14496-12, elst: duration, media time, rate)."""
    data, cut = made("libx264", "mp4", {"g": "16"}), 20
    at = data.index(b"elst") + 16
    begin = int.from_bytes(data[at : at + 4], "big")
    clip = video.Video(data[:at] + (begin + cut * 12800 // FPS).to_bytes(4, "big") + data[at + 4 :])
    for times in ([0.0], [0.5, 5.0, 8.9]):
        for backend in ("pyav", "decord"):
            found = [number(p) for p in clip.frames(times, backend=backend)]
            assert found == [cut + int(time * FPS + 1e-4) for time in times], backend


def test_damaged_key_frames_are_shown_as_in_playing():
    """What is missing of a key frame comes from the image before it, which only playing knows."""
    data = bytearray(made("mpeg4", "matroska", {"g": "50", "b": "8M"}))
    with av.open(io.BytesIO(data)) as container:
        keys = [packet.pos + int(0.7 * packet.size) for packet in container.demux(video=0) if packet.is_keyframe]
    for place in keys[1:]:
        data[place : place + 10] = b"\x55" * 10
    with media.opened(bytes(data)) as container:
        player = Player(container, seeking=False, min_size=None)
        expected = {time: player.at(time) for time in (2.3, 4.3, 6.9, 8.5)}
    for time, picture in expected.items():
        assert np.array_equal(video.Video(bytes(data)).frames([time])[0], picture), time


@pytest.mark.parametrize("time", [5.3, 8.9])
def test_after_a_seek_only_stamps_say_where_it_led(time, monkeypatch):
    clip = video.Video(made(*FILMS["mpeg4 mp4"]))
    monkeypatch.setattr(media.Clock, "__call__", lambda *_: None)
    assert number(clip.frames([time])[0]) == int(time * FPS + 1e-4)


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_pictures_smaller_than_the_header_says(backend):
    data = made("libvpx", "webm", {"g": "16", "deadline": "realtime", "b": "1M"})
    width, height = b"\xb0\x81\x20", b"\xba\x81\x20"
    assert data.count(width) == data.count(height) == 1
    data = data.replace(width, b"\xb0\x81\x40").replace(height, b"\xba\x81\x40")
    assert [number(p) for p in video.Video(data).frames([0.0, 8.5], backend=backend)] == [0, 212]


@pytest.mark.parametrize("kind", LYING)
def test_seeking_never_takes_much_longer_than_playing(kind, monkeypatch):
    data, read = made(*LYING[kind]), []
    plain = Player._packets
    monkeypatch.setattr(Player, "_packets", lambda self: (read.append(p) or p for p in plain(self)))
    video.Video(data).frames([0.4 + i for i in range(12)])
    assert len(read) <= 2.1 * COUNT


MATRICES = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0)]
MATRICES.append((0, -1, -1, 0))


def gradient(width=64, height=32):
    """An image that no turn and no mirror leaves as it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 0 * x + 128], 2).astype(np.uint8)


def with_matrix(data, a, b, c, d):
    """Writes a display matrix into the header of an mp4's track (ISO 14496-12, tkhd: a b u c d v x y w)."""
    at = data.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    assert data[at + 32 : at + 36] == matrix[32:]
    return data[:at] + matrix + data[at + 36 :]


def placed(picture, a, b, c, d):
    """Moves each pixel from (x, y) to (a x + c y, b x + d y), and the corner back to (0, 0)."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    shown = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    shown[down, right] = picture[y, x]
    return shown


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_pictures_are_upright(matrix, backend):
    pytest.importorskip(backend.removeprefix("py"))
    data = with_matrix(video.encode(np.stack([gradient()] * 8), fps=4, quality=4), *matrix)
    shown = video.Video(data).frames([0.3, 1.6], backend=backend).astype(int)
    assert shown.shape[1:] == placed(gradient(), *matrix).shape
    assert np.abs(shown - placed(gradient(), *matrix)).mean() < 4
    small = video.Video(data).frames([0.3], min_size=16, backend=backend)[0].astype(int)
    assert np.abs(small - placed(gradient(32, 16), *matrix)).mean() < 8


def jpegs(pictures):
    """Writes Matroska of JPEG files as they are."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        track = container.add_stream("mjpeg", rate=10)
        track.height, track.width, track.pix_fmt = 40, 96, "yuvj420p"
        for index, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.time_base = track, index * 100, index * 100, Fraction(1, 1000)
            packet.is_keyframe = True
            container.mux(packet)
    return stream.getvalue()


def jpeg(picture, **options):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def test_pictures_turn_as_their_exif_says():
    """PyAV 17 and 18 read no display matrix beside EXIF."""
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise
    shown = video.Video(jpegs([jpeg(gradient(), exif=exif)] * 3)).frames([0.1])[0].astype(int)
    assert np.abs(shown - placed(gradient(), 0, 1, -1, 0)).mean() < 4


def test_every_picture_has_the_size_of_the_first():
    """FFmpeg scales each to it, whatever it looks like then; also where the first one seen is another."""
    sizes = [(64, 32), (128, 64), (32, 32), (48, 96), (64, 32)]
    data = jpegs([jpeg(gradient(*size)) for size in sizes for _ in range(40)])
    clip = video.Video(data)
    for times in ([1.0, 5.0, 9.0, 13.0, 17.0], [9.0], [13.0]):
        shown = clip.frames(times).astype(int)
        assert shown.shape[1:] == (32, 64, 3)
        assert max(np.abs(picture - gradient()).mean() for picture in shown) < 4
    assert clip.frames([5.0, 9.0], min_size=16).shape == (2, 16, 32, 3)
    assert clip.frames([5.0, 9.0], backend="decord").shape == (2, 32, 64, 3)
