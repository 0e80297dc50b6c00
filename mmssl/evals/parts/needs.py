"""What an evaluation needs of what was trained and of its data: declared, and refused in one line where it lacks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mmssl.data.shards import Source
from mmssl.data.subset import counted
from mmssl.errors import UserError, did_you_mean
from mmssl.evals.parts.layers import require_place
from mmssl.evals.parts.source import check_shared_classes, require_fields
from mmssl.types import Encoder, Evaluation, Trained


@dataclass(frozen=True, kw_only=True)
class EncoderNeed:
    """What an encoder must be.

    modalities: of which it must read one; any where there are none.
    space: that it must have.
    places: at which it must be readable, as in evals/parts/layers.py.
    """

    modalities: tuple[str, ...] = ()
    space: str | None = None
    places: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassesNeed:
    """Two sides that must share a class: what is learnt from, a set or a list of names, and what is judged on.

    where, known_as: what errors call the latter and the former.
    """

    train: Source | Sequence[str]
    test: Source
    label: str
    where: str
    known_as: str


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an evaluation needs.

    encoders: by key; None is the only one there is.
    task: that the run must have.
    data: option that names the set -> the set, and the fields that its samples must have.
    counted: of these options those whose samples must be counted.
    classes: that must be shared.
    """

    encoders: Mapping[str | None, EncoderNeed] = field(default_factory=dict)
    task: str | None = None
    data: Mapping[str, tuple[Source, Collection[str]]] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    classes: ClassesNeed | None = None

    def check(self, trained: Trained) -> None:
        """Raises UserError for the first that is missing, and says what there is. Looks at a few samples only."""
        for key, need in self.encoders.items():
            encoder = require_encoder(trained, key, space=need.space, modalities=need.modalities)
            for place in need.places:
                require_place(encoder, place)
        if self.task is not None:
            trained.task(self.task)
        for option, (source, fields) in self.data.items():
            require_fields(source, fields, where=option)
        for option in self.counted:
            counted(self.data[option][0])
        if self.classes is not None:
            both = self.classes
            check_shared_classes(both.train, both.test, both.label, where=both.where, known_as=both.known_as)


class Declared(Evaluation):
    """An evaluation that says what it needs."""

    def needs(self, trained: Trained) -> Needs:
        """Returns what it needs where this was trained, whose encoder tells which field is read; raises UserError."""
        raise NotImplementedError

    def check(self, trained: Trained) -> None:
        """Raises UserError for the first need that is not met."""
        self.needs(trained).check(trained)


def require_encoder(
    trained: Trained, key: str | None, *, space: str | None = None, modalities: tuple[str, ...] = ()
) -> Encoder:
    """Returns the encoder of that key, or where it is None the only one.

    Raises UserError where there is none, it has no such space, or it reads none of the modalities.
    """
    if key is None and len(trained.encoders) > 1:
        raise UserError(f"the run has the encoders {', '.join(trained.encoders)}; say which with encoder")
    found = key or next(iter(trained.encoders))
    if found not in trained.encoders:
        raise UserError(f"there is no encoder {found!r}; {did_you_mean(found, trained.encoders)}")
    encoder = trained.encoders[found]
    if modalities and encoder.modality not in modalities:
        raise UserError(f"the encoder {found!r} reads {encoder.modality}; expected {' or '.join(modalities)}")
    if space is not None and space not in encoder.spaces:
        raise UserError(f"the encoder {found!r} has no space {space!r}; {did_you_mean(space, encoder.spaces)}")
    return encoder
