"""Byte-level BPE: works on any text untrained, as bytes, and learns its merges from the training texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmssl.errors import UserError
from mmssl.files import write_atomically
from mmssl.transforms.text import TextPreprocess

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


def load_tokenizer(preprocess: TextPreprocess, folder: Path) -> None:
    """Gives the preprocessing the folder's tokenizer.json; UserError when it is missing or damaged."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{folder} has no tokenizer.json, without which the text encoder cannot read")
    try:
        preprocess.tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{file} is damaged ({error}); save the encoder again") from error
    preprocess.pad_id = (preprocess.tokenizer.padding or {}).get("pad_id", preprocess.pad_id)
    preprocess.__post_init__()  # views hold this very object
