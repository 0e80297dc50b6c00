"""What tells one encode from another: the encoder's weights, the data, and how the one is shown the other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from mmssl.data.patterns import is_local
from mmssl.data.shards import Source
from mmssl.data.user_source import UserFiles
from mmssl.types import Encoder


def digest_of(model: str, source: Source, **how: Any) -> str:
    """Returns a digest of the encoder, by its own digest, the data and the options that change a feature."""
    sha = hashlib.sha256(model.encode())
    for line in _files_of(source):
        sha.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    sha.update(json.dumps([source.fields, how], sort_keys=True).encode())
    return sha.hexdigest()


def digest_of_encoder(encoder: Encoder) -> str:
    """Returns a digest of weights, heads, preprocessing and tokenizer: what makes the feature of an input."""
    sha = hashlib.sha256()
    tokenizer = getattr(encoder.preprocess, "tokenizer", None)
    known = [encoder.config(), encoder.preprocess.config(), encoder.preprocess.field]
    sha.update(json.dumps(known, sort_keys=True, default=repr).encode())
    if tokenizer is not None:
        sha.update(tokenizer.to_str().encode())
    for name, module in (("", encoder), *sorted(encoder.spaces.items())):
        for key, value in sorted(module.state_dict().items()):
            sha.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}\n".encode())
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()


def _files_of(source: Source) -> list[str]:
    """Returns a line for each file of the data, with its size and time; of what is not here its address."""
    if not isinstance(source, UserFiles):
        return [_file(shard, shard) for shard in source.shards]
    return [
        f"{source.name(row)} {sorted(row.texts.items())} {row.fault} "
        + " ".join(f"{field}={_file(Path(spot[0]).name, spot[0])}" for field, spot in row.files.items())
        for row in source.rows
    ]


def _file(name: str, path: str) -> str:
    try:
        status = Path(path).stat() if is_local(path) else None
    except (OSError, ValueError):
        return f"{name} absent"
    return f"{name} {status.st_size} {status.st_mtime_ns}" if status else name
