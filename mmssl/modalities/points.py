"""Point clouds: PLY, PCD, NPZ and NPY with coordinates, colour and normals, in plain numpy."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import read_file
from mmssl.modalities.point_files import read_pcd, read_ply, write_pcd, write_ply

EXTENSIONS = ("ply", "pcd", "npz", "npy")

Columns = dict[str, np.ndarray]  # property -> (N,)


@dataclass(slots=True)
class Cloud:
    """Points: xyz float32 (N, 3) in metres, color uint8 or float in [0, 1] (N, 3), normal float32 (N, 3)."""

    xyz: np.ndarray
    color: np.ndarray | None = None
    normal: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.xyz = np.ascontiguousarray(self.xyz, dtype=np.float32)
        if self.normal is not None:
            self.normal = np.ascontiguousarray(self.normal, dtype=np.float32)
        if self.color is not None and self.color.dtype != np.uint8:
            self.color = np.ascontiguousarray(self.color, dtype=np.float32)
        for name, part in (("coordinates", self.xyz), ("colours", self.color), ("normals", self.normal)):
            if part is not None and (part.shape != (len(self.xyz), 3)):
                raise DamagedError(f"{name} of a wrong shape", f"expected ({len(self.xyz)}, 3), found {part.shape}")
        if not len(self.xyz):
            raise DamagedError("a cloud without points")
        if not np.isfinite(self.xyz).all():
            raise DamagedError("coordinates that are not finite")

    def __len__(self) -> int:
        return len(self.xyz)

    def pick(self, index: np.ndarray) -> Cloud:
        """Returns the points at an index or under a mask."""
        color, normal = (part if part is None else part[index] for part in (self.color, self.normal))
        return Cloud(self.xyz[index], color, normal)


def decode(data: bytes, extension: str) -> Cloud:
    """Reads a cloud by its extension; raises DamagedError if it is empty, damaged or not finite."""
    if extension not in EXTENSIONS:
        raise UserError(f"no reader for points in {extension!r}; known: {', '.join(EXTENSIONS)}")
    try:
        if extension == "ply":
            return _from_columns(read_ply(data))
        if extension == "pcd":
            return _from_columns(read_pcd(data))
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        return _from_rows(loaded) if isinstance(loaded, np.ndarray) else _from_names(dict(loaded))
    except UserError:
        raise
    except Exception as error:  # headers lie in many ways: ValueError, IndexError, MemoryError, BadZipFile, ...
        raise DamagedError("damaged point cloud", str(error)) from None


def load(raw: Any) -> Cloud:
    """Takes a Cloud, a path, or an array or tensor (N, 3 | 6 | 9) of xyz, colour, normal."""
    if isinstance(raw, Cloud):
        return raw
    if isinstance(raw, str | Path):
        return decode(read_file(raw), Path(raw).suffix.lower().lstrip("."))
    if isinstance(raw, torch.Tensor):
        raw = raw.detach().cpu().numpy()
    if isinstance(raw, np.ndarray):
        return _from_rows(raw)
    raise UserError(f"expected a point cloud (path, Cloud, array or tensor), found {type(raw).__name__}")


def _from_rows(rows: np.ndarray) -> Cloud:
    if rows.ndim != 2 or rows.shape[1] not in (3, 6, 9):
        raise DamagedError("points of a wrong shape", f"expected (N, 3), (N, 6) or (N, 9), found {rows.shape}")
    parts = np.split(rows, rows.shape[1] // 3, axis=1)
    if len(parts) > 1:
        parts[1] = _unit(parts[1])
    return Cloud(*parts)


def _from_names(arrays: Columns) -> Cloud:
    """Reads the arrays of an npz under the names in use."""
    known = {"xyz": ("xyz", "points", "pos"), "color": ("color", "colors", "rgb"), "normal": ("normal", "normals")}
    found = {part: next((arrays[n] for n in names if n in arrays), None) for part, names in known.items()}
    if found["xyz"] is None:
        raise DamagedError("points without coordinates", f"expected an array named xyz, found {', '.join(arrays)}")
    color = found["color"]
    return Cloud(found["xyz"], None if color is None else _unit(color), found["normal"])


def _from_columns(columns: Columns) -> Cloud:
    if not {"x", "y", "z"} <= set(columns):
        raise DamagedError("points without coordinates", f"expected x, y, z, found {', '.join(columns)}")
    color, normal = _together(columns, "red green blue"), _together(columns, "nx ny nz")
    return Cloud(np.stack([columns[c] for c in "xyz"], 1), None if color is None else _unit(color), normal)


def _together(columns: Columns, names: str) -> np.ndarray | None:
    wanted = names.split()
    return np.stack([columns[name] for name in wanted], 1) if set(wanted) <= set(columns) else None


def _unit(color: np.ndarray) -> np.ndarray:
    """Returns colours as uint8, or float in [0, 1]; wider integers and floats up to 255 are scaled down."""
    if color.dtype == np.uint8:
        return color
    if not np.isfinite(color).all() or color.min(initial=0) < 0:
        raise DamagedError("colours out of range")
    top = color.max(initial=0)
    if np.issubdtype(color.dtype, np.integer) or top > 1:
        if top > 255:
            raise DamagedError("colours out of range")
        return color.round().astype(np.uint8)
    return color


def encode(cloud: Any, *, format: str = "ply") -> bytes:
    """Writes anything that `load` takes as binary PLY, binary PCD, compressed NPZ, or NPY (N, 3 | 6 | 9)."""
    cloud = load(cloud)
    if format == "ply":
        return write_ply(cloud.xyz, cloud.color, cloud.normal)
    if format == "pcd":
        return write_pcd(cloud.xyz, cloud.color, cloud.normal)
    parts = {"xyz": cloud.xyz, "color": cloud.color, "normal": cloud.normal}
    stream = io.BytesIO()
    if format == "npz":
        np.savez_compressed(stream, **{name: part for name, part in parts.items() if part is not None})
    elif format == "npy":
        np.save(stream, _rows(cloud), allow_pickle=False)
    else:
        raise UserError(f"cannot write points as {format!r}; known: {', '.join(EXTENSIONS)}")
    return stream.getvalue()


def _rows(cloud: Cloud) -> np.ndarray:
    if cloud.normal is not None and cloud.color is None:
        raise UserError("npy holds xyz, colour, normal in this order; a cloud with normals alone needs npz or ply")
    return np.concatenate([p for p in (cloud.xyz, as_float(cloud.color), cloud.normal) if p is not None], axis=1)


def as_float(color: np.ndarray | None) -> np.ndarray | None:
    """Returns colours as float32 in [0, 1]."""
    return color.astype(np.float32) / 255 if color is not None and color.dtype == np.uint8 else color
