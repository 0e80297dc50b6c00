"""Measures the sparse U-Net, forward and backward, of mmssl and of ocnn on the same voxels, as a ratio.

python tools/bench/sparse_unet.py [--voxels 20000] [--rounds 7] [--device cpu] [--octree] [--points scan.ply]

Compared are Res16UNet34C and ocnn's UNet in its default plan without its two-layer header: the same stages, widths and
blocks, but ocnn's steps down already widen, for which it has 3% more parameters (and 1% more arithmetic). Each goes
from one channel of ones to 96 per voxel, from points to gradients, with the search for neighbours.
ocnn runs on non-empty octree nodes, the same convolutions as ours; with --octree also as it comes, on all nodes.
Times are processor time on one core; on CUDA, with autocast to bfloat16, that of a host that waits for the device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from timing import Row, compare, show
from torch import Tensor, nn

from mmssl.encoders import create_encoder
from mmssl.modalities import points

BOUND = {"cpu": "matrix products", "cuda": "launches"}


def room(count: int, size: float) -> Tensor:
    """Returns points (P, 3) on turned walls and balls, as in a scan of a room, in more than this many voxels."""
    area, random = 0.75 * count * size**2, torch.Generator().manual_seed(0)
    side = (area / 5) ** 0.5  # three walls and two balls of the same surface
    walls = torch.rand(3, 40 * count, 3, generator=random) * side
    walls[[0, 1, 2], :, [0, 1, 2]] = 0
    balls = nn.functional.normalize(torch.randn(2, 40 * count, 3, generator=random), dim=2) * side / 3.545
    balls += torch.tensor([[[0.3, 0.4, 0.5]], [[0.7, 0.7, 0.4]]]) * side
    turn = torch.linalg.qr(torch.randn(3, 3, generator=random))[0]
    return torch.cat([walls, balls]).flatten(0, 1) @ turn


def cells(xyz: Tensor, size: float, count: int) -> Tensor:
    """Returns the count occupied voxels (N, 3) nearest to the first, as whole numbers from 0."""
    found = torch.unique(torch.floor((xyz - xyz.amin(0)) / size).long(), dim=0)
    near = (found - found[0]).square().sum(1).argsort()[:count]
    return found[near] - found[near].amin(0)


def ours(voxels: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Returns the network and what runs it on voxels of one metre."""
    network = create_encoder("sparse_unet:res16unet34c", voxel=1.0)
    network.to(voxels.device)
    x = network.preprocess.collate([voxels.cpu() + 0.5]).to(voxels.device)

    def run() -> Tensor:
        tokens = network(x).tokens
        assert tokens is not None
        return tokens

    return network, run


def theirs(voxels: Tensor, nempty: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Returns the network and what runs it on an octree whose finest cells are the voxels."""
    import ocnn

    network = ocnn.models.UNet(1, 96, nempty=nempty).to(voxels.device)
    network.header = nn.Identity()
    depth = int(voxels.max() + 1).bit_length()
    xyz = (voxels + 0.5) / 2 ** (depth - 1) - 1

    def run() -> Tensor:
        octree = ocnn.octree.Octree(depth, device=voxels.device)
        octree.build_octree(ocnn.octree.Points(xyz, features=torch.ones_like(xyz[:, :1])))
        octree.construct_all_neigh()
        return network(octree.get_input_feature("F", nempty), octree, depth)

    return network, run


def step(network: nn.Module, run: Callable[[], Tensor], device: str) -> None:
    """One forward and backward."""
    network.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        out = run()
    out.float().square().mean().backward()
    if device == "cuda":
        torch.cuda.synchronize()


def rows(device: str = "cpu", *, voxels: Tensor | None = None, octree: bool = False, rounds: int = 5) -> Iterator[Row]:
    """Yields Res16UNet34C on voxels (N, 3), of a room where none are given, beside ocnn on the same."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = (20_000,) if device == "cpu" else (20_000, 100_000)
    for shown in (
        [voxels] if voxels is not None else [cells(room(size, 0.025).to(device), 0.025, size) for size in sizes]
    ):
        placed = shown.to(device)
        work = f"Res16UNet34C, {len(shown):,} voxels, forward and backward" + (", bf16" if device == "cuda" else "")
        mine = partial(step, *ours(placed), device)
        for nempty in (True, False) if octree else (True,):
            peer = partial(step, *theirs(placed, nempty), device)
            against = "ocnn" if nempty else "ocnn on all octree nodes"
            yield compare(work, mine, peer, against=against, bound_by=BOUND[device], rounds=rounds, device=device)


def main() -> None:
    """Prints the rows."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--voxels", type=int, help="how many; 20,000 on a CPU")
    command.add_argument("--rounds", type=int, default=7)
    command.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    command.add_argument("--points", help="a scan (ply, pcd, npz, npy) instead of the made room")
    command.add_argument("--voxel", type=float, default=0.025, help="metres")
    command.add_argument("--octree", action="store_true", help="also ocnn on all octree nodes, its default")
    options = command.parse_args()
    voxels = None
    if options.points or options.voxels:
        count = options.voxels or 20_000
        xyz = torch.from_numpy(points.load(options.points).xyz) if options.points else room(count, options.voxel)
        voxels = cells(xyz, options.voxel, count)
    show(rows(options.device, voxels=voxels, octree=options.octree, rounds=options.rounds))


if __name__ == "__main__":
    main()
