"""Draws one scene by its seed: objects, room, throw and cameras, none of which tells of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from camera import Array, Camera, direction, framed
from factors import COLORS, MATERIALS, SIZES, SPLITS, Composition, chosen, others
from physics import Body, Impact, Motion, World
from render import Solid
from room import Room, Surface
from shapes import SHAPES

SECONDS = 2.0
MAX_DELAY = 0.5  # s between the throw and the first frame
PAIRS = 0.4  # share of scenes with two objects


@dataclass(frozen=True)
class Object:
    """One object's factors, for captions and labels."""

    shape: str
    color: str
    size: str
    material: str


@dataclass(frozen=True)
class Scene:
    """Everything about one scene before it is rendered; `start` is when the clip begins in the motion."""

    objects: list[Object]
    solids: list[Solid]
    room: Room
    motion: Motion
    start: float
    azimuth: float
    rng: np.random.Generator

    @property
    def impacts(self) -> list[Impact]:
        """The impacts within the clip, timed from its first frame."""
        moved = (Impact(i.time - self.start, i.body, i.speed, i.against) for i in self.motion.impacts)
        return [impact for impact in moved if 0 <= impact.time < SECONDS]

    @property
    def radii(self) -> Array:
        """Radii of balls (K,) that enclose what matters of each solid."""
        return np.array([solid.radius * min(SHAPES[solid.shape].bound, 1.05) for solid in self.solids])

    def at(self, times: Array) -> tuple[Array, Array]:
        """Returns centres (T, K, 3) and rotations (T, K, 3, 3) at times of the clip."""
        return self.motion.at(np.asarray(times) + self.start)


def draw_scene(seed: int, split: str, index: int) -> Scene:
    """Draws scene `index` of a split; throws again until the clip holds at least three spread impacts."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    objects = draw_objects(rng, split, chosen(seed, split, index))
    azimuth = rng.uniform(-np.pi, np.pi)
    room = draw_room(rng, azimuth)
    solids = [
        Solid(o.shape, np.clip(np.array(COLORS[o.color]) + rng.uniform(-0.03, 0.03, 3), 0, 1), o.material,
              SIZES[o.size] * rng.uniform(0.94, 1.06), rng.uniform(0, 6))
        for o in objects
    ]  # fmt: skip
    for _ in range(8):
        start = rng.uniform(0, MAX_DELAY)
        motion = World(throw(rng, solids, room), room.half, room.blocks, rng).run(start + SECONDS)
        scene = Scene(objects, solids, room, motion, start, azimuth, rng)
        times = [impact.time for impact in scene.impacts]
        if len(times) >= 3 and times[-1] - times[0] > 0.7:
            break
    return scene


def draw_objects(rng: np.random.Generator, split: str, first: Composition) -> list[Object]:
    """Draws sizes, and at times a second object that differs in shape and colour."""
    both = [first]
    if split != "test_novel" and rng.random() < PAIRS:
        options = list(others(first))
        both.append(options[rng.integers(len(options))])
    return [Object(shape, color, str(rng.choice(list(SIZES))), material) for shape, color, material in both]


def draw_room(rng: np.random.Generator, azimuth: float) -> Room:
    """Draws a room in pale tints, with blocks at the walls opposite the camera."""
    half = (rng.uniform(1.1, 1.5), rng.uniform(1.1, 1.5))
    tall = rng.uniform(0.7, 1.25)  # elevation of the light, radians
    return Room(
        half=half,
        blocks=draw_blocks(rng, half, azimuth),
        floor=draw_surface(rng, ("checker", "planks", "plain")),
        wall=draw_surface(rng, ("plain", "planks")),
        block=draw_surface(rng, ("plain",)),
        light=direction(azimuth + rng.uniform(-1.3, 1.3), tall),
        ambient=rng.uniform(0.45, 0.6),
        sun=rng.uniform(0.45, 0.65),
    )


def draw_surface(rng: np.random.Generator, patterns: tuple[str, ...]) -> Surface:
    """Draws a pale tint of any hue and a pattern."""
    grey = rng.uniform(0.35, 0.75)
    tint = grey * (1 + rng.uniform(-0.14, 0.14, 3))
    return Surface(tint, str(rng.choice(patterns)), (rng.uniform(6, 12), rng.uniform(6, 12)), rng.uniform(0.06, 0.18))


def draw_blocks(rng: np.random.Generator, half: tuple[float, float], azimuth: float) -> list[tuple[Array, Array]]:
    """Draws two or three boxes (lo, hi) that stand at the walls farthest from the camera."""
    toward = direction(azimuth, 0.0)
    far = [(axis, -np.sign(toward[axis])) for axis in (0, 1) if abs(toward[axis]) > 0.35]
    blocks = []
    for number in range(rng.integers(2, 4)):
        axis, side = far[number % len(far)]
        deep, wide, tall = rng.uniform(0.15, 0.35), rng.uniform(0.15, 0.4), rng.uniform(0.15, 0.9)
        low, high = np.zeros(3), np.array([0, 0, tall])
        across = rng.uniform(-1, 1) * (half[1 - axis] - wide)
        low[1 - axis], high[1 - axis] = across - wide, across + wide
        low[axis], high[axis] = sorted((side * half[axis], side * (half[axis] - deep)))
        blocks.append((low, high))
    return blocks


def throw(rng: np.random.Generator, solids: list[Solid], room: Room) -> list[Body]:
    """Draws how the solids start: apart from each other, in the air, roughly toward the middle."""
    bodies = []
    side = rng.choice([-1, 1])
    for number, solid in enumerate(solids):
        shape = SHAPES[solid.shape]
        inner = [h - 0.35 - solid.radius * shape.bound for h in room.half]
        place = np.array([rng.uniform(-1, 1) * inner[0], rng.uniform(0.2, 1) * inner[1]])
        if number or side > 0:
            place[1] *= side if not number else -np.sign(bodies[0].position[1])
        speed = -place * rng.uniform(0.2, 1.3) + rng.uniform(-0.6, 0.6, 2)
        bodies.append(
            Body(
                hull=shape.hull * solid.radius,
                rounding=shape.rounding * solid.radius,
                radius=solid.radius * 0.85,
                bounce=MATERIALS[solid.material] * rng.uniform(0.97, 1.03),
                position=[*place.tolist(), rng.uniform(0.8, 1.4)],
                velocity=[*speed.tolist(), rng.uniform(-1.0, 1.5)],
                yaw=rng.uniform(-np.pi, np.pi),
                spin=rng.uniform(1.0, 4.0) * rng.choice([-1, 1]),
                tilt=rng.uniform(-0.35, 0.35, 2).tolist(),
            )
        )
    return bodies


def video_camera(scene: Scene, times: Array, size: int) -> Camera:
    """Returns a camera that sways around the scene and sees every object at every moment."""
    rng = scene.rng
    sway = np.sin(np.outer(times * rng.uniform(1.5, 3.0), [1, 1]) + rng.uniform(0, 2 * np.pi, 2))
    azimuth = scene.azimuth + rng.uniform(0.08, 0.25) * sway[:, 0]
    elevation = rng.uniform(0.2, 0.5) + rng.uniform(0.02, 0.08) * sway[:, 1]
    centres = scene.at(times)[0]
    aim = (centres.min((0, 1)) + centres.max((0, 1))) / 2 + rng.uniform(-0.08, 0.08, 3)
    tangent = np.tan(rng.uniform(0.36, 0.45))
    return framed(aim, direction(azimuth, elevation), tangent, size, centres, scene.radii, fill=0.94)


def key_camera(scene: Scene, size: int) -> tuple[float, Camera]:
    """Returns a moment and a close camera that sees every object whole, flat ones not from the side."""
    rng = scene.rng
    options = []
    for _ in range(24):
        time = np.array([rng.uniform(0, SECONDS - 0.1)])
        away = direction(scene.azimuth + rng.uniform(-0.6, 0.6, 1), rng.uniform(0.15, 0.5, 1))
        centres, rotations = scene.at(time)
        options.append((clutter(scene, away[0], centres[0], rotations[0]), time, away, centres))
        if options[-1][0] <= 0:
            break
    _, time, away, centres = min(options, key=lambda option: option[0])
    aim = centres[0].mean(0) + rng.uniform(-0.06, 0.06, 3)
    tangent = np.tan(0.36)
    camera = framed(aim, away, tangent, size, centres, scene.radii, fill=0.92)
    near = max(0.0, rng.uniform(1.5, 1.8) - float(np.linalg.norm(camera.position[0] - aim)))
    return float(time[0]), Camera(camera.position + away * near, camera.rotation, tangent, size)


def clutter(scene: Scene, away: Array, centres: Array, rotations: Array) -> float:
    """Scores a view, 0 or less when good: flat solids from the side, objects that overlap or are far apart."""
    score = 0.0
    for solid, rotation in zip(scene.solids, rotations, strict=True):
        if SHAPES[solid.shape].flat:
            score += max(0.0, 0.65 - abs(float(rotation[:, 1] @ away)))
    if len(centres) == 2:
        apart = centres[1] - centres[0]
        across = float(np.linalg.norm(apart - (apart @ away) * away))
        score += max(0.0, scene.radii.sum() * 0.9 - across) + max(0.0, across - 1.2)
    return score


def depth_cameras(scene: Scene, time: float, size: int, *, spread: float) -> list[Camera]:
    """Returns two close cameras from sides `spread` times 23 to 46 degrees apart, aimed near the first object."""
    rng = scene.rng
    centre = scene.at(np.array([time]))[0][0, 0]
    middle, half_angle = scene.azimuth + rng.uniform(-0.15, 0.15), rng.uniform(0.2, 0.4) * spread
    cameras = []
    for side in (-1, 1):
        away = direction(np.array([middle + side * half_angle]), 0.52 + rng.uniform(-0.17, 0.18, 1) * spread)
        aim = np.array([*centre[:2], centre[2] * 0.6]) + rng.uniform(-0.15, 0.15, 3) * spread
        camera = framed(aim, away, np.tan(0.5), size, aim[None, None], np.array([0.8]), fill=0.95)
        cameras.append(camera)
    return [cameras[i] for i in rng.permutation(2)]
