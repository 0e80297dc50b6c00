"""Byte-level BPE: works on any text untrained, as bytes, and learns its merges from the training texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from mmssl.errors import UserError
from mmssl.files import write_atomically
from mmssl.schema import read_text
from mmssl.transforms.text import TextPreprocess
from mmssl.trial import panicking, try_tokenizer

PAD, END = "<pad>", "<end>"  # tokens 0 and 1
BYTES = 256 + len((PAD, END))


def byte_tokenizer(*, lowercase: bool = False, nfc: bool = True) -> Any:
    """Returns a `tokenizers.Tokenizer` of single bytes that ends each text with the end token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([PAD, END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()] * nfc + [normalizers.Lowercase()] * lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, END])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, vocab[END])])
    return tokenizer


def is_untrained(tokenizer: Any) -> bool:
    """Returns whether a tokenizer still knows only bytes."""
    return bool(tokenizer.get_vocab_size() == BYTES and tokenizer.token_to_id(END) == 1)


def learn_merges(preprocess: TextPreprocess, raws: Iterable[Any], vocab_size: int) -> None:
    """Trains the merges on raw texts, each a string or a list of them; the same texts give the same merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    preprocess.tokenizer.train_from_iterator(_strings(raws), trainer)
    preprocess.__post_init__()  # a fresh copy: the trained one still remembers how it read words before


def _strings(raws: Iterable[Any]) -> Iterator[str]:
    for raw in raws:
        yield from [raw] if isinstance(raw, str) else raw


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes tokenizer.json into the folder."""
    write_atomically(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())


def load_tokenizer(preprocess: TextPreprocess, folder: Path, *, known: int) -> None:
    """Gives the preprocessing the folder's tokenizer.json; UserError when it is missing, damaged or does harm.

    known: how many tokens the network has embeddings for. What differs from an untrained tokenizer of ours in more
    than vocabulary and merges is tried in a process of its own first.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder} has no tokenizer.json, without which the text encoder cannot read")
    text = read_text(file, "tokenizer_bytes")
    if not _is_ours(text, known):
        try_tokenizer(text, str(file), length=preprocess.context_length, known=known)
    with panicking(str(file)):
        preprocess.tokenizer = Tokenizer.from_str(text)
        preprocess.pad_id = (preprocess.tokenizer.padding or {}).get("pad_id", preprocess.pad_id)
        preprocess.__post_init__()  # views hold this very object


def _is_ours(text: str, known: int) -> bool:
    """Tells whether a tokenizer.json is one that `learn_merges` made: nothing in it can do harm."""
    try:
        values = json.loads(text)
        vocab, merges = values["model"]["vocab"], values["model"]["merges"]
        bare = {**values, "padding": None, "truncation": None, "model": {**values["model"], "vocab": {}, "merges": []}}
        numbered = sorted(vocab.values()) == list(range(min(len(vocab), known)))
        whole = all(type(pair) is list and {*pair, pair[0] + pair[1]} <= vocab.keys() for pair in merges)
        return numbered and whole and any(_is_bare(bare, vocab, *how) for how in product((False, True), repeat=2))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False


def _is_bare(values: dict[str, Any], vocab: dict[str, int], lowercase: bool, nfc: bool) -> bool:
    own = json.loads(byte_tokenizer(lowercase=lowercase, nfc=nfc).to_str())
    letters, own["model"]["vocab"] = own["model"]["vocab"], {}
    return bool(values == own and letters.items() <= vocab.items())
