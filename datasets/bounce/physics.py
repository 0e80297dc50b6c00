"""Solids thrown into a room: gravity, bounces that lose energy, spin and wobble."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

GRAVITY = 9.81  # m / s^2
STEP = 1 / 250  # s
AUDIBLE = 0.4  # m / s of approach; softer contacts make neither sound nor event
RESTING = 0.12  # m / s; slower bounces end
STIFFNESS, DAMPING = 40.0, 3.0  # of the wobble, 1 / s^2 and 1 / s


@dataclass(frozen=True)
class Impact:
    """A contact: when (s), which body, how fast (m / s), and with what: floor, wall, block or body."""

    time: float
    body: int
    speed: float
    against: str


@dataclass
class Body:
    """A rigid solid. hull (P, 3) and rounding in metres, at the body's own axes; tilt is a rotation vector in x-y."""

    hull: Array
    rounding: float
    radius: float
    bounce: float
    position: list[float]
    velocity: list[float]
    yaw: float
    spin: float
    tilt: list[float]
    wobble: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def reach(self) -> float:
        """Radius of the enclosing ball."""
        return float(np.linalg.norm(self.hull, axis=1).max()) + self.rounding

    def support(self, axis: int, side: int) -> float:
        """How far the turned solid reaches from its centre along +-axis."""
        row = entries(math, self.yaw, *self.tilt)[axis]
        return float((self.hull @ [side * entry for entry in row]).max()) + self.rounding

    def turn(self) -> None:
        """Advances yaw and the damped wobble around the upright pose by one step."""
        self.yaw += self.spin * STEP
        for i in (0, 1):
            self.wobble[i] -= (STIFFNESS * self.tilt[i] + DAMPING * self.wobble[i]) * STEP
            self.tilt[i] += self.wobble[i] * STEP

    def fly(self) -> None:
        """Advances the centre by one step of free fall, without error in energy."""
        for i in range(3):
            self.position[i] += self.velocity[i] * STEP
        self.position[2] -= GRAVITY * STEP * STEP / 2
        self.velocity[2] -= GRAVITY * STEP


@dataclass(frozen=True)
class Motion:
    """What happened at every STEP: position (S, K, 3), angles (S, K, 3: yaw, tilt x, tilt y), total energy (S,)."""

    position: Array
    angles: Array
    energy: Array
    impacts: list[Impact]

    def at(self, times: Array) -> tuple[Array, Array]:
        """Returns centres (T, K, 3) and rotation matrices body -> world (T, K, 3, 3) at times in seconds."""
        place = np.clip(np.asarray(times) / STEP, 0, len(self.position) - 1.001)
        index = place.astype(int)
        part = (place - index)[:, None, None]
        mix = [a[index] * (1 - part) + a[index + 1] * part for a in (self.position, self.angles)]
        return mix[0], rotations(mix[1])


def entries(functions: Any, yaw: Any, a: Any, b: Any) -> list[list[Any]]:
    """Returns the 3 x 3 entries of a tilt (rotation vector a, b, 0) and then a yaw about z, by math or by numpy."""
    size = functions.sqrt(a * a + b * b) + 1e-9
    x, y, c, s = a / size, b / size, functions.cos(size), functions.sin(size)
    mixed = x * y * (1 - c)
    first, second = (c + x * x * (1 - c), mixed, y * s), (mixed, c + y * y * (1 - c), -x * s)
    cosine, sine = functions.cos(yaw), functions.sin(yaw)
    return [
        [cosine * p - sine * q for p, q in zip(first, second, strict=True)],
        [sine * p + cosine * q for p, q in zip(first, second, strict=True)],
        [-y * s, x * s, c],
    ]


def rotations(angles: Array) -> Array:
    """Returns body-to-world rotation matrices (..., 3, 3) of angles (..., 3): yaw, tilt x, tilt y."""
    return np.moveaxis(np.array(entries(np, *np.moveaxis(angles, -1, 0))), (0, 1), (-2, -1))


class World:
    """A room |x| <= half[0], |y| <= half[1], z >= 0 with blocks (lo, hi), and the bodies in it."""

    def __init__(
        self, bodies: list[Body], half: tuple[float, float], blocks: list[tuple[Array, Array]], rng: np.random.Generator
    ) -> None:
        self.bodies, self.half, self.rng = bodies, half, rng
        self.blocks = [(lo.tolist(), hi.tolist()) for lo, hi in blocks]
        self.reach = [body.reach for body in bodies]
        self.impacts: list[Impact] = []
        self.time = 0.0

    def run(self, seconds: float) -> Motion:
        """Simulates and returns the motion."""
        position, velocity, angles = [], [], []
        for _ in range(round(seconds / STEP) + 1):
            position.append([body.position.copy() for body in self.bodies])
            velocity.append([body.velocity.copy() for body in self.bodies])
            angles.append([[body.yaw, *body.tilt] for body in self.bodies])
            self.step()
        mass = np.array([body.radius**3 for body in self.bodies])
        places = np.array(position)
        energy = ((np.array(velocity) ** 2).sum(-1) / 2 + GRAVITY * places[..., 2]) @ mass
        return Motion(places, np.array(angles), energy, sorted(self.impacts, key=lambda impact: impact.time))

    def step(self) -> None:
        for index, body in enumerate(self.bodies):
            body.fly()
            body.turn()
            reach = self.reach[index]
            if body.position[2] < reach:
                self.plane(index, 2, -1, 0.0, "floor")
            for axis in (0, 1):
                side = 1 if body.position[axis] > 0 else -1
                if body.position[axis] * side + reach > self.half[axis]:
                    self.plane(index, axis, side, self.half[axis], "wall")
            for low, high in self.blocks:
                self.block(index, low, high)
        if len(self.bodies) == 2:
            self.pair()
        self.time += STEP

    def plane(self, index: int, axis: int, side: int, limit: float, against: str) -> None:
        """Keeps a body on the inner side of a plane and reflects it when it moves outward."""
        body = self.bodies[index]
        depth = body.position[axis] * side + body.support(axis, side) - limit
        if depth <= 0:
            return
        normal = [0.0, 0.0, 0.0]
        normal[axis] = -side
        self.reflect(index, normal, depth, against)

    def block(self, index: int, low: list[float], high: list[float]) -> None:
        """Bounces a body, taken as a ball, off an upright box."""
        body = self.bodies[index]
        (x, y, z), r = body.position, body.radius
        if z > high[2] + r or x < low[0] - r or x > high[0] + r or y < low[1] - r or y > high[1] + r:
            return
        away = [x - min(max(x, low[0]), high[0]), y - min(max(y, low[1]), high[1]), z - min(max(z, low[2]), high[2])]
        distance = math.sqrt(sum(d * d for d in away))
        if 0 < distance < r:
            self.reflect(index, [d / distance for d in away], r - distance, "block")

    def reflect(self, index: int, normal: list[float], depth: float, against: str) -> None:
        """Pushes a body out along the normal and turns its approach around, less the loss."""
        body = self.bodies[index]
        approach = -sum(v * n for v, n in zip(body.velocity, normal, strict=True))
        for i in range(3):
            body.position[i] += depth * normal[i]
        if approach <= 0:
            return
        back = body.bounce if approach > RESTING else 0.0
        for i in range(3):
            body.velocity[i] += (1 + back) * approach * normal[i]
        if normal[2] > 0.5:  # friction with what lies below
            rub = 0.9 if approach > RESTING else 0.99
            body.velocity[0], body.velocity[1], body.spin = (
                body.velocity[0] * rub, body.velocity[1] * rub, body.spin * rub
            )  # fmt: skip
        self.hit(index, approach, depth, against)

    def hit(self, index: int, speed: float, depth: float, against: str) -> None:
        """Notes an audible impact at the moment of contact and kicks the wobble."""
        if speed < AUDIBLE:
            return
        body = self.bodies[index]
        kick = self.rng.uniform(-1, 1, 3) * min(speed, 3.0)
        body.spin += 0.5 * float(kick[2])
        body.wobble = [body.wobble[0] + 0.6 * float(kick[0]), body.wobble[1] + 0.6 * float(kick[1])]
        self.impacts.append(Impact(self.time + STEP - min(depth / speed, STEP), index, speed, against))

    def pair(self) -> None:
        """Bounces the two bodies, taken as balls, off one another; momentum is kept."""
        one, two = self.bodies
        apart = [b - a for a, b in zip(one.position, two.position, strict=True)]
        distance = math.sqrt(sum(d * d for d in apart)) + 1e-9
        if distance > one.radius + two.radius:
            return
        normal = [d / distance for d in apart]
        approach = sum((a - b) * n for a, b, n in zip(one.velocity, two.velocity, normal, strict=True))
        if approach <= 0:
            return
        weight = two.radius**3 / (one.radius**3 + two.radius**3)
        push = (1 + min(one.bounce, two.bounce)) * approach
        for i in range(3):
            one.velocity[i] -= push * weight * normal[i]
            two.velocity[i] += push * (1 - weight) * normal[i]
        for index in (0, 1):
            self.hit(index, approach, one.radius + two.radius - distance, "body")
