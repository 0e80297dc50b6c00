"""Makes shards of pairs of scans from posed RGB-D frames: prepare.py OUT --source TAR_OR_FOLDER."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
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
from mmssl.transforms.pairs import angle, move, near_pairs, overlap, rigid
from mmssl.transforms.points import grid_index

Array = NDArray[np.floating]
Files = dict[str, bytes]  # path within the source -> bytes
NOTHING = (0, 65535)  # depths that say that nothing was measured
STRIDE = 2  # every second pixel across and down is still finer than the voxels
NEAR = 1.5  # voxels
NORMAL, NEIGHBOURS = 4, 31  # voxels, and the point itself with 30 others
# What is judged lies at both ends of a camera's path: its pairs are seen from further apart than any in training.
STRETCHES = ("test=0.1", "validation=0.06", "train=0.68", "validation=0.06", "test=0.1")
SPLITS = ("train", "validation", "test")


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
    """Two frames of a sequence, how much of either the other sees, and the turn from one camera to the other."""

    sequence: str
    a: Scan
    b: Scan
    overlap: float
    degrees: float

    @property
    def metres(self) -> float:
        """How far apart the cameras are."""
        return float(np.linalg.norm(self.a.pose[:3, 3] - self.b.pose[:3, 3]))


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train, OUT/validation and OUT/test; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        splits, skipped = pairs_of(
            read_files(options.source, expected="frame-*.depth.png and frame-*.pose.txt"), options
        )
        for split, found in splits.items():
            if not found:
                low, high, least, most = *options.overlap, *options.angle
                raise UserError(
                    f"no two {split} frames overlap by {low:.0%} to {high:.0%} at {least:g} to {most:g} degrees; give "
                    "more frames, or wider ranges"
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
    add("out", metavar="OUT", help="folder for the splits train, validation and test")
    add("--source", required=True, metavar="PATH", help="tar or folder with frame-*.depth.png, .pose.txt, .color.jpg")
    add("--intrinsics", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"), help="where no file says them, pixels")
    up = "direction in the poses' world that is up; there it becomes z (default 0 0 1, as ScanNet has it)"
    add("--up", type=float, nargs=3, default=(0.0, 0.0, 1.0), metavar=("X", "Y", "Z"), help=up)
    add("--voxel", type=float, default=0.025, metavar="M", help="one point is kept of each voxel (default 0.025 m)")
    span = {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")}
    add("--overlap", **span, default=(0.3, 1.0), help="share of either cloud near the other (default 0.3 1)")
    add("--angle", **span, default=(0.0, 180.0), help="degrees between the cameras of a pair (default 0 180)")
    add("--every", type=int, default=2, metavar="N", help="take every n-th frame (default 2)")
    stretches = "of each path, in order, as shares of its frames; pairs are of one split (default %(default)s)"
    add("--stretches", nargs="+", default=STRETCHES, metavar="SPLIT=SHARE", help=stretches)
    add("--gap", type=int, default=10, metavar="N", help="frames between stretches, used by none (default 10)")
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
    shares = stretches_of(options.stretches)
    splits: dict[str, list[Pair]] = {name: [] for name in SPLITS if name in dict(shares)}
    skipped: Counter[str] = Counter()
    for sequence, names in frames.items():
        matrix = intrinsics(files, sequence, options.intrinsics)
        parts = cut(names, shares, gap=options.gap)
        for split in splits:
            scans = []
            for name in (each for part in parts[split] for each in part[:: options.every]):
                try:
                    found = scan(files, name, matrix, options)
                    scans.append(replace(found, pose=level @ found.pose))
                except DamagedError as error:
                    skipped[error.reason] += 1
            splits[split] += overlapping(scans, sequence, options)
    return splits, skipped


def stretches_of(given: Sequence[str]) -> list[tuple[str, float]]:
    """Reads SPLIT=SHARE in order; UserError for another split, and for shares that are not of one whole."""
    found = []
    for text in given:
        name, _, share = text.partition("=")
        if name not in SPLITS or not share.replace(".", "", 1).isdecimal() or not float(share):
            raise UserError(f"--stretches {text}: expected train, validation or test, = and a share above 0: train=0.6")
        found.append((name, float(share)))
    if not 0.99 < sum(share for _, share in found) < 1.01:
        raise UserError(f"--stretches: the shares add up to {sum(share for _, share in found):g}; expected 1")
    return found


def cut(names: list[str], shares: list[tuple[str, float]], *, gap: int) -> dict[str, list[list[str]]]:
    """Returns split -> its stretches of a path's frames, which share what the gaps between stretches leave."""
    left = max(0, len(names) - gap * (len(shares) - 1))
    found: dict[str, list[list[str]]] = defaultdict(list)
    done = 0.0
    for number, (split, share) in enumerate(shares):
        start, stop = round(done * left), round((done + share) * left)
        found[split].append(names[number * gap + start : number * gap + stop])
        done += share
    return found


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
    """Returns the pairs within the ranges of overlap and angle, in random order until there are as many as wanted."""
    candidates = list(combinations(scans, 2))
    random.Random(options.seed).shuffle(candidates)
    found: list[Pair] = []
    for a, b in candidates:
        if len(found) == options.pairs:
            break
        degrees = angle(a.pose, b.pose)
        if not options.angle[0] <= degrees <= options.angle[1]:
            continue
        share = overlap(near_pairs(a.place, b.place, NEAR * options.voxel), len(a.cloud), len(b.cloud))
        if options.overlap[0] <= share <= options.overlap[1]:
            found.append(Pair(sequence, a, b, share, degrees))
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
        meta |= {"angle": round(pair.degrees, 2), "distance": round(pair.metres, 3)}
        clouds = {f"{role}.ply": points.encode(s.cloud) for role, s in scans.items()}
        return {**clouds, "json": json.dumps(meta).encode()}


if __name__ == "__main__":
    sys.exit(main())
