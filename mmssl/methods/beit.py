"""BEiT: hide blocks of an image, and predict which codes a tokenizer gives to the hidden patches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.probe import grid_of
from mmssl.numerics.constants import counts
from mmssl.objectives.masking import blockwise_mask, first_hidden, pick, token_encoder
from mmssl.transforms.color import ColorJitter
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method, Objective
from mmssl.views.mae import Seed
from mmssl.views.template import Views

TOKENIZER = "image_tokenizer"


class BEiT(Objective):
    """The cross-entropy of hidden patches' codes, which a second encoder names. Bao et al., ICLR 2022.

    The second encoder is listed as image_tokenizer: its tokens are logits over the codes, as those of `codes`, and it
    does not learn; train.start.image_tokenizer says from which folder, such as one that `dvae` trained, its weights are
    taken.

    ratio: share of the patches that is hidden.
    block: patches of each hidden rectangle at least.
    """

    modalities = ("image",)

    def __init__(self, encoders: Mapping[str, Encoder], *, ratio: float = 0.4, block: int = 16) -> None:
        super().__init__(encoders)
        if TOKENIZER not in encoders:
            raise UserError(
                f"beit predicts a tokenizer's codes, and the run has only {', '.join(encoders)}; list {TOKENIZER}: "
                f"{{name: codes}} among its encoders, and in train.start the folder of one that dvae trained"
            )
        self.uses = ("image", TOKENIZER)
        encoder, tokenizer = token_encoder(encoders["image"]), encoders[TOKENIZER].requires_grad_(False).eval()
        grids = [grid_of(each) for each in (encoder, tokenizer)]
        if grids[0] != grids[1]:
            raise UserError(f"the encoder has {grids[0]} patches and the tokenizer {grids[1]} cells; change image_size")
        self.head = nn.Linear(encoder.dim, tokenizer.dim)
        self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)
        self.ratio, self.block = ratio, block

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        encoder = token_encoder(encoders["image"])
        patches = encoder.patches(batch.views["image"][0])
        mask = blockwise_mask(batch.extra["seed"], patches.grid, ratio=self.ratio, least=self.block)
        features = encoder.encode_tokens(encoder.tokenize(patches, mask=mask, mask_token=self.mask_token))
        assert features.tokens is not None, "encoders of tokens return tokens"
        places, hidden = first_hidden(mask, round(mask.shape[1] * self.ratio))  # (B, n)
        codes = self._codes(encoders[TOKENIZER], batch).gather(1, places)
        logits = self.head(pick(features.tokens, places)).float()  # (B, n, K)
        present = batch.present("image") & batch.present(TOKENIZER)
        counted = hidden & present[:, None]
        total = dist.mean(F.cross_entropy(logits.mT, codes, reduction="none"), counted)
        right = ((logits.argmax(dim=2) == codes) & hidden).sum(dim=1)
        correct = (right / hidden.sum(dim=1).clamp(min=1)).masked_fill(~present, torch.nan)
        commonest = counts(codes.flatten(), logits.shape[2], counted.flatten()).max() / counted.sum().clamp(min=1)
        logs = {"correct": correct.nanmean(), "commonest": commonest}  # how often naming always that one would be right
        return Loss(total, logs, {"image": features.pooled.detach()}, {"correct": correct})

    @torch.no_grad()
    def _codes(self, tokenizer: Encoder, batch: Batch) -> Tensor:
        """Returns the code of every patch (B, N)."""
        named = tokenizer(batch.views[TOKENIZER][0]).tokens
        assert named is not None, "its grid was looked at"
        return named.argmax(dim=2)


COLORS = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)

method = Method(Views(1, fixed=True, image=[Crop(scale=(0.08, 1.0)), Flip(), COLORS], after=[Seed()]), BEiT)
