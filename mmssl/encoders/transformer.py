"""A text transformer with its own byte-level BPE, learnt from the training texts and saved with the weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmssl.encoders.bpe import BYTES, byte_tokenizer, is_untrained, learn_merges, load_tokenizer, save_tokenizer
from mmssl.errors import UserError
from mmssl.nn.blocks import Blocks
from mmssl.transforms.text import TextPreprocess
from mmssl.types import Features, Ragged, WordEncoder


class TextTransformer(WordEncoder):
    """Tokens and positions through pre-norm blocks. Vaswani et al., NeurIPS 2017; BPE: Sennrich et al., ACL 2016.

    width: of the tokens, D.
    depth: blocks; without any, tokens are words and their places, of which none sees another.
    heads: of the attention.
    mlp_ratio: width of the blocks' hidden layers over that of the tokens.
    drop_path: rate of stochastic depth of the last block; those before it have less.
    context_length: tokens of a text at most.
    vocab_size: tokens of the learnt BPE at most; until it is learnt, or at 258 for ever, tokens are bytes.
    pool: mean over the real tokens, or the last one as in CLIP (Radford et al., ICML 2021) with causal.
    causal: whether a token sees only those before it.
    lowercase: whether the tokenizer lowers the text first.
    nfc: whether the tokenizer composes the text's characters first (Unicode NFC).
    """

    modality = "text"
    preprocess: TextPreprocess

    def __init__(
        self,
        *,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        context_length: int = 64,
        vocab_size: int = 8192,
        pool: Literal["mean", "last"] = "mean",
        causal: bool = False,
        lowercase: bool = False,
        nfc: bool = True,
    ) -> None:
        super().__init__()
        if vocab_size < BYTES:
            raise UserError(f"transformer: vocab_size {vocab_size} is too small; bytes alone are {BYTES}")
        if width % heads:
            raise UserError(f"transformer: width {width} is no multiple of heads {heads}")
        self.dim, self.pool, self.causal, self.vocab_size = width, pool, causal, vocab_size
        tokenizer = byte_tokenizer(lowercase=lowercase, nfc=nfc)
        self.preprocess = TextPreprocess(context_length=context_length, tokenizer=tokenizer)
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.randn(context_length, width) * 0.01)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = Blocks(width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Ragged | Tensor) -> Features:
        """Encodes token ids (B, L), padded on the right; of a plain tensor see TextPreprocess.words."""
        words = self.preprocess.words(x)
        tokens = self.embedding(words.values) + self.positions[: words.values.shape[1]]
        mask = None if self.causal else words.mask  # what pads stands behind all words, where a causal one never looks
        tokens = self.norm(self.blocks(tokens, mask=mask, causal=self.causal))
        return Features(pool_words(tokens, words, self.pool), tokens, lengths=words.lengths)

    @property
    def table(self) -> Tensor:
        return self.embedding.weight

    @property
    def learns_preprocess(self) -> bool:
        return self.vocab_size > BYTES and is_untrained(self.preprocess.tokenizer)

    def learn_preprocess(self, raws: Iterable[Any]) -> None:
        learn_merges(self.preprocess, raws, self.vocab_size)

    def save_files(self, folder: Path) -> None:
        save_tokenizer(self.preprocess.tokenizer, folder)

    def load_files(self, folder: Path) -> None:
        load_tokenizer(self.preprocess, folder, known=self.vocab_size)


def pool_words(tokens: Tensor, words: Ragged, how: str) -> Tensor:
    """Returns the mean, the last or the first ("cls") of each text's tokens, (B, L, D) -> (B, D)."""
    if how == "cls":
        return tokens[:, 0]
    if how == "last":
        return tokens[torch.arange(len(tokens), device=tokens.device), words.lengths - 1]
    weights = words.mask.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1)


encoder = TextTransformer
