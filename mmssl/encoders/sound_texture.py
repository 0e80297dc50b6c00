"""Sound textures: time-averaged statistics of a sound, without anything learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.numerics.sound_texture import DISTANCES, cochlear_filters, envelopes, modulation_filters, statistics
from mmssl.transforms.audio import AudioPreprocess
from mmssl.types import Encoder, Features

AT_ONCE = 2**22  # samples of all bands that are worked on at a time


class SoundTexture(Encoder):
    """Statistics of the envelopes of a cochlea's bands: means, deviations, modulations, correlations, and loudness.

    502 numbers with 32 bands and 10 modulations; it has no weights. McDermott & Simoncelli, Neuron 2011; as Owens et
    al., ECCV 2016, have them, apart from the edges of the lowest and highest band, and each kind of statistics being
    divided by the square root of how many it has.

    sample_rate: in Hz.
    seconds: length of what is heard.
    bands: of the cochlea.
    low, high: edges of the lowest and the highest band in Hz, the latter by default 0.45 of the sample rate.
    power: to which envelopes are raised.
    envelope_rate: of the envelopes, in Hz.
    modulations: filters of the envelopes, from 0.5 Hz to half the envelopes' rate.
    """

    modality = "audio"

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        seconds: float = 3.75,
        bands: int = 32,
        low: float = 50.0,
        high: float | None = None,
        power: float = 0.3,
        envelope_rate: float = 400.0,
        modulations: int = 10,
    ) -> None:
        super().__init__()
        high = 0.45 * sample_rate if high is None else high
        self.frames, samples = round(envelope_rate * seconds), round(sample_rate * seconds)
        if not 0 < low < high <= sample_rate / 2 or bands <= max(DISTANCES) or modulations < 2 or self.frames < 2:
            raise UserError(
                f"low is {low}, high {high}, bands {bands}, modulations {modulations} and envelopes have {self.frames} "
                f"moments; expected 0 < low < high <= {sample_rate / 2:g}, at least 6 bands, 2 modulations, 2 moments"
            )
        self.preprocess = AudioPreprocess(sample_rate=sample_rate, seconds=seconds)
        self.power = power
        self.dim = 2 * bands + bands * modulations + sum(bands - gap for gap in DISTANCES) + 1
        filters = cochlear_filters(samples, sample_rate, bands, low, high)
        self.register_buffer("cochlea", filters, persistent=False)
        modulated = modulation_filters(self.frames, envelope_rate, modulations, 0.5, envelope_rate / 2)
        self.register_buffer("modulated", modulated, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it was put."""
        return self.get_buffer("cochlea").device

    @torch.no_grad()
    def forward(self, x: Tensor) -> Features:
        cochlea, modulated = self.get_buffer("cochlea"), self.get_buffer("modulated")
        with torch.autocast(x.device.type, enabled=False):
            parts = x.float().split(max(1, AT_ONCE // (x.shape[1] * len(cochlea))))
            found = [statistics(envelopes(part, cochlea, self.frames, self.power), modulated) for part in parts]
        return Features(torch.cat(found))


encoder = SoundTexture
