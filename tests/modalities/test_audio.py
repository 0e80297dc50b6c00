"""Sound comes out at the asked rate and at the right time, also from inside a video."""

import pickle
import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import audio, video

RATE = 16_000


def clicks(seconds=3.0, rate=RATE, at=(0.5, 1.25, 2.75)):
    """Short decaying tones at known times."""
    time = np.arange(int(seconds * rate)) / rate
    wave = sum(np.where(time >= t, np.exp(-60 * (time - t)) * np.sin(2500 * (time - t)), 0) for t in at)
    return 0.8 * wave.astype(np.float32)


def lag(found, expected):
    """Returns by how many samples a sound comes late, from the peak of the correlation."""
    n = 2 * max(len(found), len(expected))
    peak = int(np.fft.irfft(np.fft.rfft(found, n) * np.conj(np.fft.rfft(expected, n))).argmax())
    return peak if peak < n // 2 else peak - n


def in_video(wave, seconds=3):
    grey = np.full((int(seconds * 10), 32, 32, 3), 128, np.uint8)
    return video.encode(grey, fps=10, audio=wave, sample_rate=RATE)


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3", "mp4"])
@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_sounds_read_back_in_time(format, rate):
    data = in_video(clicks()) if format == "mp4" else audio.encode(clicks(), sample_rate=RATE, format=format)
    sound = audio.decode(data, format)
    assert abs(sound.duration - 3) < 0.1
    found = sound.read(sample_rate=rate, seconds=3.0)
    assert found.dtype == torch.float32 and found.shape == (3 * rate,)
    assert abs(lag(found.numpy(), clicks(rate=rate))) <= rate * 0.001
    if format in ("wav", "flac") and rate == RATE:
        assert np.abs(found.numpy() - clicks()).max() < 1e-4


@pytest.mark.parametrize("codec", ["adpcm_ima_wav", "adpcm_ms", "pcm_mulaw", "g722"])
def test_compressed_wav_keeps_its_time(codec):
    """The stamps of ADPCM in WAV drift; its samples do not."""
    import io

    import av

    stream, wave, click = io.BytesIO(), np.zeros(30 * RATE, np.float32), clicks(1.0, at=(0.5,))
    for start in (0.0, 14.5, 29.0):
        wave[int(start * RATE) :][:RATE] = click
    with av.open(stream, "w", format="wav") as container:
        audio.add_track(container, wave, RATE, codec)()
    sound = audio.Audio(stream.getvalue())
    for start in (0.0, 14.5, 29.0):
        assert abs(lag(sound.read(sample_rate=RATE, start=start, seconds=1.0).numpy(), click)) < 25
    assert abs(len(sound.read(sample_rate=RATE)) / RATE - 30) < 0.15  # the last block is filled up


def test_a_window_is_the_same_part_of_the_whole():
    wave = np.random.default_rng(0).normal(0, 0.2, 30 * RATE).astype(np.float32)
    for format, rate in (("flac", RATE), ("mp3", RATE), ("wav", RATE), ("wav", 11_025)):
        sound = audio.Audio(audio.encode(wave, sample_rate=RATE, format=format))
        whole = sound.read(sample_rate=rate)
        for start in (0.0, 3.3, 17.77, 28.9):  # the later ones are found by seeking
            part = sound.read(sample_rate=rate, start=start, seconds=1.0)
            assert torch.allclose(part, whole[round(start * rate) :][:rate], atol=1e-3), (format, start)


@pytest.mark.parametrize("codec", ["pcm_s16le", "flac", "libmp3lame", "aac"])  # packed and planar ones
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_a_window_that_begins_late_is_exactly_that_part_at_other_rates(codec, layout):
    import io

    import av

    stream, random = io.BytesIO(), np.random.default_rng(0)
    with av.open(stream, "w", format="matroska") as container:
        track = container.add_stream(codec, rate=44_100, layout=layout)
        noise = random.normal(0, 0.2, (1, 3 * 44_100 * track.layout.nb_channels)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="flt", layout=layout)
        frame.sample_rate, frame.pts = 44_100, 0
        for whole in (frame, None):
            container.mux(track.encode(whole))
    sound = audio.Audio(stream.getvalue())
    for rate in (RATE, 11_025, 44_100):
        whole = sound.read(sample_rate=rate, seconds=3.0)
        assert whole.std() > 0.05
        for start in (0.5, 1.2, 2.0):
            part = sound.read(sample_rate=rate, start=start, seconds=1.0)
            assert torch.equal(part, whole[round(start * rate) :][:rate]), (rate, start)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("rate", [RATE, 8000, 15_991])
def test_plain_wav_is_what_ffmpeg_reads(kind, rate, tmp_path, monkeypatch):
    """Of every type, mono and stereo, from bytes and from a file; at an odd rate FFmpeg resamples both."""
    from scipy.io import wavfile

    wave = np.stack([clicks(), 0.5 * clicks(at=(1.0, 2.0))], axis=1)
    if kind == "uint8":
        wave = np.round(wave * 127 + 128)
    elif kind.startswith("int"):
        wave = np.round(wave * np.iinfo(kind).max)
    for name, samples in (("stereo", wave), ("mono", wave[:, 0])):
        path = tmp_path / f"{name}.wav"
        wavfile.write(path, RATE, samples.astype(kind))
        options = {"sample_rate": rate, "start": 0.3, "seconds": 2.0}
        found = [audio.Audio(data).read(**options) for data in (path, path.read_bytes())]
        with monkeypatch.context() as without:
            without.setattr(audio.wav, "read", lambda data: None)
            expected = audio.Audio(path).read(**options)
            assert audio.Audio(path).duration == pytest.approx(3.0)
        assert audio.Audio(path).duration == 3.0
        assert torch.equal(*found)
        assert torch.allclose(found[0], expected, atol=1e-6 if rate == RATE else 0.02)


def test_wav_with_notes_of_some_program_is_plain_and_a_truncated_one_is_not():
    data = audio.encode(clicks(), sample_rate=RATE)
    place = data.index(b"data")
    noted = data[:place] + b"cue " + (4).to_bytes(4, "little") + bytes(4) + data[place:]
    samples, rate = audio.wav.read(noted)
    assert len(samples) == 3 * RATE and rate == RATE
    assert audio.wav.read(data[:-1000]) is None
    half = audio.Audio(data[: len(data) // 2])
    assert 1.4 < half.duration < 1.6
    lost = round(half.duration * RATE) - len(half.read(sample_rate=RATE))
    assert 0 <= lost < 1024, "before FFmpeg 8.1 (PyAV 18) a last packet that ends inside a sample does not decode"


def test_silence_around_the_sound():
    sound = audio.Audio(audio.encode(np.full(RATE, 0.5), sample_rate=RATE))
    early = sound.read(sample_rate=RATE, start=-1.0, seconds=3.0)
    assert early[:RATE].abs().max() == 0 and early[-RATE:].abs().max() == 0
    assert early[RATE : 2 * RATE].min() > 0.4
    assert sound.read(sample_rate=RATE, start=50.0, seconds=0.5).abs().max() == 0


@pytest.mark.parametrize("layout", ["stereo", "5.1", "7.1"])
def test_channels_are_averaged(layout):
    """Eight planar channels bring PyAV down where one touches the planes."""
    import io

    import av

    stream, channels = io.BytesIO(), {"stereo": 2, "5.1": 6, "7.1": 8}[layout]
    with av.open(stream, "w", format="wav") as container:
        track = container.add_stream("pcm_s16le", rate=8000, layout=layout)
        levels = np.tile(np.linspace(-0.25, 0.75, channels, dtype=np.float32), 800)[None]
        frame = av.AudioFrame.from_ndarray(levels, format="flt", layout=layout)
        frame.sample_rate = 8000
        container.mux(track.encode(frame))
    mono = audio.Audio(stream.getvalue()).read(sample_rate=8000)
    assert torch.allclose(mono, torch.full((800,), 0.25), atol=1e-3)


def test_late_sound_keeps_its_place_on_the_clock():
    """A Matroska file whose sound starts a second after its images."""
    import io

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        pictures, track = container.add_stream("mpeg4", rate=10), container.add_stream("flac", rate=RATE, layout="mono")
        pictures.width = pictures.height = 32
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = index
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        sound = av.AudioFrame.from_ndarray(np.full((1, RATE), 16000, np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts = RATE, RATE
        container.mux(track.encode(sound))
        container.mux(track.encode(None))
    found = audio.Audio(stream.getvalue()).read(sample_rate=RATE, seconds=2.0)
    assert found[: RATE - 20].abs().max() == 0 and found[RATE + 20 : 2 * RATE - 20].min() > 0.4


def test_a_waveform_answers_as_a_file_does():
    plain, file = audio.load(clicks(), sample_rate=RATE), audio.Audio(audio.encode(clicks(), sample_rate=RATE))
    assert plain.duration == file.duration == 3.0
    for options in ({"start": 0.4, "seconds": 1.0}, {"start": -0.5, "seconds": 4.0}, {}):
        a, b = plain.read(sample_rate=RATE, **options), file.read(sample_rate=RATE, **options)
        assert torch.allclose(a, b, atol=1e-4)
    assert len(plain.read(sample_rate=8000)) == 24_000


def test_what_has_no_sound(tmp_path):
    silent = video.encode(np.zeros((5, 16, 16, 3), np.uint8), fps=5)
    for data, reason in ((silent, "no sound track"), (b"", "not a media file"), (b"RIFF" * 50, "not a media file")):
        with pytest.raises(DamagedError, match=reason):
            audio.Audio(data).read(sample_rate=RATE)
    with pytest.raises(DamagedError, match="not finite"):
        audio.load(torch.tensor([0.0, float("nan")]), sample_rate=RATE)
    for mistake in (lambda: audio.Audio(tmp_path / "no.wav").duration, lambda: audio.load(3, sample_rate=RATE)):
        with pytest.raises(UserError):
            mistake()
    with pytest.raises(UserError, match="float"):
        audio.load(torch.zeros(3, 2), sample_rate=RATE)


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_damaged_sound_gives_what_decodes_or_damage(format):
    data, rng = audio.encode(clicks(), sample_rate=RATE, format=format), random.Random(0)
    for trial in range(25):
        wrong = bytearray(data if trial % 2 else data[: rng.randrange(len(data))])
        for _ in range(min(len(wrong), 10)):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        with suppress(DamagedError):
            assert audio.Audio(bytes(wrong)).read(sample_rate=RATE, seconds=3.0).shape == (3 * RATE,)


def test_a_truncated_sound_keeps_its_beginning():
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)
    data = audio.encode(wave, sample_rate=RATE, format="flac")
    half = audio.Audio(data[: len(data) * 2 // 3])
    assert 0.6 < half.duration < 2.9
    assert np.abs(half.read(sample_rate=RATE, seconds=0.6).numpy() - wave[: int(0.6 * RATE)]).max() < 1e-4


def test_handles_pickle():
    sound = audio.Audio(audio.encode(clicks(), sample_rate=RATE))
    again = pickle.loads(pickle.dumps(sound))
    assert torch.equal(again.read(sample_rate=RATE), sound.read(sample_rate=RATE))
    assert len(repr(sound)) < 100
