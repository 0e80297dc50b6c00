"""What is opened is bounded: the limits of an image, a sound, a shard, a config, told in this one place.

They hold for everything that is read, for a file says nothing about who made it. One option raises them:
`--limits NAME=VALUE,...` on the command line, which is the environment variable MMSSL_LIMITS, so that data workers and
the processes of torchrun have it too. No recipe can raise them. docs/trust.md says where each is checked.
"""

from __future__ import annotations

import os
from functools import lru_cache

from mmssl.errors import DamagedError, UserError, did_you_mean

VARIABLE = "MMSSL_LIMITS"
LIMITS = {
    # one sample
    "picture_pixels": 1e8,  # of one image as it is decoded
    "picture_side": 2**16,  # of either side of an image, in pixels, as decoded or as scaled
    "clip_pixels": 2**28,  # of all frames of a clip that are held at once
    "sound_seconds": 2 * 3600,  # of sound that is held at once, silence between time stamps included
    "track_seconds": 48 * 3600,  # that a video or sound lasts by its time stamps
    "cloud_values": 2**27,  # of a point cloud: points x columns, as the header claims them
    "cloud_columns": 2**14,  # of a point cloud
    "array_bytes": 2**30,  # of an npy or all arrays of an npz, unpacked
    "member_bytes": 2**30,  # of one file of a shard, or of a file that becomes one
    "sample_bytes": 2**31,  # of all files of one sample of a shard, headers included
    "sample_json_bytes": 2**25,  # of the json of a sample
    "sample_seconds": 120,  # that a data worker, or an evaluation, takes over one sample
    # sets of shards
    "shard_bytes": 2**36,  # of one compressed shard, unpacked
    "shard_samples": 1e7,  # that index.json promises of one shard
    "lost_samples": 1e6,  # that index.json promises of a set and its shards lack; they are counted one by one
    "shard_names": 2**30,  # of the names of one shard's samples, which are held to tell those that are torn apart
    "held_bytes": 2**35,  # of the opened images that a set with in_memory keeps
    "shards": 1e6,  # that patterns with braces and globs stand for
    "manifest_cells": 1e8,  # of a Parquet manifest
    # documents: index.json, config.json, recipe.yaml, ...
    "json_bytes": 2**27,
    "yaml_bytes": 2**19,  # a second of parsing for every 32 KiB
    "yaml_values": 1e5,  # those that an alias repeats included
    "list_bytes": 2**24,  # of a file of classes or of prompts
    "prompts": 2**22,  # that the classes of a classifier make in its templates
    "document_depth": 64,  # of values within values
    # networks that a config names
    "network_option": 2**20,  # of a whole number among an encoder's or a head's options: width, depth, image size
    "network_values": 1e5,  # of all options of an encoder, names of classes included
    "network_slack": 2**28,  # bytes that building one may ask for besides what its weights on disk take
    "network_parts": 2000,  # tensors that it may ask for besides 20 for each on disk
    "network_codes": 2**25,  # numbers of position codes that a family of transformers lays out one by one
    "tokenizer_bytes": 2**26,  # of its text
    "tokenizer_memory": 2**32,
    "tokenizer_seconds": 60,  # that opening and trying a tokenizer takes
}


def limit(name: str) -> float:
    """Returns a limit by its name, as it is or as the option has it."""
    return _raised(os.environ.get(VARIABLE, "")).get(name, LIMITS[name])


def set_limits(text: str) -> None:
    """Sets limits for this process and those that it starts: `picture_pixels=3e8,sample_seconds=600`.

    Raises UserError for a name that is none, and for a value that is no positive number.
    """
    _raised(text)
    os.environ[VARIABLE] = text


@lru_cache(maxsize=8)
def _raised(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = pair.partition("=")
        if name not in LIMITS:
            raise UserError(f"there is no limit {name!r}; {did_you_mean(name, LIMITS)}")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = 0.0
        if not found[name] > 0:
            raise UserError(f"the limit {name} is {value!r}; expected a positive number, as in {name}=1e9")
    return found


def hint(name: str, found: float) -> str:
    """Returns what an error says of a limit that was exceeded, and how it is raised."""
    return f"the limit is {name}={limit(name):.10g}; if it is to be trusted, raise it with --limits {name}={found:.10g}"


def check(name: str, found: float, what: str, detail: str = "") -> None:
    """Raises DamagedError, `what` being its reason, where a sample holds more than the limit of that name."""
    if found > limit(name):
        raise DamagedError(what, ": ".join(filter(None, (detail, hint(name, found)))))


def refuse(name: str, found: float, what: str) -> None:
    """Raises UserError where something that a run rests on holds more than the limit of that name."""
    if found > limit(name):
        raise UserError(f"{what}; {hint(name, found)}")
