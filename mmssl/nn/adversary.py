"""A discriminator that learns, in the same step, to tell what a network draws from what is true."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class Adversary(nn.Module):
    """Says whether images (B, C, H, W) are real: strided convolutions, then one logit. Radford et al., ICLR 2016.

    widths: channels of its layers, each of which halves the sides. GroupNorm, not BatchNorm, so that neither samples
    nor processes, nor its two looks at a step's images, depend on one another.
    """

    def __init__(self, channels: int = 3, *, widths: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip((channels, *widths), widths, strict=False)):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)]
            layers += [nn.GroupNorm(1, outputs)] if number else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.answer = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns one logit per image (B,), above 0 for real."""
        logits: Tensor = self.answer(self.layers(x).mean((2, 3)))[:, 0]
        return logits.float()

    def losses(self, drawn: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Returns, per sample (B,), what being found out costs who draws, and what being wrong costs the adversary.

        Both can be summed and stepped at once, though one is to rise as the other falls: the first is computed with
        the adversary's weights held constant, so it moves the drawing network only, towards `real`; the second on
        images cut off from that network, so it moves the adversary only. It is the simultaneous step of Goodfellow
        et al., NeurIPS 2014, with their loss for drawing that does not saturate.
        """
        held = {name: weight.detach() for name, weight in self.named_parameters()}
        fooled: Tensor = functional_call(self, held, (drawn,))
        logits = self(torch.cat([real, drawn.detach()]))
        on_real, on_drawn = logits.chunk(2)
        return F.softplus(-fooled), (F.softplus(-on_real) + F.softplus(on_drawn)) / 2
