"""Plots of what a run has learnt, in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmssl import names, own, recipe
from mmssl.errors import UserError
from mmssl.evals.parts.report import reporting
from mmssl.loading import MODEL, home_of, load_run, open_encoders
from mmssl.types import Trained, evaluating

FRAME = 120  # ms of an animation's frame


def plot(
    run: str | Path,
    kind: str,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    trust_code: bool = False,
) -> list[Path]:
    """Plots one kind of images of what was trained (`mmssl list plots`) into `RUN/plots/KIND` and returns their paths.

    run: a run, an encoder's folder, a folder of transformers, or a name such as timm:vit_small_patch16_224, then with
        its published weights, and its plots under `runs`.
    overrides: the kind's options, such as `count=3` or `data.shards=...`; what they leave open is taken from the
        evaluation of the same name in the run's recipe. `model.pretrained=false` is of an encoder made by name.
    trust_code: allow the folder to name code outside mmssl.
    """
    make, _ = names.resolve("plots", kind)
    tree: dict[str, Any] = {}
    for override in overrides:
        recipe.override(tree, override)
    model = tree.pop(MODEL, None) or {}
    options: dict[str, Any] = {}
    home = Path(run)
    if (home / "recipe.yaml").is_file():
        if model:
            raise UserError(f"{run} says itself what its encoders are; leave {MODEL}.{next(iter(model))} out")
        trained = load_run(run, trust_code=trust_code)
        options = _options(make, kind, recipe.load(Path(run) / "recipe.yaml", trust_code=trust_code))
    else:
        trained, home = Trained(open_encoders(str(run), model, trust_code=trust_code)), home_of(str(run))
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] != MODEL:
            recipe.override(options, override)
    if "data" not in options:
        what = f"the recipe of {run} has no evaluation {kind!r}" if trained.tasks else f"{run} is no run"
        raise UserError(f"{what} to take data from; add data.shards=..., shards or a folder of own files")
    checked = names.check_options(make, options, where=kind, see=names.spelled("plots", kind))
    folder = Path(out) if out is not None else home / "plots" / own.title(kind)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        evaluating(*trained.encoders.values(), *(task.objective for task in trained.tasks.values())),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):
        with reporting() as report:
            paths = [_save(folder / name, drawn) for name, drawn in make(trained, **checked)]
        report.tell(kind)
        return paths


def _options(make: Any, kind: str, made: recipe.Recipe) -> dict[str, Any]:
    """Returns the options that the plot shares with the recipe's evaluation of its name, as that one was run."""
    known = names.options_of(make)
    for node in made.evals.values():
        if node["name"] == kind:
            judged = names.options_of(names.resolve("evals", kind)[0])
            stated = {key: given.default for key, given in judged.items() if given.default is not given.empty}
            return {key: value for key, value in {**stated, **node}.items() if key in known}
    return {}


def _save(stem: Path, drawn: Image.Image | list[Image.Image]) -> Path:
    """Writes a PNG, or a GIF of several frames."""
    if isinstance(drawn, Image.Image):
        path = stem.with_name(f"{stem.name}.png")
        drawn.save(path)
    else:
        path = stem.with_name(f"{stem.name}.gif")
        drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=FRAME, loop=0)
    return path
