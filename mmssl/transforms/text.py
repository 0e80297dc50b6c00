"""Text: what an encoder is shown, tokenised a whole batch at once, and the choice among captions."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmssl.modalities import text as texts
from mmssl.schema import Count, Positive
from mmssl.trial import panicking, prepared
from mmssl.types import Preprocess, Ragged

# The tokenizer's own threads do not survive a fork, and data workers are forked.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass
class TextPreprocess(Preprocess):
    """Tokenises to int64 (B, L), padded to the longest of the batch; what exceeds the context is cut and counted.

    A text of no token, and a sample without a text, counts as one.

    tokenizer: a tokenizers.Tokenizer; no part of `config`, the encoder saves it as tokenizer.json.
    context_length: the most tokens of a text, special tokens included, which survive the cut.
    pad_id: what texts are padded with; nobody else needs to know it.
    """

    modality: ClassVar[str] = "text"

    tokenizer: Any = field(repr=False, compare=False)
    context_length: Positive = 77
    pad_id: Count = 0

    def __post_init__(self) -> None:
        self.tokenizer = prepared(self.tokenizer, self.context_length, self.pad_id)
        self.notes: Counter[str] = Counter()

    def __call__(self, raw: Any) -> str:
        """Returns the text; of several captions the first."""
        text = texts.load(raw)
        return text if isinstance(text, str) else text[0]

    def collate(self, items: Sequence[str]) -> Ragged:
        with panicking("text"):
            encodings = self.tokenizer.encode_batch(list(items))
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        if cut:
            self.notes["text truncated"] += cut
        ids = np.array([encoding.ids or [self.pad_id] for encoding in encodings], dtype=np.int64)  # faster than torch's
        lengths = torch.tensor([sum(encoding.attention_mask) for encoding in encodings])
        return Ragged(torch.from_numpy(ids), lengths.clamp(min=1), padded=True)

    def words(self, x: Tensor | Ragged) -> Ragged:
        """Takes what `collate` makes, or token ids (B, L) that were padded by hand: what ends in pad_id is not real."""
        if isinstance(x, Ragged):
            return x
        last = (x != self.pad_id) * torch.arange(1, x.shape[1] + 1, device=x.device)
        return Ragged(x, last.amax(1).clamp(min=1), padded=True)

    @property
    def mask_id(self) -> int:
        """What stands for a hidden token: the tokenizer's own, as BERT's has one, else what texts are padded with."""
        found = (self.tokenizer.token_to_id(name) for name in ("[MASK]", "<mask>"))
        return next((number for number in found if number is not None), self.pad_id)

    def config(self) -> dict[str, Any]:
        return {"context_length": self.context_length, "pad_id": self.pad_id}

    def blank(self) -> str:
        return ""

    def take_notes(self) -> Counter[str]:
        notes, self.notes = self.notes, Counter()
        return notes


def choose(text: texts.Text) -> str:
    """Draws one of several captions."""
    return text if isinstance(text, str) else random.choice(text)


# English words that say how others belong together, and hardly what an image shows.
WORDS = (
    "a about above across after again against all along also am among an and another any are around as at away "
    "back be because been before behind being below beneath beside between both but by can could did do does "
    "doing down during each either else ever every few for from had has have having he her here hers him his how "
    "i if in inside into is it its itself just like look many may me might more most much must my near neither "
    "next no nor not of off on one only onto or other others our out outside over own per quite rather s shall "
    "she should since so some such t than that the their them then there these they this those through to too "
    "toward towards under until up upon us very was we were what when where whether which while who whom whose "
    "why will with within without would yet you your "
)
FUNCTION_WORDS = frozenset(WORDS.split())


def is_telling(text: str) -> bool:
    """Tells whether a token, as text, is of letters and no function word."""
    word = text.strip().lower().removeprefix("##")
    return word.isalpha() and word not in FUNCTION_WORDS
