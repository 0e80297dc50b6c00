"""Measures 16 images in two seconds and one second of sound of films, beside decord with sound read by hand.

python tools/bench/video.py [FILM ...], on one core. By hand means PyAV's decoder and resampler after a seek, and a cut.
Films in H.264 show most: where no image is left out, as in VP9, both are bound by the same decoder.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import decord
import numpy as np
import torch
from timing import Row, compare, show

from mmssl.modalities.audio import Audio
from mmssl.modalities.video import Video, encode

IMAGES, APART, RATE = 16, 0.125, 16_000


def images_by_hand(data: bytes, fps: float, times: Sequence[float]) -> np.ndarray:
    """Returns the images (T, H, W, 3) at these times as decord counts them."""
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    pictures: np.ndarray = reader.get_batch([min(int(time * fps + 1e-6), len(reader) - 1) for time in times]).asnumpy()
    return pictures


def sound_by_hand(data: bytes, start: float) -> np.ndarray:
    """Returns a second of mono sound from a start on."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        container.seek(int(max(0.0, start - 0.1) / stream.time_base), stream=stream)
        resampler, pieces, first = av.AudioResampler(format="flt", layout="mono", rate=RATE), [], 0.0
        for frame in container.decode(stream):
            first = first if pieces else frame.time
            pieces += [out.to_ndarray()[0] for out in resampler.resample(frame)]
            if frame.time > start + 1:
                break
    begin = max(0, round((start - first) * RATE))
    return np.concatenate(pieces)[begin : begin + RATE]


def decode(data: bytes, start: float, end: float) -> None:
    """Decodes every image from the key frame before the start to the end."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(start / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time >= end:
                return


def made() -> bytes:
    """Returns a film of 640 x 360: noise that moves over a smooth background, eight seconds, and noise to hear."""
    random, fps = np.random.default_rng(0), 25
    background = np.kron(random.integers(0, 255, (9, 16, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    grain = random.integers(0, 255, (120, 120, 3), np.uint8)
    images = np.repeat(background[None], 8 * fps, axis=0)
    for time, image in enumerate(images):
        image[120:240, 2 * time : 2 * time + 120] = grain
    return encode(images, fps=fps, audio=random.uniform(-0.5, 0.5, 8 * RATE), sample_rate=RATE, keyframe_interval=50)


def rows(films: Sequence[str] = ()) -> Iterator[Row]:
    """Yields one row for each film, by default one that is made."""
    torch.set_num_threads(1)
    for data in [Path(name).read_bytes() for name in films] or [made()]:
        video, audio = Video(data), Audio(data)
        start, (width, height), fps = video.duration / 3, video.size, video.fps
        times = [start + index * APART for index in range(IMAGES)]
        yield compare(
            f"{IMAGES} images and 1 s of sound, {width} x {height}",
            lambda v=video, a=audio, t=times: (v.frames(t), a.read(sample_rate=RATE, start=t[0], seconds=1.0)),
            lambda d=data, f=fps, t=times: (images_by_hand(d, f, t), sound_by_hand(d, t[0])),
            against="decord and sound by hand",
            bound=lambda d=data, t=times: decode(d, t[0], t[-1]),
            bound_by="decoding every image",
        )


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("films", nargs="*", metavar="FILM", help="films with sound")
    show(rows(command.parse_args().films))
