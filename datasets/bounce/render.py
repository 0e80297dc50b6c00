"""Renders solids in a room: analytic room, sphere-traced solids, colours, depth and masks in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from camera import Camera
from numpy.typing import NDArray
from room import SKY, Room
from shapes import SHAPES, Distance

Array = NDArray[np.floating]

STEPS = 24
CHUNK = 40_000  # rays at a time, so that temporaries stay in the cache
NORMAL_OFFSETS = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)


@dataclass(frozen=True)
class Solid:
    """How one body looks: shape name, display colour (3,) in [0, 1], material name, radius (m), grain offset."""

    shape: str
    color: Array
    material: str
    radius: float
    grain: float


@dataclass(frozen=True)
class Picture:
    """color (T, H, W, 3) uint8, depth (T, H, W) along z in metres, mask (T, H, W) uint8: 0 room, 1.. solids.

    normal (T, H, W, 3): unit vectors that stand on what is seen, x right, y down, z forward of the camera.
    """

    color: NDArray[np.uint8]
    depth: Array
    mask: NDArray[np.uint8]
    normal: Array


@dataclass(frozen=True)
class Canvas:
    """An image in the making: rays (3, T, P) from origin (3, T, 1), and what they have met so far.

    color (3, T, P) linear, distance (T, P) along the ray, mask (T, P), normal (3, T, P) in the world; pixel: the width
    of a pixel at distance 1.
    """

    origin: Array
    rays: Array
    pixel: float
    color: Array
    distance: Array
    mask: NDArray[np.uint8]
    normal: Array


def render(
    room: Room, solids: list[Solid], camera: Camera, centres: Array, rotations: Array, *, fine: int = 1
) -> Picture:
    """Renders the T moments of a camera. centres: (T, K, 3); rotations: (T, K, 3, 3).

    fine: rays per pixel along each side. Depth, mask and normal come from the ray at each pixel's upper left.
    """
    sharp = Camera(camera.position, camera.rotation, camera.tangent, camera.size * fine)
    step = max(1, CHUNK // sharp.size**2)
    parts = []
    for start in range(0, len(centres), step):
        at = slice(start, start + step)
        cut = Camera(sharp.position[at], sharp.rotation[at], sharp.tangent, sharp.size)
        parts.append(render_part(room, solids, cut, centres[at], rotations[at]))
    color, depth, mask, normal = (
        np.concatenate(part, axis) for part, axis in zip(zip(*parts, strict=True), (1, 0, 0, 1), strict=True)
    )
    shape = (len(centres), camera.size, fine, camera.size, fine)
    color = color.reshape(3, *shape).mean((3, 5))
    shown = np.sqrt(np.clip(color, 0, 1, out=color)) * 255 + 0.5
    return Picture(
        np.ascontiguousarray(np.moveaxis(shown.astype(np.uint8), 0, -1)),
        depth.reshape(shape)[:, :, 0, :, 0],
        mask.reshape(shape)[:, :, 0, :, 0],
        np.moveaxis(normal.reshape(3, *shape)[:, :, :, 0, :, 0], 0, -1),
    )


def render_part(
    room: Room, solids: list[Solid], camera: Camera, centres: Array, rotations: Array
) -> tuple[Array, Array, NDArray[np.uint8], Array]:
    """Returns linear colour (3, T, P), depth (T, P), mask (T, P) and normals in the camera's frame (3, T, P)."""
    rays = camera.rays()
    origin = camera.position.T[:, :, None].astype(np.float32)
    color, distance, normal = room.shade(origin, rays, centres, np.array([solid.radius * 0.85 for solid in solids]))
    pixel = float(2 * camera.tangent / camera.size)
    canvas = Canvas(origin, rays, pixel, color, distance, np.zeros(distance.shape, np.uint8), normal)
    for k, solid in enumerate(solids):
        draw(canvas, room, solid, k + 1, centres[:, k].astype(np.float32), rotations[:, k].astype(np.float32))
    forward = camera.rotation[:, :, 2].T[:, :, None].astype(np.float32)
    turned = np.einsum("tij,itp->jtp", camera.rotation.astype(np.float32), normal)
    return color, distance * (rays * forward).sum(0), canvas.mask, turned


def draw(canvas: Canvas, room: Room, solid: Solid, number: int, centres: Array, rotations: Array) -> None:
    """Puts one solid at (T, 3), turned by (T, 3, 3), into the image; rays that nearly hit smooth its outline."""
    distance, radius = SHAPES[solid.shape].distance, np.float32(solid.radius)
    offset = canvas.origin - centres.T[:, :, None]
    middle = -(offset * canvas.rays).sum(0)  # (T, P) along the ray to the point nearest to the centre
    bound = SHAPES[solid.shape].bound * solid.radius * 1.05
    gap = bound**2 - (offset * offset).sum(0) + middle * middle
    index = np.flatnonzero((gap > 0) & (middle > 0))  # the rays that pass through the enclosing ball
    if not len(index):
        return
    turn = rotations[index // gap.shape[1]]
    ray = canvas.rays.reshape(3, -1)[:, index]
    local = np.einsum("nij,in->jn", turn, ray)
    start = np.einsum("nij,in->jn", turn, offset[:, index // gap.shape[1], 0]) / radius
    half, reach = np.sqrt(gap.ravel()[index]) / radius, middle.ravel()[index] / radius
    close = float(np.clip(0.05 * canvas.pixel * reach.min(), 1e-3, 1e-2))
    travel, miss = march(distance, start, local, np.maximum(reach - half, 0), reach + half, close)
    cover = np.clip(1 - miss / (travel * np.float32(canvas.pixel) + np.float32(1e-6)), 0, 1)
    seen = np.flatnonzero((cover > 0) & (travel * radius < canvas.distance.ravel()[index]))
    spot = start[:, seen] + local[:, seen] * travel[seen]
    normal = np.einsum("nij,jn->in", turn[seen], normals(distance, spot))
    color = shade_solid(room, solid, spot, normal, ray[:, seen])
    most = cover[seen] > 0.5
    canvas.normal.reshape(3, -1)[:, index[seen][most]] = normal[:, most]
    paint(canvas, index[seen], color, travel[seen] * radius, cover[seen], number)


def paint(canvas: Canvas, index: NDArray[np.intp], color: Array, far: Array, cover: Array, number: int) -> None:
    """Blends colours (3, n) over pixels by how much of them is covered; mostly covered ones get depth and mask."""
    flat = canvas.color.reshape(3, -1)
    flat[:, index] += (color - flat[:, index]) * cover
    most = cover > 0.5
    canvas.mask.ravel()[index[most]] = number
    canvas.distance.ravel()[index[most]] = far[most]


def march(distance: Distance, start: Array, ray: Array, near: Array, far: Array, close: float) -> tuple[Array, Array]:
    """Sphere-traces rays (3, n) in object units from near to far; within `close` of the solid they have arrived.

    Returns where each came closest (n,), and how close (n,; 0 is a hit).
    """
    best, miss = near.copy(), np.full_like(near, np.inf)
    alive, travel = np.arange(len(near)), near
    for step in range(STEPS):
        gap = distance(*(start + ray * travel))
        nearer = gap < miss[alive]
        best[alive[nearer]], miss[alive[nearer]] = travel[nearer], gap[nearer]
        travel = travel + gap
        going = (gap > close) & (travel < far)
        if step % 2 and going.mean() < 0.8:  # rays that arrived may take a step more: they are at rest
            keep = np.flatnonzero(going)
            alive, travel, far, start, ray = alive[keep], travel[keep], far[keep], start[:, keep], ray[:, keep]
        if not len(alive):
            break
    return best, np.where(miss <= close, 0, miss)


def normals(distance: Distance, point: Array) -> Array:
    """Returns unit normals (3, n) at points (3, n) by four samples of the distance."""
    total = np.zeros_like(point)
    for offset in NORMAL_OFFSETS:
        moved = point + offset[:, None] * np.float32(5e-3)
        total += offset[:, None] * distance(moved[0], moved[1], moved[2])
    return total / (np.sqrt((total * total).sum(0)) + np.float32(1e-6))


def shade_solid(room: Room, solid: Solid, spot: Array, normal: Array, ray: Array) -> Array:
    """Returns linear colour (3, n): matte rubber, grained wood with a varnish, or metal that mirrors the room."""
    base = (np.asarray(solid.color, np.float32) ** 2)[:, None]
    light = room.light.astype(np.float32)
    cosine = light @ normal
    mirror = ray - 2 * (ray * normal).sum(0) * normal
    gleam = np.clip(light @ mirror, 0, 1)
    sky = np.float32(room.ambient) * (np.float32(0.7) + np.float32(0.3) * normal[2])
    direct = np.float32(room.sun) * np.clip(cosine, 0, 1)
    if solid.material == "metal":
        band = np.sin(mirror[2] * 3 + solid.grain * 0.25)  # lamps and shelves of a room not modelled
        glow = np.float32(SKY) + np.float32(0.5) * band
        lamp = np.float32(0.35) * np.clip(np.sin(mirror[2] * 4 + mirror[0] * 2) * 4 - 3, 0, 1)
        return base * (0.3 * (sky + direct) + 0.7 * glow) + np.float32(1.0) * gleam**20 + lamp
    if solid.material == "wood":
        radius = np.sqrt((spot[0] - 0.7) ** 2 + (spot[1] + 0.5 + 0.15 * np.sin(spot[2] * 3)) ** 2)
        grain = np.clip(np.sin(radius * 17 + solid.grain) * 2, -1, 1)
        return base * (0.76 + 0.24 * grain) * (sky + direct) + np.float32(0.12) * gleam**12
    return base * (sky + np.float32(room.sun) * np.clip(cosine * 0.7 + 0.3, 0, 1))
