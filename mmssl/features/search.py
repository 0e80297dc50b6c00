"""Finds the rows of a file of features that are nearest to a text, a picture, a film, a sound or a cloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl import modalities
from mmssl.data.user_files import is_file
from mmssl.errors import UserError, did_you_mean
from mmssl.features.ann import ENDING, features_of, search_index
from mmssl.features.digest import digest_of_encoder
from mmssl.features.files import Table, read_features
from mmssl.loading import open_encoders
from mmssl.numerics.neighbors import nearest
from mmssl.types import Encoder, reading

EFFORT = 64


@dataclass(slots=True)
class Hit:
    """A row that was found, and its cosine to the query."""

    row: int
    similarity: float


def search(
    index: str | Path,
    query: str | Path,
    *,
    k: int = 10,
    model: str | None = None,
    encoder: str | None = None,
    options: Mapping[str, Any] | None = None,
    effort: int = EFFORT,
    device: str = "cpu",
    trust_code: bool = False,
) -> tuple[Table, list[Hit]]:
    """Returns the features and the k rows of largest cosine to a query, the most similar first.

    index: a file of features, searched exactly, or an index of faiss over one (`mmssl index`).
    query: a text, or the path of a file.
    model: by default the run or folder that made the features. options: of a model made by name.
    encoder: the key of the model's encoder for the query, where several could read it.
    effort: of an index, how many candidates are looked at.

    Features of a space are searched by whatever has an encoder in it; others by what their own encoder reads.
    """
    if k < 1 or effort < 1:
        raise UserError(f"k is {k} and effort {effort}; expected at least 1")
    index = Path(index)
    approximate = index.suffix == ENDING
    path = features_of(index) if approximate else index
    table = read_features(path)
    encoders = open_encoders(_model(path, table, model), options or {}, device=device, trust_code=trust_code)
    _check_same(path, table, encoders)
    vector = embed_query(query, encoders, table, encoder)
    k = min(k, len(table.features))
    if approximate:
        similar, rows = search_index(index, table, vector.numpy(), k, effort=effort)
        found = zip(similar[0].tolist(), rows[0].tolist(), strict=True)
    else:
        values, places = nearest(torch.from_numpy(table.features), vector, k)
        found = zip(values[0].tolist(), places[0].tolist(), strict=True)
    return table, [Hit(row, value) for value, row in found if row >= 0]


def _model(path: Path, table: Table, asked: str | None) -> str:
    """Returns the model for queries: what a file says counts only where it is a folder, for names are fetched."""
    said = table.about.get("model", "")
    if asked or (said and Path(said).is_dir()):
        return asked or said
    made = f"was made by {said!r}, which is no folder here" if said else "does not say what it was made by"
    raise UserError(f"{path} {made}; say by which model the query is encoded: --model MODEL")


def _check_same(path: Path, table: Table, encoders: Mapping[str, Encoder]) -> None:
    """Raises UserError where the encoder that made the features has other weights by now."""
    key, weights = table.about.get("encoder"), table.about.get("weights")
    if key is not None and key in encoders and weights is not None and digest_of_encoder(encoders[key]) != weights:
        raise UserError(f"the encoder {key!r} is not the one that made {path}, or was trained since; encode again")


def embed_query(query: str | Path, encoders: Mapping[str, Encoder], table: Table, asked: str | None = None) -> Tensor:
    """Returns the query's embedding (1, D) of length 1, comparable with a table's rows; UserError where none is."""
    kind, raw = _opened(query)
    space, own = table.about.get("space"), table.about.get("encoder", table.about.get("modality"))
    fits = {
        key: e
        for key, e in encoders.items()
        if (space in e.spaces if space else own in (None, key) or len(encoders) == 1)
    }
    if asked is not None:
        if asked not in encoders:
            raise UserError(f"the model has no encoder {asked!r}; {did_you_mean(asked, encoders)}")
        fits = {asked: encoders[asked]}
    able = {key: e for key, e in fits.items() if e.modality == kind} or {
        key: e for key, e in fits.items() if kind == "video" and e.modality in ("image", "audio")
    }
    able = {key: e for key, e in able.items() if key == own} or able
    if not able:
        what = f"in the space {space!r}" if space else "pooled features"
        raise UserError(
            f"the query is of {kind}, and the rows are {what}, comparable with what these encoders make: "
            f"{reading(fits) or 'none of the model'}; `mmssl encode --space TASK` writes what a task compares"
        )
    if len(able) > 1:
        raise UserError(f"several encoders can read the query ({', '.join(able)}); say which by --encoder")
    (encoder,) = able.values()
    vector = encoder.encode([raw], space=space)
    if vector.shape[1] != table.features.shape[1]:
        raise UserError(f"the query has {vector.shape[1]} numbers and a row {table.features.shape[1]}; use their model")
    return torch.nn.functional.normalize(vector, dim=1)


def _opened(query: str | Path) -> tuple[str, Any]:
    """Returns a query's modality, and what its encoder takes: a file's path, else the text itself."""
    path = Path(query)
    kind = modalities.EXTENSIONS.get(path.suffix[1:].lower())
    if kind and is_file(path):
        return kind, path
    if isinstance(query, Path) or (kind and " " not in str(query)):
        raise UserError(f"there is no file {str(query)!r} that can be read; a query is a text, or the path of a file")
    return "text", str(query)
