"""Captions from a small grammar: several ways to say the same scene."""

from __future__ import annotations

import numpy as np
from scene import Object

Words = dict[str, tuple[str, ...]]

SIZE: Words = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
}
SHAPE: Words = {
    "ball": ("ball", "ball", "sphere"),
    "cube": ("cube", "cube", "box"),
    "cone": ("cone",),
    "cylinder": ("cylinder", "cylinder", "can"),
    "ring": ("ring", "ring", "doughnut"),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "cross", "plus sign"),
}
MATERIAL: Words = {"rubber": ("rubber",), "wood": ("wooden", "wood"), "metal": ("metal", "metallic")}
MADE_OF: Words = {"rubber": ("rubber",), "wood": ("wood",), "metal": ("metal", "shiny metal")}
OPENING = ("", "", "", "a photo of ", "a picture of ", "there is ", "look, ", "here is ")
PLACE = ("", " in a room", " in a simple room", " between pale walls")
FLIGHT = ("bouncing", "bouncing", "thrown and bouncing", "hopping", "flying through the air")
WALL = ("bouncing off a wall", "that hits a wall", "bouncing between floor and wall")
MEETING = ("bumping into each other", "colliding", "that collide")


def pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """Draws one of several wordings."""
    return words[rng.integers(len(words))]


def article(phrase: str) -> str:
    """Puts the indefinite article in front."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def name(thing: Object, rng: np.random.Generator) -> str:
    """Names one object by size, colour, material and shape, in one of five orders."""
    size, shape, color = pick(SIZE[thing.size], rng), pick(SHAPE[thing.shape], rng), thing.color
    material, made_of = pick(MATERIAL[thing.material], rng), pick(MADE_OF[thing.material], rng)
    forms = (
        f"{size} {color} {material} {shape}",
        f"{size} {color} {material} {shape}",
        f"{color} {material} {shape} of {thing.size} size",
        f"{size} {color} {shape} made of {made_of}",
        f"{color}, {size} {shape} made of {made_of}",
        f"{size} {material} {shape} that is {color}",
        f"{material} {shape}, {size} and {color}",
    )
    return article(pick(forms, rng))


def action(events: set[str], rng: np.random.Generator) -> str:
    """Says what happens, about half of the time."""
    if rng.random() < 0.45:
        return ""
    if "body" in events and rng.random() < 0.5:
        return " " + pick(MEETING, rng)
    return " " + pick(WALL if "wall" in events and rng.random() < 0.4 else FLIGHT, rng)


def caption(objects: list[Object], events: set[str], rng: np.random.Generator) -> str:
    """Returns one caption; events: what the objects hit (floor, wall, block, body)."""
    order = rng.permutation(len(objects))
    names = pick((" and ", " and ", " next to ", " with "), rng).join(name(objects[i], rng) for i in order)
    return pick(OPENING, rng) + names + action(events, rng) + pick(PLACE, rng)


def captions(objects: list[Object], events: set[str], rng: np.random.Generator, *, count: int = 5) -> list[str]:
    """Returns several different captions of one scene."""
    different: dict[str, None] = {}
    while len(different) < count:
        different[caption(objects, events, rng)] = None
    return list(different)
