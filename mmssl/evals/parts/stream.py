"""Embeds a stream of samples, each process its share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.in_workers import Made, batches_in_workers, in_workers
from mmssl.data.shards import Source
from mmssl.evals.parts.progress import passing
from mmssl.evals.parts.report import no_samples_error, require, usable
from mmssl.types import Encoder, Preprocess, Sample

T = TypeVar("T")


def embed_stream(
    encoders: Mapping[str, Encoder],
    source: Source,
    modalities: Sequence[str],
    *,
    space: str | None,
    keep: Sequence[str] = (),
    batch: int = 64,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Embeds every sample of a source that has all the modalities and all of `keep`; others are left out.

    Returns modality -> (N, D) over all processes on the CPU, and of each sample the values under `keep`, and its
    `__key__`, `__shard__` and `__number__`.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in modalities}
    metadata: list[dict[str, Any]] = []
    preprocess = {name: encoders[name].preprocess for name in modalities}
    batches = prepared_batches(preprocess, source, keep=keep, batch=batch, rank=dist.rank(), world=dist.world())
    with torch.inference_mode():
        for x, values in batches:
            for name, found in rows.items():
                found.append(encoders[name].embed(x[name].to(encoders[name].device), space=space).float().cpu())
            metadata += values
    everyone = [values for part in dist.gather_objects(metadata) for values in part]
    if not everyone:
        raise no_samples_error(f"the evaluation data has no sample with a whole {' and '.join((*modalities, *keep))}")
    return {name: everywhere(found, encoders[name].device).cpu() for name, found in rows.items()}, everyone


def prepared_batches(
    preprocess: Mapping[str, Preprocess],
    source: Source,
    *,
    keep: Sequence[str] = (),
    batch: int = 64,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[dict[str, Tensor], list[dict[str, Any]]]]:
    """Yields batches of a rank's whole samples: modality -> what its encoder sees, and of each sample what is kept.

    The latter is what it has under `keep`, and its `__key__`, `__shard__` and `__number__`.
    """
    parts = batches_in_workers(
        source,
        (*(prepare.field for prepare in preprocess.values()), *keep),
        partial(_prepared, preprocess=preprocess, keep=keep),
        partial(_collated, preprocess=preprocess),
        size=batch,
        rank=rank,
        world=world,
    )
    for made, collated in passing(source, parts, world=world, each=lambda part: len(part[0])):
        about = [one.about for one in usable(made)]
        if collated is not None:
            yield collated[0], [{**own, **mine} for own, mine in zip(collated[1], about, strict=True)]


def show_some(encoder: Encoder, source: Source, *, space: str | None = None, batches: int = 8) -> None:
    """Embeds some batches for nothing but the statistics of BatchNorm, where the encoder has one; texts have none."""
    if encoder.modality != "text":
        for x, _ in itertools.islice(prepared_batches({encoder.modality: encoder.preprocess}, source), batches):
            encoder.embed(x[encoder.modality].to(encoder.device), space=space)


def prepared_groups(
    source: Source, reads: Collection[str], make: Callable[[Sample], T], *, size: int
) -> Iterator[tuple[int, list[Made[T]]]]:
    """Yields the number of each group of `size` neighbours in the set, and what `make` makes of the whole ones.

    Groups are shared out among processes, so that they are the same on any number of these.
    """
    samples = in_workers(source, reads, make, size=size, grouped=True, rank=dist.rank(), world=dist.world())
    seen = passing(source, samples, world=dist.world())
    for number, group in itertools.groupby(seen, key=lambda one: one.place // size):
        yield number, list(usable(group))


def _prepared(
    sample: Sample, *, preprocess: Mapping[str, Preprocess], keep: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what the encoders see of a sample, and what is kept of it."""
    require(sample, *(prepare.field for prepare in preprocess.values()), *keep)
    seen = {name: prepare(sample[prepare.field]) for name, prepare in preprocess.items()}
    return seen, {key: sample[key] for key in keep}


def _collated(
    prepared: Sequence[tuple[dict[str, Any], dict[str, Any]]], *, preprocess: Mapping[str, Preprocess]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Returns the batch of each modality, and what is kept of each sample."""
    x = {name: prepare.collate([items[name] for items, _ in prepared]) for name, prepare in preprocess.items()}
    return x, [metadata for _, metadata in prepared]


def everywhere(rows: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Concatenates parts (n, ...) of all processes, of which some, but not all, may have none."""
    shapes = dist.gather_objects((rows[0].shape[1:], rows[0].dtype) if rows else None)
    shape, dtype = next(known for known in shapes if known is not None)
    mine = torch.cat(list(rows)) if rows else torch.zeros(0, *shape, dtype=dtype)
    return dist.gather(mine.to(device))
