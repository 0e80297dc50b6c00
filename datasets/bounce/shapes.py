"""The eight solids of the toy world as signed distance functions, in object units (size 1, z up)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Distance = Callable[[Array, Array, Array], Array]

STAR_RADIUS, STAR_WAIST, HEART_SCALE = 1.0, 0.45, 1.42


@dataclass(frozen=True)
class Shape:
    """A solid: its signed distance function and what physics needs of it.

    hull: (P, 3) points whose convex hull, grown by `rounding`, encloses the solid.
    flat: whether it is thin along y, so that it is hard to tell when seen from the side.
    """

    distance: Distance
    hull: Array
    rounding: float
    flat: bool = False

    @property
    def bound(self) -> float:
        """Radius of the enclosing ball around the origin."""
        return float(np.linalg.norm(self.hull, axis=1).max()) + self.rounding


def box_distance(x: Array, y: Array, z: Array) -> Array:
    """Exact distance to a box at the origin, given |p| minus its half sizes."""
    outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2 + np.maximum(z, 0) ** 2)
    return outside + np.minimum(np.maximum(np.maximum(x, y), z), 0)


def extrude(flat: Array, along: Array, half: float) -> Array:
    """Distance to a planar outline (its distance is `flat`) thickened to +-half along an axis."""
    over = np.abs(along) - half
    return np.minimum(np.maximum(flat, over), 0) + np.hypot(np.maximum(flat, 0), np.maximum(over, 0))


def ball(x: Array, y: Array, z: Array) -> Array:
    return np.sqrt(x * x + y * y + z * z) - 0.88


def cube(x: Array, y: Array, z: Array) -> Array:
    return box_distance(np.abs(x) - 0.64, np.abs(y) - 0.64, np.abs(z) - 0.64) - 0.06


def cone(x: Array, y: Array, z: Array) -> Array:
    """A cone from z = -0.75 (radius 0.85) to its tip at z = 0.95; a lower bound of the distance."""
    flank = (np.hypot(x, y) * 1.7 + (z - 0.95) * 0.85) / np.hypot(1.7, 0.85).astype(np.float32)
    return np.maximum(flank, -0.75 - z)


def cylinder(x: Array, y: Array, z: Array) -> Array:
    return extrude(np.hypot(x, y) - 0.56, z, 0.84) - 0.04


def ring(x: Array, y: Array, z: Array) -> Array:
    return np.hypot(np.hypot(x, z) - 0.7, y) - 0.24


def star(x: Array, y: Array, z: Array) -> Array:
    """A five-pointed star standing in the x-z plane: fold into a tenth, then distance to one edge."""
    sector = np.float32(2 * np.pi / 5)
    angle = np.arctan2(x, z)
    angle -= sector * np.round(angle / sector)
    radius = np.hypot(x, z)
    u, v = radius * np.abs(np.sin(angle)), radius * np.cos(angle)  # the tip is at u = 0, v = 1
    waist_u, waist_v = STAR_WAIST * np.sin(sector / 2), STAR_WAIST * np.cos(sector / 2)
    edge_u, edge_v = waist_u, waist_v - STAR_RADIUS
    along = np.clip((u * edge_u + (v - STAR_RADIUS) * edge_v) / (edge_u**2 + edge_v**2), 0, 1)
    near = np.hypot(u - along * edge_u, v - STAR_RADIUS - along * edge_v)
    side = np.sign((v - STAR_RADIUS) * edge_u - u * edge_v)
    return extrude(near * side, y, 0.26) - 0.03


def heart(x: Array, y: Array, z: Array) -> Array:
    """A heart standing in the x-z plane: a square on its corner with two discs on its upper sides."""
    u, v = np.abs(x) / HEART_SCALE, z / HEART_SCALE + 0.56
    disc = np.hypot(u - 0.25, v - 0.75) - np.float32(np.sqrt(2) / 4)
    foot = np.maximum(u + v, 0) / 2
    square = np.minimum(np.hypot(u, v - 1), np.hypot(u - foot, v - foot)) * np.sign(u - v)
    return extrude(np.where(u + v > 1, disc, square) * HEART_SCALE, y, 0.28) - 0.03


def cross(x: Array, y: Array, z: Array) -> Array:
    """Two crossing bars standing in the x-z plane; by symmetry the nearer bar lies along the larger coordinate."""
    x, z = np.abs(x), np.abs(z)
    over, beside = np.maximum(x, z) - 0.9, np.minimum(x, z) - 0.27
    flat = np.hypot(np.maximum(over, 0), np.maximum(beside, 0)) + np.minimum(np.maximum(over, beside), 0)
    return extrude(flat, y, 0.26) - 0.03


def circle(radius: float, *, axis: int, at: float = 0.0, count: int = 16) -> Array:
    """Returns (count, 3) points of a circle around an axis."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1)
    return np.insert(points, axis, at, axis=1)


def slab(points: Array, half: float) -> Array:
    """Returns both faces of an outline (P, 2) in the x-z plane, (2 P, 3)."""
    return np.concatenate([np.insert(points, 1, half, axis=1), np.insert(points, 1, -half, axis=1)])


def corners(x: float, y: float, z: float) -> Array:
    """Returns the eight corners of a box of half sizes x, y, z."""
    return np.array([[i * x, j * y, k * z] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])


def heart_outline() -> Array:
    """Returns points (P, 2) whose hull is the heart's."""
    lobe = circle(np.sqrt(2) / 4, axis=2)[:, :2] + [0.25, 0.75]
    outline = np.concatenate([lobe, lobe * [-1, 1], [[0.0, 0.0]]])
    return (outline - [0, 0.56]) * HEART_SCALE


SHAPES: dict[str, Shape] = {
    "ball": Shape(ball, np.zeros((1, 3)), 0.88),
    "cube": Shape(cube, corners(0.64, 0.64, 0.64), 0.06),
    "cone": Shape(cone, np.concatenate([circle(0.85, axis=2, at=-0.75), [[0, 0, 0.95]]]), 0.0),
    "cylinder": Shape(cylinder, np.concatenate([circle(0.56, axis=2, at=0.84), circle(0.56, axis=2, at=-0.84)]), 0.04),
    "ring": Shape(ring, circle(0.7, axis=1), 0.24, flat=True),
    "star": Shape(star, slab(circle(1.0, axis=2, count=5)[:, [1, 0]], 0.26), 0.03, flat=True),
    "heart": Shape(heart, slab(heart_outline(), 0.28), 0.03, flat=True),
    "cross": Shape(cross, np.concatenate([corners(0.9, 0.26, 0.27), corners(0.27, 0.26, 0.9)]), 0.03, flat=True),
}
