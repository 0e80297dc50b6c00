"""How open_clip's models read texts, as a `tokenizers.Tokenizer`: CLIP's own BPE, or the tokenizer of a folder."""

from __future__ import annotations

import re
import string
from functools import cache
from typing import Any

from mmssl.encoders.bpe import byte_tokenizer
from mmssl.encoders.open_clip_files import Opened
from mmssl.encoders.pretrained import read_tokenizer
from mmssl.errors import UserError
from mmssl.transforms.text import TextPreprocess

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read_tokens(opened: Opened, context_length: int | None) -> TextPreprocess:
    """Returns how a model's texts are tokenised."""
    values, tower = opened.architecture["text_cfg"], opened.model.text
    options = dict(values.get("tokenizer_kwargs") or {})
    clean = options.pop("clean", "")
    if options or values.get("tokenizer_mode"):
        raise UserError(f"{opened.where}: tokenizer_kwargs and tokenizer_mode other than clean are not supported")
    name = values.get("hf_tokenizer_name")
    if name and not opened.file:  # of a saved encoder, which has it beside it; or fresh, and yet to learn
        tokenizer, pad = byte_tokenizer(), 0
    elif name:
        found = read_tokenizer(opened.source or name, known=tower.vocab_size)
        if found is None:
            raise UserError(f"{opened.where} has no tokenizer; save one beside it, as save_pretrained does")
        tokenizer, pad, _ = found
        tokenizer.normalizer = _cleaned(clean or "whitespace", tokenizer.normalizer)
    else:
        tokenizer, pad = clip_tokenizer(clean or "lower"), 0
    longest = tower.context_length
    return TextPreprocess(context_length=min(context_length or longest, longest), pad_id=pad, tokenizer=tokenizer)


@cache
def clip_tokenizer(clean: str) -> Any:
    """Returns CLIP's BPE of lower-case bytes with its own merges. Radford et al., ICML 2021.

    What open_clip mends in a text beforehand, wrongly decoded letters and HTML's entities, stays as it is.
    """
    from open_clip import SimpleTokenizer
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    own = SimpleTokenizer()
    ends = [own.decoder[number] for number in (own.sot_token_id, own.eot_token_id)]
    merges = list(own.bpe_ranks)
    tokenizer = Tokenizer(models.BPE(own.encoder, merges, end_of_word_suffix="</w>", unk_token=ends[1]))
    tokenizer.normalizer = _cleaned(clean, None)
    split = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.add_special_tokens(ends)
    pairs = [(end, own.encoder[end]) for end in ends]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{ends[0]} $A {ends[1]}", special_tokens=pairs)
    return tokenizer


def _cleaned(how: str, then: Any) -> Any:
    """Returns a normalizer that cleans texts as open_clip does before it goes on to another."""
    from tokenizers import Regex, normalizers

    steps: dict[str, list[Any]] = {
        "whitespace": [],
        "lower": [normalizers.Lowercase()],
        "canonicalize": [
            normalizers.Replace("_", " "),
            normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
            normalizers.Lowercase(),
        ],
    }
    if how not in steps:
        raise UserError(f"open_clip cleans texts by {how!r}; expected one of {', '.join(steps)}")
    spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    return normalizers.Sequence([normalizers.NFC(), *steps[how], *spaces, *([then] if then else [])])
