"""Sound: wav, flac, ogg, mp3 and the track of any video, decoded and resampled in one pass on the video's clock."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.limits import check
from mmssl.modalities import container as media
from mmssl.modalities import wav

EXTENSIONS = ("wav", "flac", "ogg", "mp3", "m4a")
NO_SOUND = "no sound track"
TOO_LONG = "sound too long to hold"

# Decoders lean on what came before, so decoding starts this long before the first wanted sample.
RUN_IN = 0.5
# What ends this long before the first wanted sample is decoded, but not resampled: filters are far shorter.
UNHEARD = 0.1
# Below this it is quicker to decode from the start than to seek.
SEEK_FROM = 10.0
# torchaudio's filter grows with the samples after which two rates fall together again: 441 from 44.1 to 16 kHz, but as
# many as the rate itself for an odd one, which FFmpeg then resamples.
LONGEST_PERIOD = 1000
# A jump of the time stamps larger than this is a gap, or an overlap, not rounding.
JUMP = 0.05
# FFmpeg reckons the stamps of these from the mean bit rate, which misses by a tenth of a second a minute where blocks
# have headers (ADPCM); they have no gaps, so their samples are counted from the start.
COUNTED = ("wav", "w64")


class Audio(media.MediaFile):
    """A sound track, opened only inside calls: bytes or a path."""

    @cached_property
    def is_there(self) -> bool:
        """Whether there is a track at all; a video may be silent."""
        with media.opened(self.data) as container:
            return bool(container.streams.audio)

    @cached_property
    def duration(self) -> float:
        """When the last sound ends, in seconds on the clock that a video's frames use."""
        plain = wav.read(self.data)
        if plain is not None:
            return media.checked(len(plain[0]) / plain[1])
        return media.end_of(self.data, "audio", NO_SOUND)

    def read(self, *, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
        """Returns float32 mono (samples,): sample 0 is heard at `start`; silence fills what has no sound.

        Without `seconds`, reads to the end of the track, which the limit sound_seconds bounds.
        """
        plain = wav.read(self.data)
        if plain is not None and seconds is None:
            check("sound_seconds", len(plain[0]) / plain[1] - start, TOO_LONG)
        if plain is not None and plain[1] // math.gcd(plain[1], sample_rate) <= LONGEST_PERIOD:
            return _window(*plain, sample_rate=sample_rate, start=start, seconds=seconds)
        runs = _runs(self.data, sample_rate, start, seconds)
        return _assembled(runs, sample_rate, seconds)


@dataclass(frozen=True)
class Waveform:
    """A sound already in memory, float32 (samples,); answers as Audio does."""

    samples: Tensor
    sample_rate: int

    @property
    def duration(self) -> float:
        return len(self.samples) / self.sample_rate

    def read(self, *, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
        """Returns float32 (samples,) from `start`, at the rate, padded with silence."""
        return _window(self.samples.numpy(), self.sample_rate, sample_rate=sample_rate, start=start, seconds=seconds)


@dataclass(slots=True)
class Run:
    """A stretch of sound without gaps, in pieces; what lies before the first wanted sample is counted, not kept."""

    at: int  # place of the first sample that is kept, 0 being the first wanted one
    pieces: list[np.ndarray] = field(default_factory=list)

    def extend(self, pieces: list[np.ndarray]) -> None:
        for piece in pieces:
            if not self.pieces and self.at + len(piece) <= 0:
                self.at += len(piece)
            else:
                self.pieces.append(piece)

    def end(self) -> int:
        return self.at + sum(map(len, self.pieces))


def _runs(data: bytes | Path, rate: int, start: float, seconds: float | None) -> list[Run]:
    """Decodes and resamples from before `start` to after the end, as stretches without gaps."""
    stop = float("inf") if seconds is None else start + seconds
    if start - RUN_IN > SEEK_FROM:
        runs = _decode(data, rate, start, stop, seek_to=start - RUN_IN)
        if runs:
            return runs
    return _decode(data, rate, start, stop)


def _decode(data: bytes | Path, rate: int, start: float, stop: float, *, seek_to: float | None = None) -> list[Run]:
    """Decodes from the track's start, or from where a seek leads; nothing where that is too late."""
    runs: list[Run] = []
    with media.opened(data) as container:
        stream = media.track(container, "audio", NO_SOUND)
        zero = media.zero(container)
        counted = container.format.name in COUNTED and not stream.codec_context.name.startswith("pcm_")
        if seek_to is not None and (counted or not media.seek(container, stream, seek_to + zero)):
            return []
        resampler, clock, stamps, heard = None, 0.0, media.Clock(), 0.0
        for frame in media.decoded(container.demux(stream), stream):
            stamp = stamps(frame, stream)
            if stamp is None and seek_to is not None and resampler is None:
                return []
            now = clock if stamp is None or counted else stamp - zero
            if now >= stop:
                break
            if resampler is None or abs(now - clock) > JUMP or not resampler.takes(frame):
                if resampler is None and seek_to is not None and now > start:
                    return []
                if resampler is not None:
                    runs[-1].extend(resampler.rest())
                resampler, clock = _Resampler(frame, rate, start - now - UNHEARD), now
                runs.append(Run(round((now - start) * rate) + resampler.places))
            runs[-1].extend(resampler(frame))
            clock += frame.samples / frame.sample_rate
            heard += frame.samples / frame.sample_rate if clock > start else 0.0
            check("sound_seconds", heard if stop == math.inf else heard - (stop - start), TOO_LONG)  # stamps that stand
        if resampler is None:
            if seek_to is not None:
                return []
            raise DamagedError("sound that does not decode")
        runs[-1].extend(resampler.rest())
    return runs


class _Resampler:
    """Makes frames of one format float32 at one rate, and mono by the mean: FFmpeg's own mix may exceed 1.

    after: seconds at the beginning that need not be resampled. `places` samples are then missing of what is made.
    """

    def __init__(self, frame: Any, rate: int, after: float = 0.0) -> None:
        import av

        if not 1000 <= frame.sample_rate <= 1_000_000:
            raise DamagedError("sound at an impossible rate", f"{frame.sample_rate} Hz")
        self.kind, self.channels = self._kind(frame), frame.layout.nb_channels
        # A filter graph costs more than decoding a short clip, so what is right already goes past it.
        self.is_right = frame.format.name == "fltp" and frame.sample_rate == rate and self.channels < 8
        self.convert = None if self.is_right else av.AudioResampler(format="flt", layout=frame.layout, rate=rate)
        own, can_be_cut = frame.sample_rate, frame.layout.name in ("mono", "stereo")
        whole = own // math.gcd(own, rate)  # a cut where samples of both rates fall together changes no later one
        self.ahead = int(max(0.0, after) * own) // whole * whole if can_be_cut else 0  # to be passed over yet
        self.places = self.ahead * rate // own

    @staticmethod
    def _kind(frame: Any) -> tuple[str, str, int]:
        return frame.format.name, frame.layout.name, frame.sample_rate

    def takes(self, frame: Any) -> bool:
        return self._kind(frame) == self.kind

    def __call__(self, frame: Any) -> list[np.ndarray]:
        import av

        if frame is not None and self.ahead:
            passed = min(self.ahead, frame.samples)
            self.ahead -= passed
            if passed == frame.samples:
                return []
            frame = _without(frame, passed)
        if self.convert is None:
            return [] if frame is None else [frame.to_ndarray().mean(axis=0)]
        if frame is not None:
            frame.pts = None  # stretches are placed by our own clock; the resampler must not pad by its own
        try:
            # Packed samples (t, C): PyAV 18 reads past the planes of planar sound with eight channels.
            parts = [out.to_ndarray().reshape(-1, self.channels) for out in self.convert.resample(frame)]
            return [part.mean(axis=1) for part in parts]
        except (av.FFmpegError, ValueError) as error:
            raise DamagedError("sound that does not resample", str(error)) from None

    def rest(self) -> list[np.ndarray]:
        return self(None)


def _without(frame: Any, count: int) -> Any:
    """Returns a frame without its first samples."""
    import av

    samples, width = frame.to_ndarray(), 1 if frame.format.is_planar else frame.layout.nb_channels
    format, layout = frame.format.name, frame.layout.name
    later = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, count * width :]), format=format, layout=layout)
    later.sample_rate, later.time_base = frame.sample_rate, frame.time_base
    return later


def _window(samples: np.ndarray, own: int, *, sample_rate: int, start: float, seconds: float | None) -> Tensor:
    """Cuts what is heard out of samples (t,) or (t, channels) at a rate of their own, and only that is resampled."""
    whole = own // math.gcd(own, sample_rate)  # a cut begins where samples of both rates fall together
    first = max(0, int((start - RUN_IN) * own) // whole * whole)
    last = None if seconds is None else max(0, math.ceil((start + seconds + RUN_IN) * own))
    heard = torch.from_numpy(wav.as_float(samples[first:last]))
    if own != sample_rate and len(heard):
        from torchaudio.functional import resample

        heard = resample(heard, own, sample_rate)
    return _assembled([Run(round((first / own - start) * sample_rate), [heard.numpy()])], sample_rate, seconds)


def _assembled(runs: list[Run], rate: int, seconds: float | None) -> Tensor:
    """Lays stretches of sound onto silence."""
    length = max([0, *(run.end() for run in runs)]) if seconds is None else round(seconds * rate)
    if seconds is None:
        check("sound_seconds", length / rate, TOO_LONG)
    out = np.zeros(length, dtype=np.float32)
    for run in runs:
        at = run.at
        for piece in run.pieces:
            first, last = max(0, at), min(length, at + len(piece))
            if first < last:
                out[first:last] = piece[first - at : last - at]
            at += len(piece)
    if not np.isfinite(out).all():
        raise DamagedError("sound that is not finite")
    return torch.from_numpy(out)


def decode(data: bytes, extension: str = "") -> Audio:
    """Returns a handle on a sound file, or on the sound track of a video; nothing is opened yet."""
    return Audio(data)


def load(raw: Any, *, sample_rate: int) -> Audio | Waveform:
    """Takes a handle, a Video, a path, bytes, or a waveform (samples,) or (1, samples) at `sample_rate`."""
    if isinstance(raw, Audio | Waveform):
        return raw
    if isinstance(raw, str | Path):
        return Audio(Path(raw))
    if isinstance(raw, bytes | bytearray | memoryview):
        return Audio(bytes(raw))
    if isinstance(raw, media.MediaFile):
        return Audio(raw.data)
    if isinstance(raw, np.ndarray | Tensor):
        return Waveform(_mono(torch.as_tensor(raw)), sample_rate)
    raise UserError(f"expected a sound (path, bytes, Audio, array or tensor), found {type(raw).__name__}")


def _mono(samples: Tensor) -> Tensor:
    if samples.ndim == 2 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 1 or not len(samples) or not samples.is_floating_point():
        raise UserError(f"expected a float waveform (samples,), found {samples.dtype} {tuple(samples.shape)}")
    if not samples.isfinite().all():
        raise DamagedError("sound that is not finite")
    return samples.detach().cpu().float()


CODECS = {"wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "mp3": "libmp3lame"}


def encode(waveform: Any, *, sample_rate: int, format: str = "wav") -> bytes:
    """Writes a float waveform (samples,) in [-1, 1] as wav or flac (16 bit), ogg (Opus) or mp3."""
    import av

    if format not in CODECS:
        raise UserError(f"cannot write sound as {format!r}; known: {', '.join(CODECS)}")
    stream = io.BytesIO()
    with av.open(stream, "w", format=format) as container:
        add_track(container, waveform, sample_rate, CODECS[format])()
    return stream.getvalue()


def add_track(container: Any, waveform: Any, sample_rate: int, codec: str) -> Callable[[], None]:
    """Adds a mono track to a container; returns what writes it, once all tracks have been added."""
    import av

    samples = _mono(torch.as_tensor(waveform)).clamp(-1, 1)
    allowed = av.Codec(codec, "w").audio_rates or [sample_rate]
    rate = min((r for r in allowed if r >= sample_rate), default=max(allowed))  # the encoder resamples to it
    # AAC's fast coder takes a sixth of the time of the default and is nearer the original, but for pure loud tones
    options = {"aac_coder": "fast"} if codec == "aac" else {}
    stream = container.add_stream(codec, rate=rate, layout="mono", options=options)

    def write() -> None:
        frame = av.AudioFrame.from_ndarray(samples.numpy()[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    return write
