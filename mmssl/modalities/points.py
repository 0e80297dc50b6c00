"""Point clouds: PLY, PCD, NPZ and NPY with coordinates, colour and normals, in plain numpy."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import arrays, read_file
from mmssl.modalities.point_files import read_pcd, read_ply, write_pcd, write_ply

EXTENSIONS = ("ply", "pcd", "npz", "npy")

Columns = dict[str, np.ndarray]  # property -> (N,)
FAR = 16384.0  # m, from where on float32 steps by more than a millimetre
NAMES = {  # the names in use for the three columns of colour and of normals
    "color": ("red green blue", "r g b", "diffuse_red diffuse_green diffuse_blue"),
    "normal": ("nx ny nz", "normal_x normal_y normal_z"),
}


@dataclass(slots=True)
class Cloud:
    """Points: xyz (N, 3) in metres, color uint8 or float32 in [0, 1] (N, 3), normal float32 (N, 3).

    xyz: float32, or float64 where a coordinate is FAR or more from the origin (UTM).
    color: other numbers than those are 8-bit up to 255, or else 16-bit (LAS), whose high byte is kept.
    dropped: how many points were left out since their coordinates, colour or normal are not finite, as depth
        cameras have them where nothing came back.
    kept: the numbers, among all that were given, of those that are left (N,), where some were left out.
    Raises DamagedError where no point is left, and for shapes and colours that cannot be.
    """

    xyz: np.ndarray
    color: np.ndarray | None = None
    normal: np.ndarray | None = None
    dropped: int = field(default=0, kw_only=True)
    kept: np.ndarray | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        parts = {"coordinates": self.xyz, "colours": self.color, "normals": self.normal}
        given = {name: np.asarray(part) for name, part in parts.items() if part is not None}
        for name, part in given.items():
            if part.dtype.kind not in "iuf" or part.shape != (len(self.xyz), 3):
                expected = f"expected numbers ({len(self.xyz)}, 3)"
                raise DamagedError(f"{name} of a wrong shape", f"{expected}, found {part.dtype} {part.shape}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is no place
            finite = [np.isfinite(part.astype(np.float32, copy=False)) for part in given.values()]
        if not all(part.all() for part in finite):
            there = np.all(np.concatenate(finite, axis=1), axis=1)
            self.kept = np.flatnonzero(there)
            self.dropped += len(there) - len(self.kept)
            given = {name: part[self.kept] for name, part in given.items()}
        if not len(given["coordinates"]):
            raise DamagedError("a cloud without points", f"{self.dropped} are not finite" if self.dropped else "")
        self.xyz = _precise(given["coordinates"])
        self.color = _unit(given["colours"]) if "colours" in given else None
        self.normal = np.ascontiguousarray(given["normals"], np.float32) if "normals" in given else None

    def __len__(self) -> int:
        return len(self.xyz)

    def pick(self, index: np.ndarray) -> Cloud:
        """Returns the points at an index or under a mask."""
        color, normal = (part if part is None else part[index] for part in (self.color, self.normal))
        return replace(self, xyz=self.xyz[index], color=color, normal=normal)


def _precise(xyz: np.ndarray) -> np.ndarray:
    near = xyz.min() > -FAR and xyz.max() < FAR
    return np.ascontiguousarray(xyz, dtype=np.float32 if near else np.float64)


def decode(data: bytes, extension: str) -> Cloud:
    """Reads a cloud by its extension; raises DamagedError if it is damaged or no point of it is finite.

    Also for more values than the limits cloud_values and cloud_columns, or array_bytes, as its header claims them.
    """
    if extension not in EXTENSIONS:
        raise UserError(f"no reader for points in {extension!r}; known: {', '.join(EXTENSIONS)}")
    try:
        if extension == "ply":
            return _from_columns(read_ply(data))
        if extension == "pcd":
            return _from_columns(read_pcd(data))
        loaded = arrays.read(data)
        return _from_rows(loaded) if isinstance(loaded, np.ndarray) else _from_names(loaded)
    except UserError:
        raise
    except Exception as error:  # headers lie in many ways: ValueError, IndexError, MemoryError, BadZipFile, ...
        raise DamagedError("damaged point cloud", " ".join(str(error).split())) from None


def load(raw: Any) -> Cloud:
    """Takes a Cloud, a path, or an array or tensor (N, 3 | 6 | 9) of xyz, colour, normal."""
    if isinstance(raw, Cloud):
        return raw
    if isinstance(raw, str | Path):
        return decode(read_file(raw), Path(raw).suffix.lower().lstrip("."))
    if isinstance(raw, torch.Tensor):
        raw = raw.detach().cpu()
        raw = (raw.float() if raw.dtype == torch.bfloat16 else raw).numpy()
    if isinstance(raw, np.ndarray):
        return _from_rows(raw)
    raise UserError(f"expected a point cloud (path, Cloud, array or tensor), found {type(raw).__name__}")


def _from_rows(rows: np.ndarray) -> Cloud:
    if rows.ndim != 2 or rows.shape[1] not in (3, 6, 9):
        raise DamagedError("points of a wrong shape", f"expected (N, 3), (N, 6) or (N, 9), found {rows.shape}")
    return Cloud(*np.split(rows, rows.shape[1] // 3, axis=1))


def _from_names(given: Columns) -> Cloud:
    """Reads the arrays of an npz under the names in use."""
    known = {"xyz": ("xyz", "points", "pos"), "color": ("color", "colors", "rgb"), "normal": ("normal", "normals")}
    found = {part: next((given[n] for n in names if n in given), None) for part, names in known.items()}
    if found["xyz"] is None:
        raise DamagedError("points without coordinates", f"expected an array named xyz, found {', '.join(given):.200}")
    return Cloud(found["xyz"], found["color"], found["normal"])


def _from_columns(columns: Columns) -> Cloud:
    columns = {name.lower(): column for name, column in columns.items()}
    if not {"x", "y", "z"} <= set(columns):
        raise DamagedError("points without coordinates", f"expected x, y, z, found {', '.join(columns):.200}")
    return Cloud(np.stack([columns[c] for c in "xyz"], 1), _together(columns, "color"), _together(columns, "normal"))


def _together(columns: Columns, part: str) -> np.ndarray | None:
    for names in NAMES[part]:
        if set(names.split()) <= set(columns):
            return np.stack([columns[name] for name in names.split()], 1)
    return None


def _unit(color: np.ndarray) -> np.ndarray:
    """Returns colours as uint8, or float32 in [0, 1]: the rule of Cloud."""
    if color.dtype == np.uint8:
        return np.ascontiguousarray(color)
    low, top = color.min(), color.max()
    if not 0 <= low <= top <= 65535:
        raise DamagedError("colours out of range", f"expected 0 to 1, 255 or 65535, found {low:g} to {top:g}")
    if color.dtype.kind == "f" and top <= 1:
        return np.ascontiguousarray(color, dtype=np.float32)
    return np.ascontiguousarray(color // 256 if top > 255 else color.round(), dtype=np.uint8)


def encode(cloud: Any, *, format: str = "ply") -> bytes:
    """Writes anything that `load` takes as binary PLY, binary PCD, compressed NPZ, or NPY (N, 3 | 6 | 9).

    Coordinates keep their precision: double where the cloud has them in float64.
    """
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
