"""No option is left unheard: each of an objective, found by its signature, changes what two steps of training come to.

What it changes, and by how much, the tests of each method hold; a new option needs a line here, or the test fails.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl import names
from mmssl.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from two_views import HERE, INDEX, INPUTS, ROWS, SAMPLES, Tiny, defaults, stir

SMALL: dict[str, Any] = {"embed_dim": 4, "hidden": (8, 6), "queue": 9, "negatives": 5, "patches": 2, "dims": 4}
SMALL |= {"width": 5, "layers": 1, "rows": (1,), "bottleneck": 3, "temperature": 0.5, "momentum": 0.8}
CHANGED: dict[str, Any] = {"embed_dim": 5, "hidden": (7,), "queue": 8, "negatives": None, "patches": 3, "dims": 3}
CHANGED |= {"width": 4, "layers": 2, "rows": (1, 2), "bottleneck": 2, "temperature": 0.4, "momentum": 0.7, "scale": 0.2}
CHANGED |= {"redundancy": 0.1, "invariance": 2.0, "variance": 3.0, "covariance": 4.0, "memory": 0.5, "boost": 0.2}
CHANGED |= {"patch_weight": 0.3, "freeze": "layer", ("pirl", "negatives"): 4}
VIEWS = {"pirl": 3, "cpc": 9}
NAMES = ["simclr", "simclr:v2", "moco", "moco:v2", "moco:v3", "npid", "pirl", "pic", "cmc", "cpc", "byol", "simsiam"]
NAMES += ["barlow_twins", "vicreg", "directclr", "directpred", "moby"]
OPTIONS = [
    (name, option)
    for name in NAMES
    for option in defaults(names.resolve("methods", name)[0].objective)
    if option != "encoder"
]


def two_steps(name: str, changed: dict[str, Any]) -> list[Any]:
    """Returns the sizes, what is frozen, and the losses and all weights after two steps of training."""
    torch.manual_seed(0)
    kind = names.resolve("methods", name)[0].objective
    encoders = {key: Tiny() for key in (("image", "image_b") if name == "cmc" else ("image",))}
    options = {option: value for option, value in SMALL.items() if option in defaults(kind)} | changed
    views = VIEWS.get(name, 2) + changed.get("patches", 2) - 2
    objective = kind(encoders, **options)
    objective.reserve(SAMPLES)
    weights = [p for module in (objective, *encoders.values()) for p in module.parameters() if p.requires_grad]
    found: list[Any] = [[tuple(p.shape) for p in weights]]
    torch.manual_seed(1)  # what building drew is not to tell
    stir(*encoders.values())
    for _ in range(2):
        shown = {key: [torch.randn(ROWS, INPUTS) for _ in range(views)] for key in encoders}
        loss = objective(encoders, Batch(shown, extra={"image_present": HERE, "index": INDEX})).total
        for p, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.data -= 0.1 * gradient
        objective.after_step(encoders, 0.3)
        found.append(loss.item())
    return [*found, *objective.state_dict().values()]


def differ(one: list[Any], other: list[Any]) -> bool:
    return one[:3] != other[:3] or any(not torch.equal(a, b) for a, b in zip(one[3:], other[3:], strict=True))


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_changing_it_changes_the_training(name: str, option: str) -> None:
    given = CHANGED[(name, option) if (name, option) in CHANGED else option]
    assert not differ(two_steps(name, {}), two_steps(name, {})), "the same options train alike"
    assert differ(two_steps(name, {}), two_steps(name, {option: given}))
