"""CIDEr-D: how like the captions that people wrote another one is, by words and phrases that tell images apart."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

Phrase = tuple[str, ...]
LONGEST, SIGMA = 4, 6.0  # words of a phrase, and of the difference in length
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Returns the words in small letters, without punctuation; a hyphen or apostrophe joins what stands around it."""
    return WORD.findall(text.lower())


def phrases(words: Sequence[str], size: int) -> Counter[Phrase]:
    """Counts the phrases of so many words."""
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


class _Weighed(NamedTuple):
    """A caption: for each size of phrases their weights and the length of that vector; how many pairs of words."""

    weights: list[dict[Phrase, float]]
    norms: list[float]
    pairs: int


class CiderD:
    """CIDEr-D of captions against the references of a set of images, from 0 to 10. Vedantam et al., CVPR 2015.

    For phrases of 1 to 4 words: how often one is there times the logarithm of the images over those whose references
    have it; the cosine of both vectors, to which a phrase adds no more than the reference has of it, times
    exp(-d^2 / 72) for d pairs of words more or fewer; the mean over sizes and references, times 10. So coco-caption has
    it, with whose code these values agree to 1e-9 where words are cut alike.

    references: of each image, the words of each of its captions.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        self.images = len(references)
        self.having = Counter(
            phrase
            for several in references
            for phrase in {p for words in several for size in range(1, LONGEST + 1) for p in phrases(words, size)}
        )
        self.references = [[self._weigh(words) for words in several] for several in references]

    def __call__(self, words: Sequence[str], image: int) -> float:
        """Returns the score of a caption of the image of this number."""
        mine = self._weigh(words)
        return 10 * sum(_alike(mine, reference) for reference in self.references[image]) / len(self.references[image])

    def _weigh(self, words: Sequence[str]) -> _Weighed:
        weights = [
            {
                phrase: n * math.log(self.images / max(1, self.having[phrase]))
                for phrase, n in phrases(words, size).items()
            }
            for size in range(1, LONGEST + 1)
        ]
        norms = [math.sqrt(sum(weight**2 for weight in each.values())) for each in weights]
        return _Weighed(weights, norms, max(0, len(words) - 1))


def _alike(mine: _Weighed, other: _Weighed) -> float:
    total = 0.0
    for one, two, length, length2 in zip(mine.weights, other.weights, mine.norms, other.norms, strict=True):
        product = sum(min(one[phrase], two[phrase]) * two[phrase] for phrase in one.keys() & two.keys())
        total += product / (length * length2 or 1.0)
    return total / LONGEST * math.exp(-((mine.pairs - other.pairs) ** 2) / (2 * SIGMA**2))
