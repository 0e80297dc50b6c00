"""dVAE: name each cell of an image by one of this many codes, so that the image can be drawn again from the names."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.logit_laplace import inside, logit_laplace, outside
from mmssl.nn.bottleneck import Bottleneck, conv
from mmssl.nn.probe import pixels_per_cell
from mmssl.numerics.color import as_unit
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.multi_view import MultiView
from mmssl.optim.schedule import cosine, ramp
from mmssl.types import Batch, Encoder, Loss, Method, Reconstruction
from mmssl.views import mae


class DVAE(MultiView):
    """Draws pixels from codes relaxed by Gumbel noise, which are to be equally frequent. Ramesh et al., ICML 2021.

    The encoder's tokens are the logits; `codes` is made for it, and its folder is the tokenizer that `beit` takes.

    width: channels of the decoder where it is finest.
    first: channels of the decoder's first layer.
    depth: blocks of the decoder at each size.
    kl: weight of the codes' divergence from evenness, per image, at its highest.
    kl_over: share of training in which that weight rises from 0.
    temperature: of the relaxation, first and last.
    cool_over: share of training in which the temperature falls.
    """

    modalities = ("image",)
    temperature: Tensor
    weight: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        width: int = 256,
        first: int = 128,
        depth: int = 2,
        kl: float = 6.6,
        kl_over: float = 0.0017,
        temperature: tuple[float, float] = (1.0, 1 / 16),
        cool_over: float = 0.05,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        cell = pixels_per_cell(encoders[self.key])
        if cell.bit_count() != 1 or min(temperature) <= 0:
            raise UserError(
                f"cells are {cell} pixels wide and temperatures {temperature}; expected 1, 2, 4, ..., above 0"
            )
        self.decoder = _decoder(self.dim, first, width, depth=depth, groups=cell.bit_length())
        self.kl, self.kl_over, self.range, self.cool_over = kl / (3 * cell**2), kl_over, temperature, cool_over
        self.register_buffer("temperature", torch.tensor(temperature[0]))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        x = as_unit(self.views(batch, least=1)[0])
        features = encoders[self.key](x)
        assert features.tokens is not None and features.grid is not None
        logits = features.tokens.float()  # (B, N, K)
        noise = -(-draws(batch.extra["seed"], *logits.shape[1:]).log()).log()
        soft = ((logits + noise) / self.temperature).softmax(dim=2)
        mean, log_scale = self.decoder(soft.mT.unflatten(2, features.grid)).chunk(2, dim=1)  # each (B, 3, H, W)
        drawn = logit_laplace(inside(x), mean, log_scale).mean((1, 2, 3))
        log_q = logits.log_softmax(dim=2)
        uneven = (log_q.exp() * (log_q + math.log(self.dim))).sum(dim=2).mean(dim=1)  # (B,), per cell
        present = self.present(batch)
        total = dist.mean(drawn + self.weight * uneven, present)
        error = (outside(mean.float().sigmoid()) - x).square().mean((1, 2, 3))
        logs = {"nll": drawn, "kl": uneven, "error": error}
        logs = {name: dist.mean(value.detach(), present) for name, value in logs.items()}
        shares = log_q.detach().exp().mean(dim=1).where(present[:, None], 0.0)
        used = shares.sum(dim=0) / present.sum().clamp(min=1)
        logs |= {"temperature": self.temperature.clone(), "codes_used": (-(used * (used + 1e-12).log()).sum()).exp()}
        return Loss(total, logs, {self.key: features.pooled.detach()})

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction:
        """Each cell is drawn from its likeliest code alone."""
        x = as_unit(self.views(batch, least=1)[0])
        features = encoders[self.key](x)
        assert features.tokens is not None and features.grid is not None
        codes = F.one_hot(features.tokens.argmax(dim=2), self.dim).to(x.dtype)
        mean, _ = self.decoder(codes.mT.unflatten(2, features.grid)).chunk(2, dim=1)
        return Reconstruction(x, outside(mean.float().sigmoid()), x)

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        start, end = self.range
        self.temperature.fill_(cosine(min(progress / self.cool_over, 1.0), start=start, end=end))
        self.weight.fill_(ramp(progress, start=0.0, end=self.kl, over=self.kl_over))


def _decoder(codes: int, first: int, width: int, *, depth: int, groups: int) -> nn.Sequential:
    """Builds what draws two maps per colour (B, 6, H, W) of codes (B, K, h, w), twice as fine from group to group."""
    layers: list[nn.Module] = [conv(codes, first, 1)]
    inputs = first
    for group in reversed(range(groups)):
        for _ in range(depth):
            outputs = width * 2**group
            layers += [Bottleneck(inputs, outputs, kernels=(1, 3, 3, 3), layers=groups * depth)]
            inputs = outputs
        layers += [nn.Upsample(scale_factor=2)] if group else []
    return nn.Sequential(*layers, nn.ReLU(), conv(inputs, 6, 1))


method = Method(mae.view, DVAE)
