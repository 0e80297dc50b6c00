"""Pinhole cameras: x right, y down, z forward, square images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Camera:
    """One camera at T moments: position (T, 3), rotation (T, 3, 3) to the world, tangent of half the view."""

    position: Array
    rotation: Array
    tangent: float
    size: int  # pixels

    @property
    def pose(self) -> Array:
        """Camera-to-world matrices (T, 4, 4)."""
        pose = np.tile(np.eye(4), (len(self.position), 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = self.rotation, self.position
        return pose

    @property
    def intrinsics(self) -> Array:
        """The matrix (3, 3) that takes camera coordinates to pixels; pixel centres are at halves."""
        focal = self.size / 2 / self.tangent
        return np.array([[focal, 0, self.size / 2], [0, focal, self.size / 2], [0, 0, 1]])

    def grid(self) -> Array:
        """Returns the points (3, H * W) at depth 1 that the pixels' centres see, in the camera's frame."""
        axis = ((np.arange(self.size) + 0.5) * 2 / self.size - 1) * self.tangent
        x, y = np.meshgrid(axis, axis)
        return np.stack([x, y, np.ones_like(x)]).reshape(3, -1)

    def rays(self) -> Array:
        """Returns unit directions (3, T, H * W) in the world, float32."""
        grid = self.grid()
        turned = self.rotation.transpose(1, 0, 2).reshape(-1, 3) @ (grid / np.linalg.norm(grid, axis=0))
        return turned.reshape(3, len(self.position), -1).astype(np.float32)

    def project(self, points: Array) -> tuple[Array, Array]:
        """Returns pixel coordinates (T, P, 2) and depths (T, P) of world points (T, P, 3) or (P, 3)."""
        local = (points - self.position[:, None]) @ self.rotation
        pixels = local @ self.intrinsics.T
        return pixels[..., :2] / pixels[..., 2:], local[..., 2]


def direction(azimuth: Array, elevation: Array) -> Array:
    """Returns unit vectors (T, 3) from the scene to a camera, angles in radians."""
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], -1)


def look(toward: Array) -> Array:
    """Returns rotations (T, 3, 3) of upright cameras that look along `toward` (T, 3)."""
    right = np.cross(toward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    return np.stack([right, np.cross(toward, right), toward], -1)


def framed(aim: Array, away: Array, tangent: float, size: int, points: Array, radii: Array, *, fill: float) -> Camera:
    """Places a camera on the line from `aim` (3,) along `away` (T, 3), just far enough to see every ball.

    points: (T, K, 3) centres, seen at all T moments from each of the T directions; radii: (K,).
    fill: the share of the half image that the outermost ball may reach.
    """
    rotation = look(-away)
    local = np.einsum("nkc,tcd->tnkd", points - aim, rotation)  # every centre from every direction
    side = np.abs(local[..., :2]).max(-1) + radii
    distance = (side / (tangent * fill) - local[..., 2]).max()
    return Camera(aim + away * distance, rotation, tangent, size)
