"""What lies around a point: by loops, by hand on a plane and a sphere, and unchanged by turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mmssl.transforms.local_shape import RADII, WIDE, local_shape, local_surface

Array = np.ndarray[Any, Any]


def scene(count: int = 120) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(count, 3))
    return rng.uniform(-0.3, 0.3, (count, 3)) * (1, 1, 0.4), normal / np.linalg.norm(normal, axis=1, keepdims=True)


def around(xyz: Array, x: Array, radius: float) -> list[int]:
    """Returns the points within a radius; of the wide one the points of cells whose mean is within it."""
    if radius < 0.5:
        return [k for k in range(len(xyz)) if np.linalg.norm(xyz[k] - x) <= radius]
    cell = np.floor((xyz - xyz.mean(0)) / (radius / 4)).tolist()
    mates = [[j for j in range(len(xyz)) if cell[j] == own] for own in cell]
    return [k for k in range(len(xyz)) if np.linalg.norm(xyz[mates[k]].mean(0) - x) <= radius]


def by_loops(xyz: Array, normal: Array) -> Array:
    """The docstring's formulas, a point and a neighbour at a time."""
    rows = []
    for x, n in zip(xyz, normal, strict=True):
        row: list[float] = []
        for radius in (0.1, 0.2, 0.4, 0.8):
            near = around(xyz, x, radius)
            d, m = (xyz[near] - x) / radius, normal[near]
            spread = np.cov(d.T, bias=True) if len(near) > 1 else np.zeros((3, 3))
            row += list(np.sqrt(np.linalg.eigvalsh(spread).clip(min=0)))
            row += [n @ d.mean(0), float(np.linalg.norm(d.mean(0))), (d @ n).std()]
            row += [np.mean([a @ b for a, b in zip(d, m, strict=True)])]
            row += [np.mean([(a @ n) * (b @ n) for a, b in zip(d, m, strict=True)]), d.mean(0) @ m.mean(0)]
            row += [n @ m.mean(0), float(np.linalg.norm(m.mean(0))), np.sqrt(np.mean((m @ n) ** 2))]
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_surface_is_what_the_formulas_say(shift: float) -> None:
    xyz, normal = scene()
    xyz *= 3  # some cells lie beyond the wide radius
    found = local_surface(xyz + shift, normal)
    assert found.dtype == np.float32 and found.shape == (120, 12 * len((*RADII, WIDE)))
    np.testing.assert_allclose(found, by_loops(xyz, normal), atol=2e-5)
    shape = local_shape(xyz)
    for part in range(3):
        np.testing.assert_allclose(found[:, 12 * part : 12 * part + 3], shape[:, 3 * part : 3 * part + 3], atol=1e-5)


def test_no_turn_changes_it_and_a_mirrored_normal_does() -> None:
    xyz, normal = scene()
    turn = Rotation.from_euler("xyz", [0.3, -1.0, 2.0]).as_matrix()
    found = local_surface(xyz, normal)
    turned = local_surface(xyz @ turn.T + 3, normal @ turn.T)
    np.testing.assert_allclose(turned[:, :36], found[:, :36], atol=1e-5)
    assert np.abs(turned - found)[:, 36:].mean() < 0.01, "the cells of the wide radius turn to others"
    assert np.abs(local_surface(xyz, -normal) - found).max() > 0.1


def test_a_ball_bulges_and_a_bowl_does_not() -> None:
    """On a sphere of radius R with outward normals d.m is |d|^2 / (2 R), and n.d its negative."""
    rng = np.random.default_rng(1)
    out = rng.normal(size=(6000, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    found = local_surface(out, out)
    alone = [*[0] * 9, 1, 1, 1]
    np.testing.assert_allclose(local_surface(out[:1], out[:1])[0], alone * 4, atol=1e-6)
    bulge, above = found[:, 24 + 6], found[:, 24 + 3]  # within 0.4, in units of it: the mean of |d|^2 is 0.4^2 / 2
    assert bulge.mean() == pytest.approx(0.4 / 4, rel=0.03)
    np.testing.assert_allclose(above, -bulge, atol=1e-5)
    np.testing.assert_allclose(local_surface(out, -out)[:, 30], -bulge, atol=1e-6)
