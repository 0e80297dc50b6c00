"""Defaults of what an encoder reads, which caption is shown, and what is counted as cut."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mmssl.transforms import text
from mmssl.transforms.text import TextPreprocess


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", "a", "b", "c"])}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def test_defaults() -> None:
    """77 tokens are CLIP's (Radford et al., ICML 2021)."""
    prepare = TextPreprocess(tokenizer())
    assert prepare.config() == {"context_length": 77, "pad_id": 0}
    assert (prepare.modality, prepare.blank()) == ("text", "")
    made = prepare.collate(["a " * 100, "a"])
    assert made.values.shape == (2, 77) and made.lengths.tolist() == [77, 1] and made.padded
    shown = {f.name: (f.repr, f.compare) for f in fields(TextPreprocess)}
    assert shown["tokenizer"] == (False, False), "two of the same options are equal"
    assert TextPreprocess(tokenizer(), 9) == TextPreprocess(tokenizer(), 9) != TextPreprocess(tokenizer(), 8)


@pytest.mark.parametrize(("context", "cut"), [(3, 2), (4, 1), (5, 0)])
def test_texts_that_are_cut_are_counted(context: int, cut: int) -> None:
    prepare = TextPreprocess(tokenizer(), context_length=context)
    for _ in range(2):
        prepare.collate(["a b c a b", "a b c a", "a b c"])
    assert prepare.take_notes() == Counter({"text truncated": 2 * cut} if cut else {})
    assert prepare.take_notes() == Counter()


def test_the_first_caption_is_encoded_and_any_is_shown() -> None:
    assert TextPreprocess(tokenizer())(["b", "a"]) == "b"
    assert TextPreprocess(tokenizer())("c") == "c"
    drawn = Counter(text.choose(["a", "b", "c"]) for _ in range(900))
    assert all(250 < count < 350 for count in drawn.values()), drawn
    assert len(drawn) == 3
    random.seed(4)
    first = [text.choose(["a", "b", "c"]) for _ in range(9)]
    random.seed(4)
    assert [text.choose(["a", "b", "c"]) for _ in range(9)] == first
