"""Pooled features of texts that were encoded before: a locked text tower need not encode a caption each epoch anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmssl.types import Ragged


class Remembered:
    """Keeps the pooled features of texts by their token ids, while the weights that made them stay as they are.

    Every text is encoded alone, so that its features depend neither on its batch nor on what is remembered already: a
    resumed run has the same.

    most: texts at most; of more, those that were remembered first are forgotten.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: dict[bytes, Tensor] = {}
        self.version = -1

    def serves(self, model: nn.Module) -> bool:
        """Tells whether features can be kept: in training, of a model that is frozen."""
        frozen = not model.training and not any(weight.requires_grad for weight in model.parameters())
        return bool(self.most) and frozen and torch.is_grad_enabled()

    def pooled(self, words: Ragged, model: nn.Module, encode: Callable[[Ragged], Tensor]) -> Tensor:
        """Returns the features (B, D) of texts, encoding one by one (1, D) those that are new."""
        version = sum(weight._version for weight in model.parameters())
        if version != self.version:  # weights were loaded since
            self.rows, self.version = {}, version
        values, lengths = words.values.cpu(), words.lengths.tolist()
        texts = [row[:length] for row, length in zip(values, lengths, strict=True)]
        found = []
        for text in texts:
            key = text.numpy().tobytes()
            if key not in self.rows:
                with torch.no_grad():
                    self.rows[key] = encode(Ragged.pad([text]).to(words.values.device))[0]
            found.append(self.rows[key])
        while len(self.rows) > self.most:
            del self.rows[next(iter(self.rows))]
        return torch.stack(found).to(words.values.device)
