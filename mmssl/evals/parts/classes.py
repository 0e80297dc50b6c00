"""Classes meet by name: the one rule for all that compares labels of two sets, or of a set and a list of classes.

Names are compared as text, stripped; where all are whole numbers, as these. Bare numbers are compared only where
neither side has names; with a list of classes they are places in it, and a warning says so. A class of the test side
that the known side (training set, list of classes) lacks has no right answer, so its samples count as wrong, and one
warning names it; where no class is shared at all, or names would have to be compared with bare numbers, that is a
UserError. What the known side has besides does not matter.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mmssl.errors import DamagedError, LackingError, UserError
from mmssl.evals.parts.report import no_samples_error, skip_damaged, warn

Label = str | int


def class_of(value: Any) -> Label:
    """Returns a label as a name or a whole number; raises DamagedError for one that is missing or neither."""
    nan = isinstance(value, float) and value != value
    if value is None or nan or (isinstance(value, str) and not value.strip()):
        raise LackingError("a sample without a label")
    if isinstance(value, str | bool):
        return same(value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise DamagedError("a label that is neither a name nor a whole number", f"{value!r:.60}")


def same(name: Any) -> str:
    """Returns a name as it is compared: stripped, accents composed (file names of a Mac have them apart)."""
    return unicodedata.normalize("NFC", str(name)).strip()


def number_classes(labels: Iterable[Label], *, where: str) -> dict[Label, int]:
    """Returns class -> number, in sorted order; UserError where names stand beside bare numbers."""
    classes = set(labels)
    names = [name for name in classes if isinstance(name, str)]
    if 0 < len(names) < len(classes):
        raise UserError(f"{where} has names of classes and bare numbers ({some(classes)}); {_hint()}")
    return {name: number for number, name in enumerate(sorted(classes, key=_order))}


def as_labels(names: Sequence[str]) -> list[Label]:
    """Returns the names of a set's classes as they are compared: as numbers where all are whole numbers."""
    whole = all(name.isdecimal() and str(int(name)) == name for name in names)
    return [int(name) if whole else name for name in names]


def number_listed(classes: Sequence[str], labels: Collection[Label]) -> dict[Label, int]:
    """Returns class -> place in a list of names; place -> place where labels are bare numbers and the names are not.

    Warns of the latter, for nothing tells whether the list has the set's order.
    """
    names = as_labels(classes)
    bare = bool(labels) and not any(isinstance(label, str) for label in labels)
    if not bare or isinstance(names[0], int):
        return {name: number for number, name in enumerate(names)}
    first = ", ".join(f"{number} is {name}" for number, name in enumerate(classes[:3]))
    warn(f"the labels are bare numbers, taken for places in the list of classes: {first}, ...; check its order")
    return {number: number for number in range(len(classes))}


def match_classes(labels: Sequence[Label], known: Mapping[Label, int], *, where: str, known_as: str) -> list[int]:
    """Returns the number of each label among the known classes; unknown ones are numbered on from there.

    Warns of those; raises UserError where none is known.
    """
    lacking = Counter(name for name in labels if name not in known)
    if lacking.total() == len(labels):
        raise disjoint_error(labels, known, where=where, known_as=known_as)
    if lacking:
        described = some(lacking, lambda name: f"{name}: {lacking[name]}")
        warn(
            f"{lacking.total()} of {len(labels)} samples of {where} have no right answer, "
            f"since {known_as} lacks their classes ({described})"
        )
    whole = {**known, **{name: len(known) + number for name, number in number_classes(lacking, where=where).items()}}
    return [whole[name] for name in labels]


def labels_of(samples: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[Label]]:
    """Returns the places of the samples that have a label, and these; the others are left out."""
    labels: dict[int, Label] = {}
    for place, sample in enumerate(samples):
        with skip_damaged(sample):
            labels[place] = class_of(sample.get(key))
    if not labels:
        raise no_samples_error(f"no sample has a {key} that is a name or a whole number")
    return list(labels), list(labels.values())


def chance(labels: Tensor, classes: int, *, guesses: int = 1) -> float:
    """Returns what guesses among this many classes reach, where some of the labels (N,) may be of none of them."""
    return guesses * float((labels < classes).double().mean()) / classes


def disjoint_error(labels: Iterable[Label], known: Iterable[Label], *, where: str, known_as: str) -> UserError:
    """Returns the error for two sides that share no class."""
    one, two = set(labels), set(known)
    alike = {isinstance(name, str) for name in one} == {isinstance(name, str) for name in two}
    hint = "" if alike else f"; names and bare numbers cannot be compared: {_hint()}"
    return UserError(f"{where} has none of the classes of {known_as}: {some(one)} against {some(two)}{hint}")


def some(classes: Iterable[Label], say: Any = str) -> str:
    """Returns a few classes in words."""
    first = list(itertools.islice(sorted(set(classes), key=_order), 6))
    return ", ".join(map(say, first[:5])) + (", ..." if len(first) > 5 else "")


def _order(label: Label) -> tuple[bool, Label]:
    return isinstance(label, int), label


def _hint() -> str:
    return (
        "the names stand in the index.json that `mmssl shards build` writes, or name the field that has them, "
        "as in fields: {label: json.class}"
    )
