"""SimMIM: replace large patches by a mask token, let the whole encoder see it, and regress their pixels linearly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.patches import patch_error
from mmssl.nn.normalize import pixel_normalize
from mmssl.nn.probe import pixels_per_cell
from mmssl.numerics.color import as_unit
from mmssl.objectives.masking import block_mask, reconstruction, token_encoder
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.patches import cut
from mmssl.types import Batch, Encoder, Loss, Method, Reconstruction, TokenEncoder
from mmssl.views.mae import Seed
from mmssl.views.template import Views


class SimMIM(MultiView):
    """The absolute error of what was hidden, predicted from each token by one linear layer. Xie et al., CVPR 2022.

    An encoder with tokens gets a mask token in place of what is hidden; one of images that has only a grid, such as
    convnet, pixels of a learnt colour. Of a video each moment's tokens are hidden on their own.

    mask_size: side of the squares that are hidden, in pixels, or in bands and moments of a spectrogram.
    ratio: share of the squares that is hidden.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], *, mask_size: int = 32, ratio: float = 0.6, encoder: str | None = None
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        seen = encoders[self.key]
        self.in_tokens = isinstance(seen, TokenEncoder) or seen.modality != "image"
        cell = token_encoder(seen).cell if self.in_tokens else (pixels_per_cell(seen),) * 2
        if any(mask_size % side for side in cell[-2:]):
            raise UserError(f"mask_size is {mask_size}; expected a multiple of the encoder's patches of {cell[-2:]}")
        self.block = (*(1 for _ in cell[:-2]), *(mask_size // side for side in cell[-2:]))
        self.cell, self.ratio = cell, ratio
        out = token_encoder(seen).patch_dim if self.in_tokens else 3 * cell[0] * cell[1]
        self.head = nn.Linear(self.dim, out)
        self.mask_token = nn.Parameter(torch.randn(self.dim) * 0.02 if self.in_tokens else torch.full((3,), 0.5))
        self.normalize = pixel_normalize(3, None, None)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        x, seed = self.views(batch, least=1)[0], batch.extra["seed"]
        masked = self._tokens if self.in_tokens else self._pixels
        mask, target, features = masked(encoders[self.key], x, seed)
        total = dist.mean(patch_error(self.head(features.tokens), target, mask, error="l1"), self.present(batch))
        return Loss(total, embeddings={self.key: features.pooled.detach()})

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction:
        encoder, x = encoders[self.key], self.views(batch, least=1)[0]
        masked = self._tokens if self.in_tokens else self._pixels
        mask, target, features = masked(encoder, x, batch.extra["seed"])
        predicted = self.head(features.tokens).float()
        if self.in_tokens:
            patches = token_encoder(encoder).patches(x)
            return reconstruction(token_encoder(encoder), patches, mask, predicted)
        hidden = mask[:, :, None]
        several = target.masked_fill(hidden, 0), torch.where(hidden, predicted, target), target
        whole = (F.fold(each.mT, x.shape[2:], self.cell, stride=self.cell) for each in several)
        return Reconstruction(*map(self.normalize.undo, whole))

    def _tokens(self, encoder: Encoder, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Hides tokens; returns which (B, N), all patches (B, N, P), and the features."""
        encoder = token_encoder(encoder)
        patches = encoder.patches(x)
        mask = block_mask(seed, patches.grid, ratio=self.ratio, block=self.block)
        tokens = encoder.tokenize(patches, mask=mask, mask_token=self.mask_token)
        return mask, patches.values, encoder.encode_tokens(tokens)

    def _pixels(self, encoder: Encoder, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Hides pixels; returns the same."""
        height, width = self.cell
        grid = (x.shape[2] // height, x.shape[3] // width)
        mask = block_mask(seed, grid, ratio=self.ratio, block=self.block)
        hidden = mask.view(-1, 1, *grid).repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)
        shown = torch.where(hidden, self.mask_token[:, None, None], as_unit(x))
        return mask, cut(self.normalize(x), cell=height).flatten(2), encoder(shown)


method = Method(Views(1, fixed=True, image=[Crop(scale=(0.67, 1.0)), Flip()], after=[Seed()]), SimMIM)
