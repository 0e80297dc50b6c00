"""The index.json of a folder at an address: `https://host/folder/`."""

from __future__ import annotations

import contextlib
import json
from functools import lru_cache
from urllib.parse import quote

from mmssl.data.index import INDEX, Index, checked
from mmssl.errors import UserError
from mmssl.limits import limit, refuse


def is_folder(url: str) -> bool:
    """Tells whether an address, no command, ends as a folder does."""
    return url.endswith("/") and not url.startswith("pipe:")


@lru_cache(maxsize=64)
def remote_index(url: str) -> Index:
    """Returns the index of a folder's address; UserError where it cannot be fetched or is none of ours."""
    data, found = _fetched(url + INDEX), None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(data)
    index = checked(found, url + INDEX)
    if index is None:
        raise UserError(f"{url}{INDEX} is no index as `mmssl shards build` writes it; name the tars instead")
    return index


def _fetched(url: str) -> bytes:
    from webdataset.gopen import gopen

    most = int(limit("json_bytes"))
    data = b""
    with contextlib.suppress(OSError, ValueError):  # a command that failed, or has more than is wanted, says so
        stream = gopen(url)
        try:
            data = stream.read(most + 1)
        finally:
            stream.close()
    refuse("json_bytes", len(data), f"{url} has {len(data):,} bytes or more")
    if not data:
        raise UserError(f"{url} cannot be fetched; a folder needs it to tell its shards, else name the tars")
    return data


def shard_at(folder: str, name: str) -> str:
    """Returns the address of a shard that a folder's index names."""
    return folder + quote(name)
