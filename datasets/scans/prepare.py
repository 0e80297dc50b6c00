"""Makes shards of pairs of scans from posed RGB-D frames: prepare.py OUT --source TAR_OR_FOLDER."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mmssl.data.user_files import read_files
from mmssl.data.writer import build_from
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import image, points
from mmssl.transforms.pairs import move, near_pairs, overlap, rigid
from mmssl.transforms.points import grid_index

Array = NDArray[np.floating]
Files = dict[str, bytes]  # path within the source -> bytes
NOTHING = (0, 65535)  # depths that say that nothing was measured
STRIDE = 2  # every second pixel across and down is still finer than the voxels
NEAR = 1.5  # voxels
NORMAL, NEIGHBOURS = 4, 31  # voxels, and the point itself with 30 others


@dataclass
class Scan:
    """One frame: its name, its cloud in the camera's frame, and the camera-to-world matrix (4, 4), z up."""

    name: str
    cloud: points.Cloud
    pose: Array

    @property
    def place(self) -> Array:
        """Its points in the world (N, 3)."""
        return move(self.cloud, self.pose).xyz


@dataclass
class Pair:
    """Two frames of a sequence, and how much of either the other sees."""

    sequence: str
    a: Scan
    b: Scan
    overlap: float


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/test; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        if not 0 < options.held_out < 1:
            raise UserError(f"--held-out {options.held_out:g}: expected a share between 0 and 1")
        splits, skipped = pairs_of(
            read_files(options.source, expected="frame-*.depth.png and frame-*.pose.txt"), options
        )
        for split, found in splits.items():
            if not found:
                raise UserError(
                    f"no two {split} frames overlap by {options.overlap:.0%}; give more frames, or lower it"
                )
            about = f"scans {split}: {len(found)} pairs, {options.voxel:g} m, seed {options.seed}"
            build_from(Samples(found), len(found), Path(options.out) / split, workers=1, description=about)
    except UserError as error:
        print(f"scans: {error}", file=sys.stderr)
        return 2
    for reason, count in skipped.items():
        print(f"scans: {reason}: {count} frames skipped")
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes shards of pairs of scans from posed RGB-D frames.")
    add = command.add_argument
    add("out", metavar="OUT", help="folder for the splits train and test")
    add("--source", required=True, metavar="PATH", help="tar or folder with frame-*.depth.png, .pose.txt, .color.jpg")
    add("--intrinsics", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"), help="where no file says them, pixels")
    up = "direction in the poses' world that is up; there it becomes z (default 0 0 1, as ScanNet has it)"
    add("--up", type=float, nargs=3, default=(0.0, 0.0, 1.0), metavar=("X", "Y", "Z"), help=up)
    add("--voxel", type=float, default=0.025, metavar="M", help="one point is kept of each voxel (default 0.025 m)")
    add("--overlap", type=float, default=0.3, metavar="SHARE", help="that either cloud must reach (default 0.3)")
    add("--every", type=int, default=2, metavar="N", help="take every n-th frame (default 2)")
    add(
        "--held-out",
        type=float,
        default=0.27,
        metavar="SHARE",
        help="a sequence's last frames, for test (default 0.27)",
    )
    add("--gap", type=int, default=10, metavar="N", help="frames between train and test, used by neither (default 10)")
    add(
        "--pairs",
        type=int,
        default=300,
        metavar="N",
        help="of a sequence's split at most, drawn at random (default 300)",
    )
    add("--color", action="store_true", help="keep colour, of images that are registered with the depth")
    add("--normals", action="store_true", help="keep the normal of the surface at each point, towards the camera")
    add("--seed", type=int, default=0, metavar="S", help="draws the pairs (default 0)")
    return command


def pairs_of(files: Files, options: argparse.Namespace) -> tuple[dict[str, list[Pair]], Counter[str]]:
    """Returns split -> pairs, and for which reasons how many frames were skipped."""
    frames: dict[str, list[str]] = defaultdict(list)
    for name in sorted(files):
        if name.endswith(".depth.png"):
            frames[str(PurePosixPath(name).parent)].append(name.removesuffix(".depth.png"))
    if not frames:
        raise UserError("the source has no frame-*.depth.png; expected the layout of 7-Scenes or ScanNet's reader")
    level = upright(np.array(options.up))
    splits: dict[str, list[Pair]] = {"train": [], "test": []}
    skipped: Counter[str] = Counter()
    for sequence, names in frames.items():
        matrix = intrinsics(files, sequence, options.intrinsics)
        held_out = round(len(names) * options.held_out)
        parts = names[: max(0, len(names) - held_out - options.gap)], names[len(names) - held_out :]
        for split, part in zip(splits, parts, strict=True):
            scans = []
            for name in part[:: options.every]:
                try:
                    found = scan(files, name, matrix, options)
                    scans.append(replace(found, pose=level @ found.pose))
                except DamagedError as error:
                    skipped[error.reason] += 1
            splits[split] += overlapping(scans, sequence, options)
    return splits, skipped


def upright(up: Array) -> Array:
    """Returns the turn (4, 4) after which z points up."""
    if np.linalg.norm(up) < 1e-6:
        raise UserError("--up 0 0 0 is no direction; expected one such as 0 -1 0")
    z = up / np.linalg.norm(up)
    x = np.cross(np.eye(3)[np.abs(z).argmin()], z)
    x /= np.linalg.norm(x)
    turn = np.eye(4)
    turn[:3, :3] = x, np.cross(z, x), z
    return turn


def intrinsics(files: Files, sequence: str, given: list[float] | None) -> Array:
    """Returns the camera's matrix (3, 3): as given, or from the file in the sequence's folder or above."""
    if given:
        return np.array([[given[0], 0, given[2]], [0, given[1], given[3]], [0, 0, 1]])
    for folder in (PurePosixPath(sequence), *PurePosixPath(sequence).parents):
        if (name := (folder / "camera-intrinsics.txt").as_posix()) in files:
            matrix = numbers(files[name])
            if matrix.shape not in ((3, 3), (4, 4)) or not np.isfinite(matrix).all():
                raise UserError(f"{name} is {matrix.shape}; expected three lines of three numbers")
            return matrix[:3, :3]
    raise UserError(f"the sequence {sequence!r} has no camera-intrinsics.txt; give --intrinsics FX FY CX CY")


def numbers(data: bytes) -> Array:
    """Reads lines of numbers; what is no number is NaN."""
    rows = [line.split() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError:
        return np.full((1, 1), np.nan)


def scan(files: Files, name: str, matrix: Array, options: argparse.Namespace) -> Scan:
    """Back-projects a frame; DamagedError for one whose pose or depth cannot be used."""
    if f"{name}.pose.txt" not in files:
        raise DamagedError("a frame without a pose", name)
    pose = rigid(numbers(files[f"{name}.pose.txt"]))
    depth = image.values(image.decode(files[f"{name}.depth.png"]))
    if depth.ndim != 2:
        raise DamagedError("depth that is not one channel", name)
    rows, columns = np.mgrid[0 : depth.shape[0] : STRIDE, 0 : depth.shape[1] : STRIDE]
    seen = ~np.isin(depth[rows, columns], NOTHING)
    rows, columns = rows[seen], columns[seen]
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=1)
    xyz = (pixels @ np.linalg.inv(matrix).T) * (depth[rows, columns, None] / 1000)
    cloud = points.Cloud(xyz, colors(files, name, depth.shape)[rows, columns] if options.color else None)
    cloud = cloud.pick(grid_index(cloud, options.voxel))
    if options.normals:
        cloud = replace(cloud, normal=normals(cloud.xyz, radius=NORMAL * options.voxel))
    return Scan(PurePosixPath(name).name, cloud, pose)


def normals(xyz: Array, *, radius: float) -> Array:
    """Returns the unit normal (N, 3) of the plane through each point's nearest within the radius, facing the origin."""
    distance, near = cKDTree(xyz).query(xyz, k=NEIGHBOURS, distance_upper_bound=radius)
    there = np.isfinite(distance)[:, :, None]
    around = np.where(there, xyz[np.where(there[:, :, 0], near, 0)] - xyz[:, None], 0)
    around -= np.where(there, around.sum(1, keepdims=True) / there.sum(1, keepdims=True), 0)
    normal = np.linalg.eigh(around.transpose(0, 2, 1) @ around)[1][:, :, 0]
    return normal * np.where((normal * xyz).sum(1, keepdims=True) > 0, -1, 1)


def colors(files: Files, name: str, shape: tuple[int, ...]) -> Array:
    """Returns a frame's colours at the depth's resolution (H, W, 3)."""
    for extension in ("jpg", "png"):
        if (data := files.get(f"{name}.color.{extension}")) is not None:
            return np.asarray(image.pixels(image.decode(data)).resize((shape[1], shape[0])))
    raise DamagedError("a frame without colour", name)


def overlapping(scans: list[Scan], sequence: str, options: argparse.Namespace) -> list[Pair]:
    """Returns the pairs that overlap, in random order until there are as many as wanted."""
    candidates = list(combinations(scans, 2))
    random.Random(options.seed).shuffle(candidates)
    found = []
    for a, b in candidates:
        share = overlap(near_pairs(a.place, b.place, NEAR * options.voxel), len(a.cloud), len(b.cloud))
        if share >= options.overlap:
            found.append(Pair(sequence, a, b, share))
        if len(found) == options.pairs:
            break
    return found


@dataclass
class Samples:
    """Makes the sample of a number: both clouds, their poses and their overlap."""

    pairs: list[Pair] = field(repr=False)

    def __call__(self, number: int) -> dict[str, bytes]:
        pair = self.pairs[number]
        scans = {"points_a": pair.a, "points_b": pair.b}
        poses = {role: {"frame": s.name, "camera_to_world": s.pose.tolist()} for role, s in scans.items()}
        meta = {**poses, "overlap": round(pair.overlap, 3), "sequence": pair.sequence}
        clouds = {f"{role}.ply": points.encode(s.cloud) for role, s in scans.items()}
        return {**clouds, "json": json.dumps(meta).encode()}


if __name__ == "__main__":
    sys.exit(main())
