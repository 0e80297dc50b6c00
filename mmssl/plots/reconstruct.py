"""What a masked, inpainting or other drawing task makes of what it is shown, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError
from mmssl.evals.parts.pretext import show
from mmssl.evals.parts.report import no_samples_error
from mmssl.evals.parts.source import open_source
from mmssl.plots.canvas import Pixels, heat, scaled, tiles
from mmssl.types import Objective, Trained, evaluating

SIDE, FRAMES, ABREAST = 128, 6, 2  # pixels of a tile; frames of a video; images beside each other
TITLES = ("shown", "drawn", "truth")


def plot(
    trained: Trained,
    *,
    data: dict[str, Any],
    task: str | None = None,
    count: int = 8,
    seed: int = 0,
    view: dict[str, Any] | None = None,
) -> Iterator[tuple[str, Image.Image]]:
    """Draws what the task's view shows of samples, what the task makes of it, and the truth.

    Of images and sounds, as spectrograms, one picture; of each video one, with a row for each of the three.

    data: shards, or a folder of own files (`mmssl explain data`); of what the task learns from.
    task: which of the run's tasks, by default the only one that draws.
    count: samples, the first ones.
    seed: of views and masks.
    view: options of the task's view that are changed, such as view.image.crop.scale=[1, 1].
    """
    name = _task(trained, task)
    objective = trained.task(name).objective
    changed = view or {}
    _, batch = next(show(trained, name, open_source(data), seed=seed, batch=count, **changed), (None, None))
    if batch is None:
        raise no_samples_error(f"the data has no sample that the task {name!r} can be shown")
    with (
        torch.inference_mode(),
        evaluating(objective, *(trained.encoders[key] for key in objective.uses)),
        dist.alone(),
    ):
        found = objective.reconstruct(trained.encoders, batch)
    assert found is not None, "the task draws"
    rows = [[drawn(one, truth) for one, truth in zip(each, found.truth, strict=True)] for each in (
        found.shown, found.drawn, found.truth
    )]  # fmt: skip
    if found.truth.ndim == 4:
        starts = range(0, len(found.truth), ABREAST)
        whole = [[kind[n][0] for n in range(at, min(at + ABREAST, len(found.truth))) for kind in rows] for at in starts]
        yield "reconstruct", tiles(whole, titles=[TITLES * ABREAST] * len(whole))
        return
    for n in range(len(found.truth)):
        sheet = [rows[kind][n] for kind in range(3)]
        yield (
            f"reconstruct-{n:02d}",
            tiles(sheet, titles=[[title] * len(r) for title, r in zip(TITLES, sheet, strict=True)]),
        )


def _task(trained: Trained, asked: str | None) -> str:
    """Returns the task that draws; UserError where it does not, or where it is to be said which."""
    able = [key for key, task in trained.tasks.items() if type(task.objective).reconstruct is not Objective.reconstruct]
    if asked is not None:
        trained.task(asked)
    if not able or (asked is not None and asked not in able):
        there = ", ".join(trained.tasks) or "none, for this is no run"
        raise UserError(
            f"this needs a task that draws, such as mae, simmim, inpainting or autoencoder; the tasks are {there}"
        )
    if asked is None and len(able) > 1:
        raise UserError(f"the tasks {', '.join(able)} draw; say which with task=NAME")
    return asked or able[0]


def drawn(x: Tensor, truth: Tensor) -> list[Pixels]:
    """Makes pictures of an image (3, H, W), of frames of a video (3, T, H, W), or of a spectrogram (1, F, T), whose
    colours are those of the truth's values, low frequencies below.
    """
    x, truth = x.float().cpu(), truth.float().cpu()
    if len(x) == 1:
        low, high = truth.min(), truth.max()
        return [scaled(heat(x[0].flip(0).clamp(low, high).numpy(), limits=(float(low), float(high))), SIDE)]
    frames = (
        x[:, None] if x.ndim == 3 else x[:, np.linspace(0, x.shape[1] - 1, min(FRAMES, x.shape[1])).round().astype(int)]
    )
    pictures = (frames.clamp(0, 1) * 255).round().byte().permute(1, 2, 3, 0).numpy()
    return [scaled(picture, SIDE) for picture in pictures]
