"""Text encoders show the embeddings of their tokens, by which words are predicted, and what hides a word."""

from __future__ import annotations

import pytest
import torch

from mmssl.encoders import create_encoder
from mmssl.encoders.bpe import byte_tokenizer
from mmssl.errors import UserError
from mmssl.objectives.captioning import check_apart, word_encoder
from mmssl.transforms.text import TextPreprocess
from mmssl.types import Ragged

BERT = {
    "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
    "vocab_size": 300, "max_position_embeddings": 16,
}  # fmt: skip
SMALL = {"width": 8, "heads": 1, "vocab_size": 300}


def test_the_table_is_what_embeds_words() -> None:
    for encoder in (create_encoder("transformer", depth=0, **SMALL), create_encoder("transformers", architecture=BERT)):
        table = word_encoder(encoder).table
        assert table.shape == (300, encoder.dim)
        ids = torch.tensor([[5, 7]])
        before = encoder(Ragged(ids, torch.tensor([2]), padded=True)).tokens
        with torch.no_grad():
            table[7] += 1.0 * torch.arange(8)
        after = encoder(Ragged(ids, torch.tensor([2]), padded=True)).tokens
        assert not torch.equal(before[0, 1], after[0, 1])


def test_words_that_cannot_be_predicted() -> None:
    wide = create_encoder("transformers", architecture={**BERT, "model_type": "electra", "embedding_size": 4})
    with pytest.raises(UserError, match="no embeddings of words as wide as its features"):
        word_encoder(wide)
    vit = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32}
    with pytest.raises(UserError, match="'vit' has no embeddings of words"):
        word_encoder(create_encoder("transformers", architecture=vit))


def test_words_that_see_others_are_told_from_words_alone() -> None:
    check_apart(create_encoder("transformer", depth=0, **SMALL))  # type: ignore[arg-type]
    for options in ({"depth": 1}, {"depth": 1, "causal": True}):
        with pytest.raises(UserError, match="give it depth: 0"):
            check_apart(create_encoder("transformer", **SMALL, **options))  # type: ignore[arg-type]


def test_a_hidden_word_is_the_tokenizers_own_mask_or_its_padding() -> None:
    plain = TextPreprocess(byte_tokenizer(), pad_id=3)
    assert plain.mask_id == 3
    own = byte_tokenizer()
    own.add_special_tokens(["[MASK]"])
    assert TextPreprocess(own).mask_id == own.token_to_id("[MASK]")
