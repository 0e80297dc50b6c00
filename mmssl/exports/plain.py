"""An encoder as a function of plain tensors, which is what exporters take, and a random batch for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmssl.types import Encoder, Ragged

WORDS = 12  # tokens of the longest text of a random batch


class Plain(nn.Module):
    """Gives the pooled features (B, D) and the tokens, where there are any; with a space its embedding (B, E) alone.

    Images and videos are floats from 0 to 1; their normalisation is within. Of a Ragged it takes values and lengths.
    """

    def __init__(self, encoder: Encoder, space: str | None) -> None:
        super().__init__()
        self.encoder, self.space, self.padded = encoder, space, encoder.modality == "text"
        self.head = encoder.spaces[space] if space else None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        features = self.encoder(x if lengths is None else Ragged(x, lengths, self.padded))
        if self.head is not None:
            return (self.head(features),)
        return (features.pooled,) if features.tokens is None else (features.pooled, features.tokens)


def inputs_of(x: Any) -> dict[str, Tensor]:
    """Returns the plain tensors of what an encoder takes, by name."""
    return {"values": x.values, "lengths": x.lengths} if isinstance(x, Ragged) else {"x": x}


def outputs_of(plain: Plain, count: int) -> list[str]:
    """Returns the names of as many outputs."""
    return ["joint_embedding"] if plain.space else ["pooled", "tokens"][:count]


def random_batch(encoder: Encoder, size: int, *, seed: int = 0) -> Any:
    """Returns a batch as `preprocess` collates it, of random numbers; images and videos as floats from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    preprocess: Any = encoder.preprocess
    x = preprocess.collate([preprocess.blank()] * size)
    if isinstance(x, Ragged) and encoder.modality == "text":
        longest = min(WORDS, preprocess.context_length)
        known = preprocess.tokenizer.get_vocab_size()
        lengths = torch.randint(2, longest + 1, (size,), generator=generator).clamp(max=longest)
        lengths[0] = longest
        rows = [torch.randint(0, known, (int(length),), generator=generator) for length in lengths]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=preprocess.pad_id)
        return Ragged(ids, lengths, padded=True)
    if isinstance(x, Ragged):
        return Ragged(torch.rand(x.values.shape, generator=generator), x.lengths, x.padded)
    mean = getattr(getattr(encoder, "normalize", None), "mean", None)
    channels = [len(mean)] if x.dtype == torch.uint8 and isinstance(mean, Tensor) else [*x.shape[1:2]]
    return torch.rand(size, *channels, *x.shape[2:], generator=generator)
