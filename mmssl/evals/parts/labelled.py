"""Features with labels of a training and a test set: what probes of encoders are fitted to and judged on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mmssl.data.shards import Source
from mmssl.data.subset import counted, limited
from mmssl.encoders.raw import PREPROCESS, Raw
from mmssl.evals.parts.classes import Label, class_of, labels_of, match_classes, number_classes
from mmssl.evals.parts.layers import POOLED, Tapped, has
from mmssl.evals.parts.memory import recall
from mmssl.evals.parts.needs import ClassesNeed, Declared, EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.report import no_samples_error, skip_damaged
from mmssl.evals.parts.source import open_source, warn_of_overlap
from mmssl.evals.parts.stream import embed_stream, prepared_batches
from mmssl.evals.parts.untrained import WARM, untrained, warming
from mmssl.types import Encoder, Score, Trained


@dataclass(slots=True)
class Embedded:
    """Features x (N, D), float32 on the CPU, classes y (N,), and each sample's number (its place in the set) (N,).

    names: of the classes that there are, by their numbers; for figures of each.
    """

    x: Tensor
    y: Tensor
    number: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    names: Mapping[int, str] = field(default_factory=dict)

    def per_class(self, right: Tensor) -> dict[str, float]:
        """Returns the share of samples (N,) that are right, of each class that has a name."""
        return {name: float(right[self.y == number].float().mean()) for number, name in sorted(self.names.items())}


class Labelled:
    """A training and a test set. Classes are numbered in the order of the training set's sorted labels.

    Of the test set, classes that the training set lacks are numbered on from there: see evals/parts/classes.py.
    label: the sample's key that holds the class. limit: of each set this many samples at most, drawn from a fixed seed.
    """

    def __init__(
        self, train: Mapping[str, Any], data: Mapping[str, Any], *, label: str, limit: int | None = None
    ) -> None:
        self.train, self.test = (limited(open_source(node), limit) for node in (train, data))
        self.label = label
        self.what = repr((sorted(train.items()), sorted(data.items()), label, limit))
        train_set, test_set = f"the training set {_spell(self.train)}", f"the test set {_spell(self.test)}"
        self.names = {"where": test_set, "known_as": train_set + (f" (limit: {limit})" if limit else "")}

    def needs(self, field: str) -> Needs:
        """Returns what both sets must have, for an encoder that reads the field."""
        fields = (field, self.label)
        return Needs(
            data={"train": (self.train, fields), "data": (self.test, fields)},
            classes=ClassesNeed(train=self.train, test=self.test, label=self.label, **self.names),
        )

    def rows(self, encoder: Encoder, *, space: str | None = None) -> tuple[Embedded, Embedded]:
        """Embeds both sets; every process gets all rows."""
        return self.read(encoder, [space or POOLED])[space or POOLED]

    def read(self, encoder: Encoder, places: Sequence[str]) -> dict[str, tuple[Embedded, Embedded]]:
        """Embeds both sets, by what the encoder gives at each place; place -> training and test rows."""

        def made() -> tuple[Encoder, dict[str, tuple[Embedded, Embedded]]]:
            return encoder, self._read(encoder, places)  # the encoder, so that its id stays its own

        return recall(
            (self.what, id(encoder), *places), made, size=lambda it: sum(r.x.nbytes for p in it[1].values() for r in p)
        )[1]

    def _read(self, encoder: Encoder, places: Sequence[str]) -> dict[str, tuple[Embedded, Embedded]]:
        tapped = Tapped(encoder, places)
        train, test = (self._embedded(source, tapped) for source in (self.train, self.test))
        number = self._class_numbers(train[1])
        y = [torch.tensor([number[name] for name in train[1]]), self._test_labels(test[1], number)]
        parts = [x.split(tapped.sizes, dim=1) for x, _, _ in (train, test)]
        return {
            place: (Embedded(one, y[0], train[2]), Embedded(two, y[1], test[2], _names(y[1], test[1])))
            for place, one, two in zip(places, *parts, strict=True)
        }

    def labels(self) -> dict[int, int]:
        """Returns the class of each of the training set's samples by its number (place in the set).

        Samples without a label are left out.
        """
        names = self._classes()
        number = self._class_numbers(names.values())
        return {place: number[name] for place, name in names.items()}

    def _classes(self) -> dict[int, Label]:
        return recall((self.what, "names"), lambda: read_classes(self.train, self.label))

    def test_rows(self, encoder: Encoder) -> Embedded:
        """Embeds the test set only; every process gets all rows."""
        x, labels, number = self._embedded(self.test, encoder)
        y = self._test_labels(labels, self._class_numbers(self._classes().values()))
        return Embedded(x, y, number, _names(y, labels))

    def _class_numbers(self, labels: Iterable[Label]) -> dict[Label, int]:
        return number_classes(labels, where=self.names["known_as"])

    def _test_labels(self, labels: Sequence[Label], number: Mapping[Label, int]) -> Tensor:
        number_classes(labels, where=self.names["where"])
        return torch.tensor(match_classes(labels, number, **self.names))

    def _embedded(self, source: Source, encoder: Encoder) -> tuple[Tensor, list[Label], Tensor]:
        """Returns features, labels and numbers of a set, in the order of the numbers."""
        key = encoder.modality
        x, metadata = embed_stream({key: encoder}, source, [key], space=None, keep=[self.label])
        places, labels = labels_of(metadata, self.label)
        number = torch.tensor([metadata[place]["__number__"] for place in places])
        order = number.argsort(stable=True)  # the same, however many processes embedded them
        return x[key][places][order], [labels[place] for place in order.tolist()], number[order]

    def warm(self, encoder: Encoder) -> Encoder:
        """Lets the BatchNorm of random weights see some of the training set."""
        key = encoder.modality
        with warming(encoder), torch.inference_mode():
            for x, _ in islice(prepared_batches({key: encoder.preprocess}, self.train), WARM):
                encoder(x[key].to(encoder.device))
        return encoder


def read_classes(source: Source, label: str) -> dict[int, Label]:
    """Returns the class of each of a set's samples that has one, by its number; label: the key that holds it."""
    counted(source)
    found = {}
    for sample in source.samples({label}):
        with skip_damaged(sample):
            found[sample["__number__"]] = class_of(sample.get(label))
    if not found:
        raise no_samples_error(f"{source.shards[0]}, ... have no {label}")
    return found


def read_labels(sources: Sequence[Source], label: str) -> dict[int, int]:
    """Returns the class of each sample of sets one behind the other, numbered as a Labelled numbers its training set's.

    The numbers of the samples go on from set to set.
    """
    found: dict[int, Label] = {}
    first = 0
    for source in sources:
        found |= {first + number: name for number, name in read_classes(source, label).items()}
        first += source.count or 0
    classes = number_classes(found.values(), where=f"the training set {_spell(sources[0])}")
    return {number: classes[name] for number, name in found.items()}


def _names(y: Tensor, labels: Sequence[Label]) -> dict[int, str]:
    return {number: str(label) for number, label in zip(y.tolist(), labels, strict=True)}


def _spell(source: Source) -> str:
    return source.shards[0] + (", ..." if len(source.shards) > 1 else "")


@dataclass(kw_only=True, eq=False)
class Classification(Declared):
    """An evaluation of an encoder on labelled sets, with the raw input and random weights beside it.

    A subclass is a dataclass too, whose fields are further options.

    train: shards with labels to learn from.
    data: shards with labels to judge on; classes meet as evals/parts/classes.py says.
    label: the sample's key that holds the class, a name or a number.
    encoder: its key, by default the only one's; it reads what the samples have of its modality.
    baselines: also judge the raw input, which becomes the trivial figure, and the encoder with random weights; in a
        run that trains they are judged once.
    limit: samples of each set at most, drawn from a fixed seed.
    """

    train: dict[str, Any]
    data: dict[str, Any]
    label: str = "label"
    encoder: str | None = None
    baselines: bool = True
    limit: int | None = None

    def __post_init__(self) -> None:
        self.sets = Labelled(self.train, self.data, label=self.label, limit=self.limit)
        self.places: tuple[str, ...] = (POOLED,)  # what of the encoder is read
        self.floors: dict[str, list[tuple[str, Score]]] = {}  # architecture -> the baselines' figures

    def needs(self, trained: Trained) -> Needs:
        encoder = require_encoder(trained, self.encoder)
        return replace(
            self.sets.needs(encoder.preprocess.field), encoders={self.encoder: EncoderNeed(places=tuple(self.places))}
        )

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields what `judge` does of the encoder, and with baselines before it raw/ and random_init/."""
        encoder = require_encoder(trained, self.encoder)
        warn_of_overlap(self.sets.train, self.sets.test)
        floor = self._floor(encoder) if self.baselines else []
        yield from floor
        trivial = {name.removeprefix("raw/"): float(score) for name, score in floor if name.startswith("raw/")}
        for name, score in self.judge(encoder, self.places):
            yield name, replace(score, trivial=trivial.get(name))

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields the figures of one encoder, read at some places."""
        raise NotImplementedError

    def _floor(self, encoder: Encoder) -> list[tuple[str, Score]]:
        what = repr((encoder.config(), encoder.preprocess.config()))
        if what not in self.floors:
            self.floors[what] = [
                (prefix + name, score)
                for prefix, rival in rivals(self.sets, encoder, baselines=True)
                if prefix
                for name, score in self.judge(rival, common(rival, self.places))
            ]
        return self.floors[what]


@dataclass(kw_only=True, eq=False)
class Probe(Classification):
    """A Classification on frozen features.

    space: the task whose embedding is used; without it pooled features.
    """

    space: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.places = (self.space or POOLED,)


def common(rival: Encoder, places: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the places that a baseline can be read at too, at least its pooled features."""
    return tuple(place for place in places if has(rival, place)) or (POOLED,)


def rivals(sets: Labelled, encoder: Encoder, *, baselines: bool) -> Iterator[tuple[str, Encoder]]:
    """Yields the encoder under "", and where baselines are wanted before it "raw/" and "random_init/"."""
    if baselines and encoder.modality in PREPROCESS:
        yield "raw/", recall(("raw", id(encoder)), lambda: _raw(encoder))
    if baselines:
        yield "random_init/", recall((sets.what, id(encoder)), lambda: sets.warm(untrained(encoder)))
    yield "", encoder


def _raw(encoder: Encoder) -> Encoder:
    raw = Raw(encoder.modality)  # type: ignore[arg-type]
    raw.preprocess = encoder.preprocess
    return raw.to(encoder.device).eval()
