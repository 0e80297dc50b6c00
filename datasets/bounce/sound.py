"""The sound of impacts: a contact click and the ringing of modes; pitch from size, timbre from material."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

RATE = 16_000  # Hz
PITCH = {"small": 920.0, "medium": 560.0, "large": 340.0}  # Hz of the lowest mode
RING = 0.8  # s that is synthesised of each impact


@dataclass(frozen=True)
class Timbre:
    """How a material rings: modes as ratios to the pitch, their levels, decay (s) of the lowest, and the click."""

    ratios: tuple[float, ...]
    levels: tuple[float, ...]
    decay: float
    damping: float  # how much faster higher modes die
    click: float
    click_decay: float


TIMBRES = {
    "rubber": Timbre((0.5, 0.75, 1.0), (1.0, 0.5, 0.3), 0.035, 0.5, 0.25, 0.006),
    "wood": Timbre((1.0, 2.57, 4.1, 5.9), (1.0, 0.6, 0.35, 0.2), 0.045, 0.6, 0.5, 0.003),
    "metal": Timbre((1.0, 2.76, 3.9, 5.4, 7.1), (0.7, 0.8, 0.5, 0.5, 0.3), 0.28, 0.25, 0.4, 0.0015),
}


def ring(material: str, pitch: float, rng: np.random.Generator) -> Array:
    """Returns one impact (RING seconds) at unit speed."""
    timbre = TIMBRES[material]
    time = np.arange(round(RING * RATE)) / RATE
    tone = np.zeros_like(time)
    for ratio, level in zip(timbre.ratios, timbre.levels, strict=True):
        frequency = pitch * ratio * rng.uniform(0.99, 1.01)
        if frequency < RATE / 2:
            decay = timbre.decay / (1 + timbre.damping * (ratio - timbre.ratios[0]))
            tone += level * np.sin(2 * np.pi * frequency * time + rng.uniform(0, 0.5)) * np.exp(-time / decay)
    noise = rng.standard_normal(len(time)) * np.exp(-time / timbre.click_decay)
    return (tone + timbre.click * noise) * (1 - time / RING) ** 2


def soundtrack(
    impacts: list[tuple[float, float, int]], voices: list[tuple[str, str]], seconds: float, rng: np.random.Generator
) -> Array:
    """Returns the sound track (seconds * RATE,) float32 in [-1, 1].

    impacts: (time in s, which may lie before 0, speed in m / s, voice); voices: (material, size) of each object.
    The gain is drawn per clip, so that loudness tells of speed within a clip but not between clips.
    """
    rings = [ring(material, PITCH[size] * rng.uniform(0.94, 1.06), rng) for material, size in voices]
    count = round(seconds * RATE)
    padded = np.zeros(count + 2 * len(rings[0]))  # room for what began before, and rings on after
    for time, speed, voice in impacts:
        start = len(rings[0]) + round(time * RATE)
        if 0 <= start < count + len(rings[0]):
            padded[start : start + len(rings[0])] += rings[voice] * speed * rng.uniform(0.85, 1.15)
    wave = padded[len(rings[0]) : len(rings[0]) + count]
    wave = wave / (np.abs(wave).max() + 1e-6) * 10 ** rng.uniform(-0.8, -0.05)
    return (wave + hiss(count, rng)).astype(np.float32)


def hiss(count: int, rng: np.random.Generator) -> Array:
    """Returns quiet room noise: white and brown, mixed at random."""
    white = rng.standard_normal(count)
    rumble = np.convolve(rng.standard_normal(count + 63), np.hanning(64) / 5, mode="valid")
    mix = rng.uniform(0, 1)
    return (white * mix + rumble * (1 - mix)) * 10 ** rng.uniform(-3.3, -2.6)
