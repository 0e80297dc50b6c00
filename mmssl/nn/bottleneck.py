"""Residual convolutions without normalisation, as the discrete VAE of DALL-E is made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """Adds four convolutions of a quarter of the channels to a map, divided by the square of the network's `layers`.

    kernels: sizes of the four, each behind a ReLU. Ramesh et al., ICML 2021.
    """

    def __init__(self, inputs: int, outputs: int, *, kernels: Sequence[int], layers: int) -> None:
        super().__init__()
        hidden = max(1, outputs // 4)
        channels = (inputs, hidden, hidden, hidden, outputs)
        steps: list[nn.Module] = []
        for before, after, kernel in zip(channels, channels[1:], kernels, strict=False):
            steps += [nn.ReLU(), conv(before, after, kernel)]
        self.branch = nn.Sequential(*steps)
        self.short = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.gain = 1 / layers**2

    def forward(self, x: Tensor) -> Tensor:
        return self.short(x) + self.gain * self.branch(x)


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Builds a convolution that keeps the map's size, with weights that keep its variance."""
    made = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.normal_(made.weight, std=(inputs * kernel**2) ** -0.5)
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made
