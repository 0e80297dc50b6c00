"""How the fields of a shard become the keys of a sample: `jpg` is the image, `mask.png` the mask."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from mmssl import modalities
from mmssl.errors import DamagedError, LackingError, UserError
from mmssl.modalities import text
from mmssl.types import Sample

Raw = dict[str, bytes]  # field -> encoded bytes; `__key__` is held apart
Renamed = Mapping[
    str, str | list[str]
]  # sample key -> the field that fills it, or several, of which the first there is
KEYS = {**modalities.EXTENSIONS, "json": "meta", "cls": "label"}  # extension -> key
ORDER = {extension: place for place, extension in enumerate(KEYS)}


def key_of(field: str) -> str | None:
    """Returns the sample key that a field fills: its role if it has one, else its modality; None if unknown."""
    role, _, extension = field.rpartition(".")
    kind = KEYS.get(extension)
    return (role or kind) if kind else None


def _key_of(field: str, key: str) -> str | None:
    """Returns the key that a field fills when `key` is looked for, also of a modality that mmssl does not know."""
    role, _, extension = field.rpartition(".")
    return (role or extension) if _is_own(key, extension) else key_of(field)


def _is_own(key: str, extension: str) -> bool:
    """Tells whether a file is in a format of a user's own modality, which its extension names: `imu`."""
    return extension not in KEYS and extension == key.partition("_")[0]


def split_path(place: str) -> tuple[str, tuple[str, ...]]:
    """Splits a field from a path into its JSON: `json.caption` is ("json", ("caption",))."""
    parts = place.split(".")
    end = parts.index("json") + 1 if "json" in parts else len(parts)
    return ".".join(parts[:end]), tuple(parts[end:])


def find(key: str, fields: Collection[str], renamed: Renamed) -> str | None:
    """Returns which of a sample's fields fills a key, or None; a video's sound track fills a missing `audio`."""
    return next((field for field, _ in candidates(key, fields, renamed)), None)


def candidates(key: str, fields: Collection[str], renamed: Renamed) -> list[tuple[str, tuple[str, ...]]]:
    """Returns which of a sample's fields may fill a key, each with a path into its JSON; the first that has it does.

    Behind a field without such a path there is none.
    """
    if key in renamed:
        asked = renamed[key]
        there = [split_path(place) for place in ([asked] if isinstance(asked, str) else asked)]
        there = [(field, path) for field, path in there if field in fields]
        whole = next((number for number, (_, path) in enumerate(there, 1) if not path), len(there))
        return there[:whole]
    named = min((field for field in fields if _key_of(field, key) == key), key=_preference, default=None)
    if named is None and key == "audio":
        return candidates("video", fields, renamed)
    return [] if named is None else [(named, ())]


def _preference(field: str) -> tuple[int, str]:
    """Orders the fields that fill one key, as EXTENSIONS does: a jpg before its gif."""
    return ORDER.get(field.rpartition(".")[2], len(ORDER)), field


def fills(key: str, raw: Raw, renamed: Renamed) -> bool:
    """Tells whether a sample has what fills a key, down to the path into its JSON."""
    found = candidates(key, raw, renamed)
    if not found or not found[-1][1]:
        return bool(found)
    with suppress(DamagedError):
        return decode(key, raw, renamed) is not None
    return False


def serves(key: str, place: str, raw: Raw) -> bool:
    """Tells whether a place of a sample, as `fields` would name it, is of a kind that a key can be."""
    field, kind = split_path(place)[0], key.partition("_")[0]
    extension = field.rpartition(".")[2]
    if extension == "json":
        with suppress(DamagedError):
            return decode(key, raw, {key: place}) is not None
        return False
    found = KEYS.get(extension, extension)
    if kind in (*modalities.MODALITIES, "label", "meta"):
        return found == kind or (kind, found) in (("audio", "video"), ("image", "video"), ("label", "text"))
    return found == kind or found not in ("label", "text")


def places(raw: Raw) -> set[str]:
    """Returns everything that `fields` may point at in a sample: its fields, and the keys inside its JSON."""
    found = set(raw)
    for field in raw:
        if field.rpartition(".")[2] == "json":
            with suppress(DamagedError):
                value = modalities.decode(field, raw[field])
                found |= {f"{field}.{name}" for name in value} if isinstance(value, dict) else set()
    return found


def decode(key: str, raw: Raw, renamed: Renamed) -> Any:
    """Opens what fills a key, or returns None if the sample lacks it; raises DamagedError if it cannot be opened.

    `imu`, or `imu_left.imu`, is in a format that only its modality's preprocessing can open: its bytes.
    """
    every = (_decode(key, raw, field, path) for field, path in candidates(key, raw, renamed))
    return next((value for value in every if value is not None), None)


def _decode(key: str, raw: Raw, field: str, path: tuple[str, ...]) -> Any:
    extension = field.rpartition(".")[2]
    if _is_own(key, extension):
        return raw[field]
    if key == "audio" and KEYS.get(extension) == "video":
        sound = importlib.import_module("mmssl.modalities.audio").decode(raw[field], extension)
        return sound if sound.is_there else None
    value = _follow(modalities.decode(field, raw[field]), path)
    return _of_kind(key, value) if extension == "json" else value


def _follow(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(value, dict) or value.get(name) is None:
            return None
        value = value[name]
    return value


def _of_kind(key: str, value: Any) -> Any:
    """Returns what JSON holds for a key, null and NaN as None; raises DamagedError for what the key cannot be."""
    kind = key.partition("_")[0]
    if value is None or value != value:
        return None
    if kind == "text":
        try:
            return text.load(value)
        except DamagedError:
            raise
        except UserError:
            raise DamagedError("a caption that is neither text nor a list of texts", f"{value!r:.60}") from None
    if kind == "label" and not isinstance(value, str):
        whole = isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (whole or isinstance(value, int)) or not -(2**63) <= value < 2**63:
            raise DamagedError("a label that is neither a name nor a whole number", f"{value!r:.60}")
        return int(value)
    if kind in modalities.MODALITIES:
        raise DamagedError(f"JSON that is no {kind}", f"{value!r:.60}")
    return value


def decode_all(wanted: Collection[str], raw: Raw, renamed: Renamed) -> Sample:
    """Opens the wanted keys of a sample; raises LackingError if it has none of them."""
    opened = {key: decode(key, raw, renamed) for key in sorted(wanted)}
    sample = {key: value for key, value in opened.items() if value is not None}
    if not sample and wanted:
        raise LackingError(f"a sample without {' or '.join(sorted(wanted))}")
    return sample
