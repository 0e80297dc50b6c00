"""Measures the sparse U-Net, forward and backward, of mmssl and of ocnn on the same voxels, as a ratio.

python tools/bench/sparse_unet.py [--voxels 20000] [--rounds 7] [--threads 2] [--octree] [--points scan.ply]

Compared are Res16UNet34C and ocnn's UNet in its default plan without its two-layer header: the same stages, widths and
blocks, but ocnn's steps down already widen, for which it has 3% more parameters (and 1% more arithmetic). Each goes
from one channel of ones to 96 per voxel, from points to gradients, with the search for neighbours.
ocnn runs on non-empty octree nodes, the same convolutions as ours; with --octree also as it comes, on all nodes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import ocnn
import torch
from torch import Tensor, nn

from mmssl.encoders import create_encoder
from mmssl.modalities import points


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
    x = network.preprocess.collate([voxels + 0.5])

    def run() -> Tensor:
        tokens = network(x).tokens
        assert tokens is not None
        return tokens

    return network, run


def theirs(voxels: Tensor, nempty: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Returns the network and what runs it on an octree whose finest cells are the voxels."""
    network = ocnn.models.UNet(1, 96, nempty=nempty)
    network.header = nn.Identity()
    depth = int(voxels.max() + 1).bit_length()
    xyz = (voxels + 0.5) / 2 ** (depth - 1) - 1

    def run() -> Tensor:
        octree = ocnn.octree.Octree(depth)
        octree.build_octree(ocnn.octree.Points(xyz, features=torch.ones(len(xyz), 1)))
        octree.construct_all_neigh()
        return network(octree.get_input_feature("F", nempty), octree, depth)

    return network, run


def seconds(network: nn.Module, run: Callable[[], Tensor]) -> float:
    """Returns the time of one forward and backward."""
    network.zero_grad()
    began = time.perf_counter()
    run().square().mean().backward()
    return time.perf_counter() - began


def main() -> None:
    """Prints the medians and minima of rounds taken in turn, and their ratios."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    command.add_argument("--voxels", type=int, default=20_000)
    command.add_argument("--rounds", type=int, default=7)
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--points", help="a scan (ply, pcd, npz, npy) instead of the made room")
    command.add_argument("--voxel", type=float, default=0.025, help="metres")
    command.add_argument("--octree", action="store_true", help="also ocnn on all octree nodes, its default")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    xyz = torch.from_numpy(points.load(options.points).xyz) if options.points else room(options.voxels, options.voxel)
    voxels = cells(xyz, options.voxel, options.voxels)
    peers = {"mmssl": ours(voxels), "voxels": theirs(voxels, True)}
    if options.octree:
        peers["octree"] = theirs(voxels, False)
    sizes = [sum(p.numel() for p in network.parameters()) for network, _ in peers.values()]
    print(f"{len(voxels)} voxels, {options.threads} threads; parameters: mmssl {sizes[0]:,}, ocnn {sizes[1]:,}")
    times = [[seconds(*peer) for peer in peers.values()] for _ in range(options.rounds + 1)][1:]
    columns = dict(zip(peers, zip(*times, strict=True), strict=True))
    for name, how in (("median", statistics.median), ("minimum", min)):
        mine, *others = (how(column) for column in columns.values())
        print(f"{name}: mmssl {mine:.2f} s", end="")
        for peer, other in zip(list(peers)[1:], others, strict=True):
            print(f", ocnn on {peer} {other:.2f} s ({other / mine:.2f} times)", end="")
        print()


if __name__ == "__main__":
    main()
