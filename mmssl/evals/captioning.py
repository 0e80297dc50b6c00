"""Captions of held-out images: how like those that people wrote, and how many of their words are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mmssl import dist
from mmssl.data.shards import Source
from mmssl.data.subset import limited
from mmssl.errors import UserError
from mmssl.evals.parts.cider import CiderD, words_of
from mmssl.evals.parts.needs import EncoderNeed, Needs
from mmssl.evals.parts.pretext import ask_some
from mmssl.evals.parts.report import no_samples_error
from mmssl.evals.parts.score import bootstrap, named
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.stream import prepared_batches
from mmssl.evals.parts.untrained import WithUntrained
from mmssl.objectives.captioning import captioning_task
from mmssl.types import Score, Trained

Words = list[str]


class Captions(WithUntrained):
    """CIDEr-D, and words and whole captions that are right, against the most frequent caption for every image.

    An image may have several texts; those of all images that are judged also say which phrases are rare. Words are cut
    as evals/parts/cider.py says, and not by the tokenizer of coco-caption.

    data: shards (and fields) with an image and its texts.
    task: the run's task that writes captions; by default the only one that does.
    known: shards (and fields) whose most frequent text is the trivial caption; by default that of the data judged.
    beams: captions that are kept while one is written.
    length: tokens of a caption at most; by default what the text encoder takes.
    baselines: also judge the encoders and the task's heads with random weights.
    limit: samples at most, drawn from a fixed seed.
    batch: samples at a time.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        task: str | None = None,
        known: dict[str, Any] | None = None,
        beams: int = 5,
        length: int | None = None,
        baselines: bool = False,
        limit: int | None = None,
        batch: int = 32,
    ) -> None:
        if beams < 1 or (length is not None and length < 1):
            raise UserError(f"beams is {beams} and length {length}; expected whole numbers above 0")
        self.source, self.known = limited(open_source(data), limit), None if known is None else open_source(known)
        self.task, self.beams, self.length = task, beams, length
        self.baselines, self.batch = baselines, batch

    def needs(self, trained: Trained) -> Needs:
        captioning_task(trained, self.task)
        sets: dict[str, tuple[Source, tuple[str, ...]]] = {"data": (self.source, ("image", "text"))}
        sets |= {} if self.known is None else {"known": (self.known, ("text",))}
        return Needs(encoders={"image": EncoderNeed(), "text": EncoderNeed()}, data=sets)

    def warm(self, fresh: Trained) -> None:
        ask_some(fresh, captioning_task(fresh, self.task)[0], self.source)

    def judge(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields cider, words (F1 of the nearest reference's words) and exact (equal to a reference)."""
        keys, written, references = self._written(trained)
        frequent = most_frequent(
            self._texts(self.known) if self.known else [t for several in references for t in several]
        )
        cider = CiderD(references)
        figures: dict[str, Callable[[Words, int], float]] = {
            "cider": cider,
            "words": lambda words, image: max(shared_words(words, other) for other in references[image]),
            "exact": lambda words, image: float(words in references[image]),
        }
        for name, figure in figures.items():
            found = torch.tensor([figure(words, image) for image, words in enumerate(written)])
            trivial = sum(figure(frequent, image) for image in range(len(written))) / len(written)
            yield name, bootstrap(found, chance=0.0, trivial=trivial, parts=named(keys, found.tolist()))

    def _written(self, trained: Trained) -> tuple[list[str], list[Words], list[list[Words]]]:
        """Returns of each image its key, the words of its caption, and those of its references."""
        (_, task), encoders = captioning_task(trained, self.task), trained.encoders
        preprocess = {"image": encoders["image"].preprocess}
        shares = {"rank": dist.rank(), "world": dist.world()}
        rows: list[tuple[str, Words, list[Words]]] = []
        for x, about in prepared_batches(preprocess, self.source, keep=("text",), batch=self.batch, **shares):
            images = x["image"].to(encoders["image"].device)
            found = task.captions(encoders, images, beams=self.beams, length=self.length)
            for row, caption in zip(about, found, strict=True):
                texts = row["text"] if isinstance(row["text"], list) else [row["text"]]
                rows.append((row["__key__"], words_of(caption.text), [words_of(text) for text in texts]))
        everywhere = [row for share in dist.gather_objects(rows) for row in share]
        if not everywhere:
            raise no_samples_error("the evaluation data has no sample with a whole image and text")
        keys, written, references = zip(*everywhere, strict=True)
        return list(keys), list(written), list(references)

    def _texts(self, source: Source) -> Iterator[Words]:
        for _, about in prepared_batches({}, source, keep=("text",), batch=self.batch):
            for row in about:
                yield from (
                    words_of(text) for text in (row["text"] if isinstance(row["text"], list) else [row["text"]])
                )


def most_frequent(texts: Iterator[Words] | Sequence[Words]) -> Words:
    """Returns the words of the most frequent text, the first of equals."""
    return list(Counter(map(tuple, texts)).most_common(1)[0][0])


def shared_words(words: Words, other: Words) -> float:
    """Returns the F1 of the words that two texts share, each as often as both have it; 0 where neither has any."""
    both = (Counter(words) & Counter(other)).total()
    return 2 * both / ((len(words) + len(other)) or 1)


evaluation = Captions
