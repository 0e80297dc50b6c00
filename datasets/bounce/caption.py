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
THING = ("object", "thing", "solid")
MATERIAL: Words = {"rubber": ("rubber",), "wood": ("wooden", "wood"), "metal": ("metal", "metallic")}
MADE_OF: Words = {"rubber": ("rubber",), "wood": ("wood",), "metal": ("metal", "shiny metal")}
OPENING = ("", "", "", "a photo of ", "an image of ", "there is ", "look, ", "here is ")
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


def name(thing: Object, rng: np.random.Generator, *, brief: bool) -> str:
    """Names one object: its shape, and its size, colour and material in front of it or behind; briefly, some of them.

    People leave out what they take for granted, and a text that names the shape alone is what a prompt looks like.
    """
    behind = {"size": f"of {thing.size} size", "color": f"that is {thing.color}"}
    behind["material"] = f"made of {pick(MADE_OF[thing.material], rng)}"
    front = {"size": pick(SIZE[thing.size], rng), "color": thing.color, "material": pick(MATERIAL[thing.material], rng)}
    told = [factor for factor in front if not brief or rng.random() < 0.5]
    last = told.pop(rng.integers(len(told))) if told and rng.random() < 0.4 else None
    noun = pick(THING if brief and told and rng.random() < 0.1 else SHAPE[thing.shape], rng)
    words = [front[factor] for factor in told] + [noun] + ([behind[last]] if last else [])
    return article(" ".join(words))


def action(events: set[str], rng: np.random.Generator) -> str:
    """Says what happens, about half of the time."""
    if rng.random() < 0.45:
        return ""
    if "body" in events and rng.random() < 0.5:
        return " " + pick(MEETING, rng)
    return " " + pick(WALL if "wall" in events and rng.random() < 0.4 else FLIGHT, rng)


def caption(objects: list[Object], events: set[str], rng: np.random.Generator, *, brief: bool) -> str:
    """Returns one caption; events: what the objects hit (floor, wall, block, body); brief: may leave factors out."""
    order = rng.permutation(len(objects))
    names = pick((" and ", " and ", " next to ", " with "), rng).join(name(objects[i], rng, brief=brief) for i in order)
    return pick(OPENING, rng) + names + action(events, rng) + pick(PLACE, rng)


def captions(objects: list[Object], events: set[str], rng: np.random.Generator, *, count: int = 5) -> list[str]:
    """Returns several different captions of one scene, the first with every factor of every object."""
    different = {caption(objects, events, rng, brief=False): None}
    while len(different) < count:
        different[caption(objects, events, rng, brief=True)] = None
    return list(different)
