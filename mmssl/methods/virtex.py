"""VirTex: write an image's caption from the cells of the image, from the first word on and from the last."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.text_decoder import TextDecoder
from mmssl.objectives.captioning import Captioning, cells_of, check_apart, word_encoder
from mmssl.types import Batch, Encoder, Loss, Method, Ragged
from mmssl.views import captioned


class VirTex(Captioning):
    """The cross-entropy of each word given those before it, forward and backward. Desai & Johnson, CVPR 2021.

    The text encoder is `transformer` with `depth: 0`: words and places, normalised, as wide as the decoder. Both
    directions share it, the projection of the cells and the output, whose weights are the words' own; each has its own
    decoder. A text's last token stands before its first one. Loss and gradients were those of the authors' code
    (kdexd/virtex) with the same weights, to rounding.

    layers: of each decoder.
    heads: of its attention; by default one for 64 numbers of a word.
    mlp_ratio: width of its hidden layers over that of a word.
    dropout: rate of dropout of the words, and in the decoders.
    backward: whether captions are written from their end as well.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        layers: int = 1,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        backward: bool = True,
    ) -> None:
        super().__init__(encoders)
        text = word_encoder(encoders["text"])
        check_apart(text)
        heads = heads or max(1, self.dim // 64)
        if self.dim % heads:
            raise UserError(f"the text encoder's width {self.dim} must be a multiple of the decoder's heads {heads}")
        self.project = nn.Linear(encoders["image"].dim, self.dim)
        nn.init.normal_(self.project.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(len(text.table)))
        options = {"layers": layers, "heads": heads, "mlp_ratio": mlp_ratio, "dropout": dropout}
        self.decoders = nn.ModuleList(TextDecoder(self.dim, **options) for _ in range(1 + backward))  # type: ignore[arg-type]

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        words: Ragged = batch.views["text"][0]
        seen = encoders["image"](batch.views["image"][0])
        cells = self.project(cells_of(seen))
        present = batch.present("image") & batch.present("text")
        counted = words.mask & present[:, None]
        totals, correct = [], []
        for decoder, ids in zip(self.decoders, (words.values, reversed_words(words)), strict=False):
            read = Ragged(torch.cat([last_word(words), ids[:, :-1]], dim=1), words.lengths, padded=True)
            logits = self._logits(encoders, decoder, read, cells)
            totals.append(dist.mean(F.cross_entropy(logits.mT, ids, reduction="none"), counted))
            correct.append(((logits.argmax(dim=2) == ids) & words.mask).sum(dim=1) / words.lengths)
        right = correct[0].masked_fill(~present, torch.nan)
        names = ("forward", "backward")
        logs = {f"loss_{name}": each.detach() for name, each in zip(names, totals, strict=False)}
        logs["correct"] = right.nanmean()
        return Loss(torch.stack(totals).sum(), logs, {"image": seen.pooled.detach()}, {"correct": right})

    def _logits(self, encoders: Mapping[str, Encoder], decoder: nn.Module, read: Ragged, cells: Tensor) -> Tensor:
        """Returns logits (B, L, V), float32, of what follows each of the words that were read."""
        text = word_encoder(encoders["text"])
        decoded = decoder(self.dropout(text(read).tokens), cells)
        return F.linear(decoded, text.table, self.bias).float()

    def see(self, encoders: Mapping[str, Encoder], images: Tensor) -> Tensor:
        cells: Tensor = self.project(cells_of(encoders["image"](images)))
        return cells

    def log_probs(self, encoders: Mapping[str, Encoder], cells: Tensor, written: Tensor, end: Tensor) -> Tensor:
        ids = torch.cat([end.expand(len(written), 1), written], dim=1)
        read = Ragged(ids, ids.new_full((len(ids),), ids.shape[1]), padded=True)
        return self._logits(encoders, self.decoders[0], read, cells)[:, -1].log_softmax(dim=1)


def last_word(words: Ragged) -> Tensor:
    """Returns each text's last token (B, 1)."""
    return words.values.gather(1, words.lengths[:, None] - 1)


def reversed_words(words: Ragged) -> Tensor:
    """Returns token ids (B, L) in reversed order, of each text but its last one, which stays the last."""
    places, last = torch.arange(words.values.shape[1], device=words.device), words.lengths[:, None] - 1
    return words.values.gather(1, torch.where(places < last, last - 1 - places, places))


method = Method(captioned.view, VirTex)
