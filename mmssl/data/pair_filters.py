"""Which pairs of image and text of the web are left out as shards are built: ALIGN's filters. Jia et al., ICML 2021."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from mmssl import modalities
from mmssl.data.fields import KEYS
from mmssl.data.making import Fields
from mmssl.data.rows import Row, read_row, read_spot
from mmssl.errors import DamagedError, UserError

SMALL, LONG = "an image whose shorter side is below --min-side", "an image longer than --max-aspect"
CAPTIONS = ("txt", "text.json")
Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PairFilters:
    """What a pair must be, as far as is said; None leaves a filter out. Words are what blanks part, in small letters.

    Texts are those of `txt`, and a table's lists of captions, of which those that fail are dropped; a sample without
    any that passes is passed over. Counts are those of the whole source.

    min_side: pixels of the image's shorter side at least; the paper's images have more than 200.
    max_aspect: the longer side is less than so many times the shorter; the paper's 3.
    max_texts: texts of one image file at most; the paper's 1000.
    max_images: image files with the same text at most; the paper's 10.
    min_words: of a text at least; the paper's 3.
    max_words: of a text at most; the paper's 20.
    frequent: a text's words and pairs of neighbours are all among so many of the most frequent; the paper's 10^8.
    """

    min_side: int | None = None
    max_aspect: float | None = None
    max_texts: int | None = None
    max_images: int | None = None
    min_words: int | None = None
    max_words: int | None = None
    frequent: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and value < 1:
                raise UserError(f"--{each.name.replace('_', '-')} is {value}; expected a number of at least 1")

    @staticmethod
    def of(arguments: argparse.Namespace) -> PairFilters | None:
        """Returns the filters that a command line asks for, None where it asks for none."""
        given = {each.name: getattr(arguments, each.name) for each in fields(PairFilters)}
        return None if all(value is None for value in given.values()) else PairFilters(**given)

    @property
    def looks(self) -> bool:
        """Whether images are opened."""
        return self.min_side is not None or self.max_aspect is not None

    @property
    def reads(self) -> bool:
        """Whether texts are read."""
        return any(getattr(self, each.name) is not None for each in fields(self)[2:])

    def passing(self, rows: Sequence[Row], passed_over: Counter[str]) -> list[Row]:
        """Returns the rows whose texts pass, and counts the others by reason; UserError where none has a text."""
        if not self.reads:
            return list(rows)
        texts = {id(row): list(_texts(row)) for row in rows}
        if not any(texts.values()):
            raise UserError("there are no texts to filter; expected txt beside the images, or a column of captions")
        images = {id(row): _image(row) for row in rows}
        several = Counter(images[id(row)] for row in rows for _ in texts[id(row)])
        same = Counter(text for text, _ in {(text, images[id(row)]) for row in rows for text in texts[id(row)]})
        parts = Counter(part for found in texts.values() for text in found for part in _parts(text))
        frequent = None if self.frequent is None else {part for part, _ in parts.most_common(self.frequent)}
        kept = []
        for row in rows:
            found = texts[id(row)]
            faults = {text: self._fault(text, same[text], frequent) for text in found}
            if found and self.max_texts is not None and images[id(row)] and several[images[id(row)]] > self.max_texts:
                passed_over["with an image of more texts than --max-texts"] += 1
            elif found and all(faults.values()):
                passed_over[next(iter(faults.values()))] += 1
            else:
                _keep(row, [text for text in found if not faults[text]])
                kept.append(row)
        return kept

    def _fault(self, text: str, images: int, frequent: set[Words] | None) -> str:
        """Returns why a text does not pass, nothing where it does."""
        count = len(text.split())
        if self.max_images is not None and images > self.max_images:
            return "with a text of more images than --max-images"
        if self.min_words is not None and count < self.min_words:
            return "with a text of fewer words than --min-words"
        if self.max_words is not None and count > self.max_words:
            return "with a text of more words than --max-words"
        if frequent is not None and not frequent.issuperset(_parts(text)):
            return "with a text of words that are not --frequent"
        return ""

    def check(self, sample: Fields) -> None:
        """Raises DamagedError for a sample whose image does not pass."""
        for name, data in sample.items():
            if KEYS.get(name.rpartition(".")[2]) == "image":
                short, long = sorted(modalities.decode(name, data).size)
                if self.min_side is not None and short < self.min_side:
                    raise DamagedError(SMALL, f"{sample['__key__']!r}: {short} pixels")
                if self.max_aspect is not None and long >= self.max_aspect * short:
                    raise DamagedError(LONG, f"{sample['__key__']!r}: {long} by {short} pixels")


def read_filtered(row: Row, filters: PairFilters) -> Fields:
    """Returns the sample that a row stands for; raises DamagedError also where its image does not pass."""
    sample = read_row(row)
    filters.check(sample)
    return sample


def _texts(row: Row) -> Iterator[str]:
    """Yields a row's captions; of a file that cannot be read none, as writing it will tell."""
    for name in CAPTIONS:
        if name in row.texts:
            yield from json.loads(row.texts[name]) if name.endswith("json") else [row.texts[name]]
        elif name in row.files:
            try:
                found: Any = modalities.decode(name, read_spot(*row.files[name], row.where))
            except DamagedError:
                continue
            yield from [found] if isinstance(found, str) else []


def _keep(row: Row, texts: list[str]) -> None:
    """Leaves a row those of a list of captions that pass."""
    if "text.json" in row.texts:
        listed = [text for text in json.loads(row.texts["text.json"]) if text in texts]
        row.texts["text.json"] = json.dumps(listed, ensure_ascii=False)


def _image(row: Row) -> Any:
    """Returns where the image lies, which tells it from others; None where there is none."""
    return next((spot for name, spot in row.files.items() if KEYS.get(name.rpartition(".")[2]) == "image"), None)


def _parts(text: str) -> list[Words]:
    """Returns a text's words, and its pairs of neighbours."""
    words = text.lower().split()
    return [*((word,) for word in words), *pairwise(words)]
