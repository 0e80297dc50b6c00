"""The room: floor, walls and blocks, their patterns, light and soft shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

CEILING = 4.0  # m
SKY = 0.75


@dataclass(frozen=True)
class Surface:
    """A tint (3,) and a soft two-tone pattern: checker, planks or plain, `pitch` in 1 / m."""

    tint: Array
    pattern: str
    pitch: tuple[float, float]
    contrast: float

    def shade(self, u: Array, v: Array) -> Array:
        """Returns brightness factors at surface coordinates in metres."""
        if self.pattern == "plain":
            return np.ones_like(u)
        wave = np.sin(u * self.pitch[0])
        if self.pattern == "checker":
            wave *= np.sin(v * self.pitch[1])
        wave *= 5.0
        np.clip(wave, -1, 1, out=wave)
        return np.float32(1) + np.float32(self.contrast) * wave


@dataclass(frozen=True)
class Room:
    """A box |x| <= half[0], |y| <= half[1] seen through its near walls, with blocks (lo, hi) on the floor.

    light: unit vector (3,) towards the light. ambient, sun: brightness.
    """

    half: tuple[float, float]
    blocks: list[tuple[Array, Array]]
    floor: Surface
    wall: Surface
    block: Surface
    light: Array
    ambient: float
    sun: float

    def trace(self, origin: Array, rays: Array) -> tuple[Array, Array, Array]:
        """Returns distance (T, P), axis of the surface hit (T, P) and brick index (T, P; -1 for the room itself)."""
        with np.errstate(divide="ignore"):
            inverse = 1 / rays
        exits = entries(origin, rays, inverse, [*self.half, CEILING], [-self.half[0], -self.half[1], 0.0])
        for exit_ in exits:
            exit_[exit_ <= 0] = np.inf  # a wall behind the camera is not there
        distance = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
        axis = np.where(distance == exits[2], 2, np.where(distance == exits[1], 1, 0)).astype(np.int8)
        brick = np.full(distance.shape, -1, np.int8)
        for index, (low, high) in enumerate(self.blocks):
            sides = entries(origin, rays, inverse, low.tolist(), high.tolist())
            near = np.maximum(np.maximum(sides[0], sides[1]), sides[2])
            far = entries(origin, rays, inverse, high.tolist(), low.tolist())
            hit = np.flatnonzero(
                (near > 0) & (near < distance) & (near < np.minimum(np.minimum(far[0], far[1]), far[2]))
            )
            at = near.ravel()[hit]
            distance.ravel()[hit], brick.ravel()[hit] = at, index
            axis.ravel()[hit] = np.where(at == sides[2].ravel()[hit], 2, np.where(at == sides[1].ravel()[hit], 1, 0))
        return distance, axis, brick

    def shade(self, origin: Array, rays: Array, centres: Array, radii: Array) -> tuple[Array, Array, Array]:
        """Returns linear colour (3, T, P), distance (T, P) and normals (3, T, P); balls at centres (T, K, 3) cast soft
        shadows.
        """
        distance, axis, brick = self.trace(origin, rays)
        x, y, z = point = origin + rays * distance
        along = np.where(axis == 0, y, x)
        bare = brick < 0
        color = np.empty(rays.shape, np.float32)
        shadow = self.shadows(point, centres, radii)
        for surface, where in (
            (self.floor, bare & (axis == 2)), (self.wall, bare & (axis != 2)), (self.block, ~bare)
        ):  # fmt: skip
            at = np.flatnonzero(where)
            up = y if surface is self.floor else z
            pattern = surface.shade(along.ravel()[at], up.ravel()[at])
            for channel in range(3):
                color[channel].ravel()[at] = pattern * np.float32(surface.tint[channel])
        color *= self.facing(rays, axis, bare) * shadow * self.sun + self.corners(origin, x, y, z, bare) * self.ambient
        return color, distance, np.stack([np.where(axis == i, -np.sign(rays[i]), 0) for i in range(3)])

    def facing(self, rays: Array, axis: Array, bare: Array) -> Array:
        """Returns the cosine to the light, at least a little, of the surface side that is seen."""
        cosine = np.zeros(axis.shape, np.float32)
        for i in range(3):
            component = -float(self.light[i]) * np.sign(rays[i])
            cosine = np.where(axis == i, component, cosine)
        return np.maximum(cosine, 0.12)

    def corners(self, origin: Array, x: Array, y: Array, z: Array, bare: Array) -> Array:
        """Returns how much of the sky a point sees: less where planes meet that this camera sees from inside."""
        far = np.float32(9)
        gap_x = np.minimum(*(np.where(origin[0] * s > self.half[0], far, self.half[0] - x * s) for s in (1, -1)))
        gap_y = np.minimum(*(np.where(origin[1] * s > self.half[1], far, self.half[1] - y * s) for s in (1, -1)))
        # the nearest plane is the one the point lies on, so the second nearest counts
        near = np.maximum(np.minimum(gap_x, gap_y), np.minimum(np.maximum(gap_x, gap_y), z))
        return 1 - np.float32(0.45) * np.exp(-near * np.float32(5)) * np.where(bare, 1, 0.5).astype(np.float32)

    def shadows(self, point: Array, centres: Array, radii: Array) -> Array:
        """Returns the share of light (T, P) that reaches points (3, T, P) past balls."""
        light = np.ones(point.shape[1:], np.float32)
        lamp = self.light.tolist()
        for k, radius in enumerate(radii):
            away = [centres[:, k, i, None].astype(np.float32) - point[i] for i in range(3)]
            toward = away[0] * lamp[0] + away[1] * lamp[1] + away[2] * lamp[2]
            square = away[0] ** 2 + away[1] ** 2 + away[2] ** 2 - toward * toward
            soft = np.float32(0.15) + np.float32(0.35) * np.maximum(toward, 0)
            edge = (np.sqrt(np.maximum(square, 0)) / np.float32(radius) - 1) / soft + np.float32(0.5)
            edge = np.clip(edge, 0, 1)
            light *= np.where(toward > 0, np.float32(0.25) + np.float32(0.75) * edge, 1)
        return light


def entries(origin: Array, rays: Array, inverse: Array, low: list[float], high: list[float]) -> list[Array]:
    """Returns per axis the distance (T, P) at which rays pass the first of a box's two planes; swap for the last."""
    return [np.where(rays[i] > 0, low[i] - origin[i], high[i] - origin[i]) * inverse[i] for i in range(3)]
