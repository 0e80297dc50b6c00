"""Embeds a stream of samples, each process its share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mmssl import dist, names
from mmssl.data.shards import Source
from mmssl.errors import DamagedError, UserError
from mmssl.types import Encoder, Sample


def open_source(data: Mapping[str, Any]) -> Source:
    """Opens the `data` node of an evaluation."""
    return Source(**names.check_options(Source, data, where="data"))


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
    """Embeds every sample of a source that has all the modalities; damaged ones are left out.

    Returns modality -> (N, D) over all processes on the CPU, and of each sample the values under `keep`, among which
    may be `__key__` and `__number__`.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in modalities}
    kept: list[dict[str, Any]] = []
    wanted = {*modalities, *(key for key in keep if not key.startswith("__"))}
    stream = source.samples(wanted, rank=dist.rank(), world=dist.world())
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        ahead = pool.map(lambda chunk: [_prepare(s, encoders, modalities) for s in chunk], chunks(stream, batch_size))
        for prepared in ahead:
            whole = [(sample, items) for sample, items in prepared if items is not None]
            if not whole:
                continue
            for name in modalities:
                encoder = encoders[name]
                x = encoder.preprocess.collate([items[name] for _, items in whole]).to(encoder.device)
                rows[name].append(encoder.embed(x, space=space).float().cpu())
            kept += [{key: sample.get(key) for key in keep} for sample, _ in whole]
    return {name: _everywhere(found, encoders[name]) for name, found in rows.items()}, _flatten(kept)


def _prepare(
    sample: Sample, encoders: Mapping[str, Encoder], modalities: Sequence[str]
) -> tuple[Sample, dict[str, Any] | None]:
    if any(name not in sample for name in modalities):
        return sample, None
    try:
        return sample, {name: encoders[name].preprocess(sample[name]) for name in modalities}
    except DamagedError:
        return sample, None


def _everywhere(found: list[Tensor], encoder: Encoder) -> Tensor:
    """Concatenates one process's rows with the others'."""
    if not found and dist.world() == 1:
        raise UserError(f"the evaluation data has no sample with a whole {encoder.modality}")
    mine = torch.cat(found) if found else torch.zeros(0, encoder.dim)
    return dist.gather(mine.to(encoder.device)).cpu()


def _flatten(kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [values for part in dist.gather_objects(kept) for values in part]
