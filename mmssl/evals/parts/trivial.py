"""What a linear model answers from trivial features: the baseline that learning has to beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.numerics.color import as_unit
from mmssl.types import Ragged

DECAY = 1e-2  # on the squared weights of standardised features


def linear_answers(features: Tensor, labels: Tensor, *, groups: Tensor | None = None, folds: int = 5) -> Tensor:
    """Tells whether a logistic regression that was fitted to the other folds answers each row right: (N,) 1 or 0.

    features (N, F), labels (N,) whole numbers. groups (N,): rows of one group stay in one fold, so that a clip that
    is asked about twice does not answer for itself; without it each row is a group. Folds are drawn from a fixed seed.
    """
    number = torch.arange(len(labels)) if groups is None else groups.unique(return_inverse=True)[1]
    classes, answer = labels.unique(return_inverse=True)
    of_group = torch.randperm(int(number.max()) + 1, generator=torch.Generator().manual_seed(0)) % folds
    fold = of_group[number.cpu()]
    right = torch.zeros(len(labels))
    for part in range(min(folds, len(of_group))):
        held = fold == part
        if held.any() and not held.all():
            scores = _fitted(features[~held].double(), answer[~held], features[held].double(), len(classes))
            right[held] = (scores.argmax(dim=1) == answer[held]).float().cpu()
    return right


@torch.inference_mode(False)  # evaluations run without gradients, but fitting needs them
@torch.enable_grad()
def _fitted(train: Tensor, answer: Tensor, test: Tensor, classes: int) -> Tensor:
    """Fits multinomial logistic regression to rows (N, F) and returns the scores (M, classes) of others."""
    train, answer, test = train.clone(), answer.clone(), test.clone()  # tensors of inference mode take no gradient
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0)
    train, test = ((x - mean) / deviation.clamp(min=1e-8) for x in (train, test))
    weight = train.new_zeros(train.shape[1] + 1, classes, requires_grad=True)  # the last row is the bias
    optimizer = torch.optim.LBFGS([weight], max_iter=100, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(train @ weight[:-1] + weight[-1], answer) + DECAY * weight[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return (test @ weight[:-1] + weight[-1]).detach()


def statistics(views: dict[str, list[Any]]) -> dict[str, Tensor]:
    """Returns of each modality but text low-level statistics (B, F): what a shortcut could be made of.

    Of every image, still or a frame: mean of each channel, contrast, energy of gradients; and how far any two
    images of a sample differ in each. Of sound: loudness in eighths of the window, and zero crossings. Of clouds:
    number of points, mean and spread of each column.
    """
    found: dict[str, list[Tensor]] = {}
    for key, several in views.items():
        kind = key.partition("_")[0]
        if kind in ("image", "video"):
            pictures = [view if view.ndim == 5 else view[:, :, None] for view in several]
            found[key] = [_of_pictures(torch.cat(pictures, dim=2))]
        elif kind == "audio":
            found[key] = [_of_sound(view) for view in several]
        elif kind == "points":
            found[key] = [_of_points(view) for view in several]
    return {key: torch.cat(parts, dim=1) for key, parts in found.items()}


def _of_pictures(pictures: Tensor) -> Tensor:
    """Describes images (B, 3, T, H, W), uint8 or up to 1: (B, F)."""
    x = as_unit(pictures).float()
    grey = x.mean(dim=1)
    gradient = (grey.diff(dim=-1).square().mean((-1, -2)) + grey.diff(dim=-2).square().mean((-1, -2))).sqrt()
    each = torch.stack([*x.mean((-1, -2)).unbind(1), grey.std((-1, -2)), gradient], dim=1)  # (B, 5, T)
    one, other = torch.triu_indices(each.shape[2], each.shape[2], offset=1)
    return torch.cat([each, (each[..., one] - each[..., other]).abs()], dim=2).flatten(1)


def _of_sound(samples: Tensor) -> Tensor:
    """Describes sound (B, samples): loudness course and zero crossings (B, 9)."""
    parts = samples.float().tensor_split(8, dim=1)
    loudness = [part.square().mean(dim=1).clamp(min=1e-10).log() for part in parts]
    return torch.stack([*loudness, (samples.sign().diff(dim=1) != 0).float().mean(dim=1)], dim=1)


def _of_points(points: Ragged) -> Tensor:
    """Describes packed clouds (sum N, C): (B, 1 + 2 C)."""
    clouds = points.split()
    return torch.stack([torch.cat([c.new_tensor([len(c)]), c.mean(0), c.std(0, correction=0)]) for c in clouds])
