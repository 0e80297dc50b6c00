"""The samples that plots show: those that are whole, prepared within the time limit; the others are left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor

from mmssl.data.shards import Source
from mmssl.data.timer import timed
from mmssl.data.user_source import UserFiles
from mmssl.errors import UserError
from mmssl.evals.parts.needs import require_encoder
from mmssl.evals.parts.report import no_samples_error, require, skip_damaged
from mmssl.modalities import EXTENSIONS
from mmssl.plots.canvas import Pixels
from mmssl.types import Encoder, Sample, Trained, reading

T = TypeVar("T")
SEEING = ("image", "video")


def prepared(
    source: Source, reads: Collection[str], make: Callable[[Sample], T], *, spread: int | None = None
) -> Iterator[T]:
    """Yields what `make` returns of each sample.

    spread: how many are wanted from all over the set, of which twice as many are read, for some may be damaged.
    """
    step = 1 if spread is None else max(1, (source.count or 0) // (2 * spread))
    for sample in source.samples(reads, world=step):
        with skip_damaged(sample):
            with timed():
                made = make(sample)
            yield made


def reader_of(
    trained: Trained, key: str | None, source: Source, *, space: str | None = None, modalities: tuple[str, ...] = ()
) -> Encoder:
    """Returns the encoder of that key, or the only one of these modalities that reads what the data has.

    One of images reads films where there are no images. Of a folder what it cannot read is passed over.
    UserError where there is none, it has no such space, or the data has nothing for it.
    """
    if key is None:
        fits = [name for name, e in trained.encoders.items() if not modalities or e.modality in modalities]
        able = [name for name in fits if _reads(source, trained.encoders[name].preprocess.field)]
        fits = able or fits[:1]
        if len(fits) > 1:
            raise UserError(f"the run has the encoders {reading(trained.encoders)}; say which with encoder=KEY")
        key = fits[0] if fits else None
    if key is None:
        raise UserError(f"this needs an encoder of {' or '.join(modalities)}; there is {reading(trained.encoders)}")
    encoder = require_encoder(trained, key, space=space, modalities=modalities)
    own = encoder.preprocess.field
    films_as_images(source, own)
    source.check({own})
    if isinstance(source, UserFiles):
        source.pass_over_others(own)
    return encoder


def _reads(source: Source, field: str) -> bool:
    return has(source, field) or (field == "image" and has(source, "video"))


def films_as_images(source: Source, wanted: str) -> None:
    """Lets films fill the images of a set that has none, where these are wanted: those in the middle, or at a time."""
    if wanted == "image" and not has(source, wanted) and has(source, "video"):
        source.fields = {**source.fields, wanted: [name for name, kind in EXTENSIONS.items() if kind == "video"]}


def has(source: Source, key: str) -> bool:
    """Tells whether a set has anything for a key."""
    with suppress(UserError):
        source.check({key})
        return True
    return False


@dataclass(slots=True)
class Seen:
    """An image or a video as an encoder sees it, uint8 (3, H, W) or (3, T, H, W), and what it is called."""

    name: str
    x: Tensor

    def picture(self, grid: tuple[int, ...]) -> Pixels:
        """Returns the image (H, W, 3), or of a video that which the middle of the cells' moments shows."""
        frame = self.x if len(grid) == 2 else self.x[:, (2 * (grid[0] // 2) + 1) * self.x.shape[1] // (2 * grid[0])]
        found: Pixels = frame.permute(1, 2, 0).numpy()
        return found


def seen(encoder: Encoder, source: Source, *, count: int) -> list[Seen]:
    """Returns samples from all over a set; UserError where there is none that is whole."""
    field = encoder.preprocess.field
    make = partial(_seen, field=field, preprocess=encoder.preprocess)
    found = list(islice(prepared(source, {field}, make, spread=count), count))
    if not found:
        raise no_samples_error(f"the data has no sample with a whole {field}")
    return found


def _seen(sample: Sample, *, field: str, preprocess: Any) -> Seen:
    return Seen(str(sample.get("__key__", "")), preprocess(*require(sample, field)))


def in_picture(values: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Lays what is said of cells (N, ...) out as they lie: (H, W, ...); of a video's those of the middle moment."""
    laid = values.unflatten(0, grid)
    return laid if len(grid) == 2 else laid[grid[0] // 2]
