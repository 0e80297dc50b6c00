"""MAE: hide most patches, encode the few that are left, and predict the hidden ones with a light decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from mmssl import dist
from mmssl.losses.patches import patch_error, unwhitened, whitened
from mmssl.nn.masked_decoder import MaskedDecoder
from mmssl.objectives.masking import pick, random_mask, reconstruction, token_encoder
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Batch, Encoder, Features, Loss, Method, Patches, Reconstruction
from mmssl.views import mae


class MAE(MultiView):
    """The squared error of hidden patches, of images, videos or spectrograms. He et al., CVPR 2022.

    The encoder is one with tokens, such as vit.

    ratio: share of the patches that is hidden.
    mask: random, or tubes through all frames of a video, of which VideoMAE hides 0.9 (Tong et al., NeurIPS 2022).
    width: of the decoder.
    depth: blocks of the decoder.
    heads: of the decoder's attention.
    whiten: whether each patch's own mean and deviation are taken from what is predicted.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        ratio: float = 0.75,
        mask: Literal["random", "tube"] = "random",
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        whiten: bool = True,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        out = token_encoder(encoders[self.key]).patch_dim
        self.decoder = MaskedDecoder(self.dim, out=out, width=width, depth=depth, heads=heads)
        self.ratio, self.tube, self.whiten = ratio, mask == "tube", whiten

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        patches, mask, predicted, features = self._predicted(encoders, batch)
        target = whitened(patches.values) if self.whiten else patches.values
        total = dist.mean(patch_error(predicted, target, mask), self.present(batch))
        return Loss(total, embeddings={self.key: features.pooled.detach()})

    def _predicted(self, encoders: Mapping[str, Encoder], batch: Batch) -> tuple[Patches, Tensor, Tensor, Features]:
        """Returns patches, which are hidden (B, N), what is predicted of all (B, N, P), and features of the rest."""
        encoder = token_encoder(encoders[self.key])
        patches = encoder.patches(self.views(batch, least=1)[0])
        mask, seen = random_mask(batch.extra["seed"], patches.grid, ratio=self.ratio, tube=self.tube)
        features = encoder.encode_tokens(pick(encoder.tokenize(patches), seen))
        return patches, mask, self.decoder(features, seen, patches.grid), features

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction:
        """A whitened prediction gets the true patch's mean and deviation, as the paper's figures have it."""
        patches, mask, predicted, _ = self._predicted(encoders, batch)
        drawn = unwhitened(predicted, patches.values) if self.whiten else predicted
        return reconstruction(token_encoder(encoders[self.key]), patches, mask, drawn)


method = Method(mae.view, MAE)
