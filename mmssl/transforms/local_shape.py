"""What lies around each point of a cloud, described so that no turn or shift of the cloud changes it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

RADII = (0.1, 0.2, 0.4)  # m
WIDE = 0.8  # m
CELLS = 4  # sides of cells to the wide radius


def local_shape(xyz: np.ndarray) -> np.ndarray:
    """Describes each point (N, 3) by the shape of what lies around it; (N, 9) float32.

    The square roots of the eigenvalues, ascending, of the covariance of the points within 0.1, 0.2 and 0.4 m, in units
    of that radius. Weinmann et al., ISPRS Journal 2015.
    """
    xyz = _middle(xyz)
    found = []
    for radius, mean in _means(xyz, np.concatenate([xyz, _outer(xyz, xyz)], axis=1)):
        found.append(_widths(_spread(mean[:, :3], mean[:, 3:])) / radius)
    return np.concatenate(found, axis=1).astype(np.float32)


def local_surface(xyz: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Describes each point (N, 3) by the surface around it, with unit normals n (N, 3); (N, 48) float32.

    For 0.1, 0.2, 0.4 and 0.8 m, twelve each, lengths in units of that radius. With d from the point to a
    neighbour, m its normal, and means over the neighbours and the point itself (of 0.8 m over the points
    of all cells, a quarter of the radius wide, whose mean is within it): the three of local_shape; n.mean(d), how far
    the surroundings lie above the tangent plane; |mean(d)|; the deviation of n.d; mean(d.m), which is above 0 where the
    surface bulges; the mean of (n.d)(n.m); mean(d).mean(m); n.mean(m); |mean(m)|; the root of the mean of (n.m)^2.
    The angles between normals and d are what Rusu et al., ICRA 2009 (FPFH) count in histograms.
    """
    xyz, n = _middle(xyz), normal.astype(np.float64)
    values = [xyz, n, _outer(xyz, xyz), _outer(n, n), _outer(xyz, n)]
    found = []
    for radius, mean in _means(xyz, np.concatenate(values, axis=1), wide=True):
        place, m, squares, normals, cross = np.split(mean, [3, 6, 15, 24], axis=1)
        d, spread = place - xyz, _spread(place, squares)
        both = (cross - _outer(xyz, m)).reshape(-1, 3, 3)  # mean of d m^T
        size, agreement = np.linalg.norm(d, axis=1), np.linalg.norm(m, axis=1)
        lengths = [_dot(n, d), size, _root(_along(n, spread)), np.trace(both, axis1=1, axis2=2)]
        lengths += [_along(n, both), _dot(d, m)]
        found += [_widths(spread) / radius, np.stack(lengths, axis=1) / radius]
        found += [np.stack([_dot(n, m), agreement, _root(_along(n, normals.reshape(-1, 3, 3)))], axis=1)]
    return np.concatenate(found, axis=1).astype(np.float32)


def _means(xyz: np.ndarray, values: np.ndarray, *, wide: bool = False) -> Iterator[tuple[float, np.ndarray]]:
    """Yields each radius, and the mean of the values (N, C) of the points within it around each point.

    wide: go on with the wide radius, within which a point has too many neighbours: cells stand for them.
    """
    from scipy.sparse import coo_matrix
    from scipy.spatial import cKDTree

    tree, count = cKDTree(xyz), len(xyz)
    for radius in RADII:
        i, j = tree.query_pairs(radius, output_type="ndarray").T
        half = coo_matrix((np.ones(len(i)), (i, j)), shape=(count, count))  # each pair once: nothing is sorted
        around = 1 + np.bincount(i, minlength=count) + np.bincount(j, minlength=count)
        yield radius, (values + half @ values + half.T @ values) / around[:, None]
    if wide:
        cells = np.unique(cell_keys(np.floor(xyz / WIDE * CELLS)), return_inverse=True)[1]
        within = coo_matrix((np.ones(count), (cells, np.arange(count))), shape=(cells.max() + 1, count))
        sizes = np.bincount(cells)
        middles = cKDTree(within @ xyz / sizes[:, None])
        found = tree.sparse_distance_matrix(middles, WIDE, output_type="coo_matrix")
        near = coo_matrix((np.ones(found.nnz), (found.row, found.col)), shape=found.shape)
        yield WIDE, (near @ (within @ values)) / (near @ sizes)[:, None]


def _middle(xyz: np.ndarray) -> np.ndarray:
    xyz = xyz.astype(np.float64)
    return xyz - xyz.mean(axis=0)


def _outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), 9)


def _spread(mean: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Returns covariances (N, 3, 3) from means (N, 3) and means of products (N, 9)."""
    return (squares - _outer(mean, mean)).reshape(-1, 3, 3)


def _widths(spread: np.ndarray) -> np.ndarray:
    return _root(np.linalg.eigvalsh(spread))


def _along(n: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns n^T M n (N,)."""
    return np.einsum("ni,nij,nj->n", n, matrix, n)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1)


def _root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(x.clip(min=0))


def cell_keys(cells: np.ndarray) -> np.ndarray:
    """Returns an int64 for each row of whole numbers (N, 3), equal for equal rows: one sorts faster than three."""
    columns = np.ascontiguousarray(cells.T, dtype=np.int64)
    sides = [int(column.max()) - int(column.min()) + 1 for column in columns]
    if math.prod(sides) >= 2**63:  # a point in the wild, kilometres away: cells by rank need less room
        columns = np.stack([np.unique(column, return_inverse=True)[1] for column in columns])
        sides = [int(column.max()) + 1 for column in columns]
    x, y, z = columns - columns.min(axis=1, keepdims=True)
    return (x * sides[1] + y) * sides[2] + z
