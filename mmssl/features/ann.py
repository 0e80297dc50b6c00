"""Approximate search with faiss, for millions of rows: an index is built once, and kept in a file of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch

from mmssl.data.index import write_json
from mmssl.errors import UserError
from mmssl.features.files import BLOCK, Table, beside
from mmssl.files import replacing
from mmssl.schema import fit, read_json

Kind = Literal["hnsw", "ivf"]
ENDING = ".faiss"
NEIGHBORS = 32  # links of a row in HNSW
PER_LIST = 64  # rows that each list of IVF is trained on; faiss asks for 39


class OfIndex(TypedDict):
    """What stands beside an index: the file of features, from its folder on, and what tells those from others."""

    features: str
    made_of: str


def faiss() -> Any:
    """Returns the library; UserError where it is not installed."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise UserError("an approximate index needs faiss: pip install 'mmssl[retrieval]'") from None
    return faiss


def build_index(features: Path, table: Table, out: Path, *, kind: Kind = "hnsw", lists: int | None = None) -> None:
    """Builds an index of cosines over a table and writes it to `out`, which ends in .faiss.

    kind: "hnsw", a graph of neighbours, needs no training and finds more (Malkov and Yashunin, TPAMI 2020); "ivf",
        lists around centres of k-means, is built faster (Jegou et al., TPAMI 2011).
    lists: of ivf, by default 4 times the square root of the rows.
    """
    library, (count, dim) = faiss(), table.features.shape
    if out.suffix != ENDING:
        raise UserError(f"{out} is no file of an index by its name; end it in {ENDING}")
    if kind == "hnsw":
        index = library.IndexHNSWFlat(dim, NEIGHBORS, library.METRIC_INNER_PRODUCT)
    else:
        lists = max(1, min(count, round(4 * count**0.5))) if lists is None else lists
        if not 0 < lists <= count:
            raise UserError(f"{lists} lists for {count} rows; expected 1 to {count}")
        index = library.IndexIVFFlat(library.IndexFlatIP(dim), dim, lists, library.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1
        drawn = np.random.default_rng(0).permutation(count)[: lists * PER_LIST]
        picked = torch.tensor(np.asarray(table.features[np.sort(drawn)]))
        index.train(torch.nn.functional.normalize(picked, dim=1).numpy())
    for start in range(0, count, BLOCK):
        index.add(table.rows(start, start + BLOCK).numpy())
    with replacing(out) as temporary:
        library.write_index(index, str(temporary))
    about = OfIndex(features=os.path.relpath(features, out.parent), made_of=_identity(features, table))
    write_json(beside(out, "json"), about)


def features_of(index: Path) -> Path:
    """Returns the file of features that an index was built over."""
    about: OfIndex = fit(read_json(beside(index, "json")), OfIndex, str(index))
    return index.parent / about["features"]


def search_index(index: Path, table: Table, query: np.ndarray, k: int, *, effort: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines and rows (M, k) of the nearest rows to queries (M, D) of length 1; fewer than k end in row -1.

    effort: how many candidates hnsw follows, and how many lists ivf reads. UserError for an index of other features.
    """
    library = faiss()
    about: OfIndex = fit(read_json(beside(index, "json")), OfIndex, str(index))
    if about["made_of"] != _identity(features_of(index), table):
        raise UserError(f"{features_of(index)} has changed since {index} was built; build it again by `mmssl index`")
    try:
        found = library.read_index(str(index))
    except RuntimeError as error:
        raise UserError(f"{index} cannot be read by faiss: {str(error)[:200]}; build it again") from None
    if (found.ntotal, found.d) != table.features.shape:
        raise UserError(f"{index} is of {found.ntotal} rows of {found.d}; build it again by `mmssl index`")
    hnsw = hasattr(found, "hnsw")
    options = (
        library.SearchParametersHNSW(efSearch=max(effort, k)) if hnsw else library.SearchParametersIVF(nprobe=effort)
    )
    similar, rows = found.search(np.ascontiguousarray(query, np.float32), k, params=options)
    return similar, rows


def _identity(features: Path, table: Table) -> str:
    """Returns what tells features from others: how they were made, or of any file its size and time."""
    status = features.stat()
    return table.about.get("digest") or f"{status.st_size} {status.st_mtime_ns}"
