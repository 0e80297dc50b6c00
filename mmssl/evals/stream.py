"""Embeds a stream of samples, each process its share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.shards import Source
from mmssl.errors import DamagedError
from mmssl.evals.report import having, leave_out, nothing_left
from mmssl.types import Encoder, Sample

ABOUT = ("__key__", "__shard__", "__number__")


def chunks(stream: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """Cuts a stream into lists."""
    while chunk := list(islice(stream, size)):
        yield chunk


def embed_stream(
    encoders: Mapping[str, Encoder],
    source: Source,
    modalities: Sequence[str],
    *,
    space: str | None,
    keep: Sequence[str] = (),
    batch_size: int = 64,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Embeds every sample of a source that has all the modalities and all of `keep`; others are left out.

    Returns modality -> (N, D) over all processes on the CPU, and of each sample the values under `keep`, and its
    `__key__`, `__shard__` and `__number__`.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in modalities}
    kept: list[dict[str, Any]] = []
    wanted = (*modalities, *keep)
    stream = source.samples(wanted, rank=dist.rank(), world=dist.world())
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        prepare = partial(_prepare, encoders=encoders, modalities=modalities, keep=keep)
        ahead = pool.map(lambda chunk: list(map(prepare, chunk)), chunks(stream, batch_size))
        for prepared in ahead:
            whole = []
            for sample, items in prepared:
                if isinstance(items, DamagedError):
                    leave_out(sample, items)
                else:
                    whole.append((sample, items))
            for name in modalities if whole else ():
                encoder = encoders[name]
                x = encoder.preprocess.collate([items[name] for _, items in whole]).to(encoder.device)
                rows[name].append(encoder.embed(x, space=space).float().cpu())
            kept += [{key: sample.get(key) for key in (*keep, *ABOUT)} for sample, _ in whole]
    told = [values for part in dist.gather_objects(kept) for values in part]
    if not told:
        raise nothing_left(f"the evaluation data has no sample with a whole {' and '.join(wanted)}")
    return {name: everywhere(found, encoders[name].device).cpu() for name, found in rows.items()}, told


def _prepare(
    sample: Sample, *, encoders: Mapping[str, Encoder], modalities: Sequence[str], keep: Sequence[str]
) -> tuple[Sample, dict[str, Any] | DamagedError]:
    """Returns the sample and what the encoders see of it, or why there is no such thing; runs beside the encoders."""
    try:
        having(sample, *modalities, *keep)
        return sample, {name: encoders[name].preprocess(sample[name]) for name in modalities}
    except DamagedError as error:
        return sample, error


def everywhere(rows: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Concatenates parts (n, ...) of all processes, of which some, but not all, may have none."""
    shapes = dist.gather_objects((rows[0].shape[1:], rows[0].dtype) if rows else None)
    shape, dtype = next(known for known in shapes if known is not None)
    mine = torch.cat(list(rows)) if rows else torch.zeros(0, *shape, dtype=dtype)
    return dist.gather(mine.to(device))
