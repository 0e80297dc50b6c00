"""The image shown at a time is found, by seeking or not, by either backend, in whole and damaged clips."""

import pickle
import random
from contextlib import suppress

import numpy as np
import pytest

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import container as media
from mmssl.modalities import video
from mmssl.modalities.playback import Player

FPS, COUNT = 20, 160


def numbered(count=COUNT, size=32):
    """Images whose number can be read off: its bits as bright and dark blocks."""
    pictures = np.zeros((count, size, size, 3), np.uint8)
    for index in range(count):
        for bit in range(8):
            row, column = divmod(bit, 4)
            pictures[index, row * 16 : row * 16 + 16, column * 8 : column * 8 + 8] = 220 if index >> bit & 1 else 30
    return pictures


def number(picture):
    blocks = picture.reshape(2, 16, 4, 8, 3).mean(axis=(1, 3, 4)).reshape(-1)
    return int(sum(1 << bit for bit, value in enumerate(blocks) if value > 125))


@pytest.fixture(scope="module")
def data():
    return video.encode(numbered(), fps=FPS, keyframe_interval=16)


def test_pictures_are_those_shown_at_the_times(data):
    clip = video.Video(data)
    assert clip.fps == FPS and clip.duration == pytest.approx(COUNT / FPS, abs=1e-3)
    rng = random.Random(0)
    times = [rng.uniform(0, clip.duration) for _ in range(40)] + [0.0, 3.05, 3.0499, -1.0, 99.0]
    expected = [min(max(int(time * FPS + 1e-4), 0), COUNT - 1) for time in times]
    assert [number(p) for p in clip.frames(times)] == expected
    assert [number(p) for p in clip.frames(times, backend="decord")] == expected


def test_both_backends_return_the_same_pixels(data):
    times = [0.01, 2.34, 7.99]
    one, other = (video.Video(data).frames(times, backend=b).astype(int) for b in ("pyav", "decord"))
    assert np.abs(one - other).mean() < 2


def test_sparse_sampling_seeks(data, monkeypatch):
    decoded = []
    plain = media.decoded

    def counted(packets, stream):
        for frame in plain(packets, stream):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(media, "decoded", counted)
    assert [number(p) for p in video.Video(data).frames([0.0, 7.5])] == [0, 150]
    assert len(decoded) < 50
    decoded.clear()
    video.Video(data).frames([i / FPS for i in range(COUNT)])
    assert len(decoded) == COUNT, "dense sampling decodes each image once"


def test_seeking_and_playing_agree(data):
    times = np.linspace(0, 8, 37).tolist()
    with media.opened(data) as one, media.opened(data) as two:
        seeking, playing = (Player(c, seeking=s, min_size=None) for c, s in ((one, True), (two, False)))
        for time in times:
            assert np.array_equal(seeking.at(time), playing.at(time))


def test_smaller_pictures(data, tmp_path):
    (tmp_path / "a.mp4").write_bytes(data)
    clip = video.load(tmp_path / "a.mp4")
    assert clip.frames([1.0], min_size=16).shape == (1, 16, 16, 3)
    assert clip.frames([1.0], min_size=16, backend="decord").shape == (1, 16, 16, 3)
    assert clip.frames([1.0], min_size=500).shape == (1, 32, 32, 3)


def test_pictures_in_memory_answer_as_a_clip_does(data):
    held, clip = video.load(numbered(), fps=FPS), video.Video(data)
    assert held.duration == pytest.approx(clip.duration, abs=1e-3)
    times = [0.0, 0.049, 0.05, 4.444, 99.0, -1.0]
    assert [number(p) for p in held.frames(times)] == [number(p) for p in clip.frames(times)]
    assert held.frames([0.0], min_size=8).shape == (1, 8, 8, 3)


def fragmented(pictures):
    """Writes Matroska, which still plays when its end is missing."""
    import io

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        track = container.add_stream("mpeg4", rate=FPS)
        track.width, track.height, track.gop_size = pictures.shape[2], pictures.shape[1], 8
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def test_a_partial_clip_keeps_what_decodes():
    whole = fragmented(numbered())
    clip = video.Video(whole[: len(whole) // 2])
    assert 2 < clip.duration < 6, "the header still promises 8 s"
    pictures = clip.frames([0.0, 1.0, 7.5])
    assert [number(p) for p in pictures][:2] == [0, 20]
    assert 40 < number(pictures[2]) < 120, "after the last image, the last one"


@pytest.mark.parametrize("make", [fragmented, lambda pictures: video.encode(pictures, fps=FPS)])
def test_flipped_bytes_give_pictures_or_damage(make):
    whole, rng = make(numbered(60)), random.Random(0)
    for trial in range(25):
        wrong = bytearray(whole if trial % 2 else whole[: rng.randrange(len(whole))])
        for _ in range(min(len(wrong), rng.choice((1, 10, 100)))):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        clip = video.Video(bytes(wrong))
        with suppress(DamagedError):
            assert clip.frames([0.0, clip.duration * 0.9, clip.duration / 2]).shape[0] == 3


def test_no_pictures(tmp_path):
    from mmssl.modalities import audio

    sound = audio.encode(np.zeros(16000), sample_rate=16000)
    for data, reason in ((sound, "video without images"), (b"", "not a media file"), (b"x" * 999, "not a media")):
        with pytest.raises(DamagedError, match=reason):
            video.Video(data).frames([0.0])
        with pytest.raises(DamagedError):
            _ = video.Video(data).duration
    with pytest.raises(UserError, match="there is no file"):
        video.Video(tmp_path / "no.mp4").frames([0.0])


def test_playlists_reach_nothing(tmp_path):
    """A playlist among the data must not make us read other files."""
    (tmp_path / "a.mp4").write_bytes(video.encode(numbered(8), fps=FPS))
    listing = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/a.mp4\n#EXT-X-ENDLIST\n"
    with pytest.raises(DamagedError):
        video.Video(listing.encode()).frames([0.0])


def test_mistakes_in_writing():
    with pytest.raises(UserError, match="even sides"):
        video.encode(np.zeros((2, 15, 16, 3), np.uint8), fps=5)
    with pytest.raises(UserError, match="sample_rate"):
        video.encode(np.zeros((2, 16, 16, 3), np.uint8), fps=5, audio=np.zeros(9))
    with pytest.raises(UserError, match="shape"):
        video.encode(np.zeros((16, 16, 3), np.uint8), fps=5)
    with pytest.raises(UserError, match="backend"):
        video.Video(b"").frames([0.0], backend="magic")


def test_the_same_clip_is_the_same_bytes():
    """x264's look-ahead with AVX-512 of AMD decides otherwise in some of a hundred runs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:66, :66]
    waves = [np.sin((x + 3 * i) / 9) + np.cos((y - 2 * i) / 7) + 2 for i in range(25)]
    pictures = (np.stack(waves)[..., None] * 60 + rng.normal(0, 3, (25, 66, 66, 3))).clip(0, 255).astype(np.uint8)
    assert len({video.encode(pictures, fps=12.5) for _ in range(60)}) == 1


def test_handles_pickle(data):
    clip = video.Video(data)
    assert clip.duration == pickle.loads(pickle.dumps(clip)).duration
    assert len(repr(clip)) < 100
