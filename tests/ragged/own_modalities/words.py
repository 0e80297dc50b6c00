"""BERT's masked words: some of a text's tokens are hidden and told from the others. Devlin et al., NAACL 2019."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Ragged, Sample, View

HIDDEN = 0  # the token that stands in for a hidden one; no text has it


class Shown(View):
    """Shows each modality once, as it is."""

    def __call__(self, sample: Sample) -> Sample:
        return {key: [make(sample[key])] for key, make in self.preprocess.items() if sample.get(key) is not None}


class MaskedWords(Objective):
    """Names the hidden tokens of each text.

    mask: share of the tokens that are hidden; at least one of each text is.
    """

    modalities = ("text",)

    def __init__(self, encoders: Mapping[str, Encoder], *, mask: float = 0.3) -> None:
        super().__init__(encoders)
        self.mask = mask
        self.names = nn.Linear(encoders["text"].dim, encoders["text"].vocab_size)  # type: ignore[arg-type]

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        words: Ragged = batch.views["text"][0]
        hidden = draw(words, self.mask)  # (B, L)
        shown = Ragged(words.values.masked_fill(hidden, HIDDEN), words.lengths, padded=True)
        features = encoders["text"](shown)
        errors = F.cross_entropy(self.names(features.tokens).transpose(1, 2), words.values, reduction="none")
        counts = hidden & batch.present("text")[:, None]
        return Loss(dist.mean(errors.flatten(), counts.flatten()), embeddings={"text": features.pooled.detach()})


def draw(words: Ragged, share: float) -> Tensor:
    """Draws which tokens of padded texts are hidden (B, L) bool: none of the padding, and the first one drawn."""
    drawn = torch.rand(words.values.shape, device=words.device).masked_fill(~words.mask, 2)
    return (drawn < share) | (drawn == drawn.amin(1, keepdim=True)) & words.mask


method = Method(Shown, MaskedWords)
