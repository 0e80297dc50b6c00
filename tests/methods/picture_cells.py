"""A small encoder for images, a batch with absent samples, and what compares an objective with its formula."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch, Encoder, Features, Loss

PRESENT = torch.tensor([True, False, True, True, True, False])


class PictureCells(Encoder):
    """Sees cells of 4 x 4 pixels on a grid; pooled is their mean."""

    modality = "image"

    def __init__(self, dim: int = 5, *, size: int = 16) -> None:
        super().__init__()
        self.dim, self.preprocess = dim, ImagePreprocess(size=size)
        self.layer = nn.Conv2d(3, dim, 4, stride=4)

    def forward(self, x: Tensor) -> Features:
        x = x / 255 if x.dtype == torch.uint8 else x
        cells = self.layer(4 * x).tanh()
        return Features(cells.mean((2, 3)), cells.flatten(2).mT, grid=tuple(cells.shape[2:]))


def pictures(views: int = 1, *, height: int = 8, width: int = 12) -> Batch:
    """Six samples, two of which are absent; images are wider than high."""
    drawn = torch.Generator().manual_seed(7)
    shape = (views, len(PRESENT), 3, height, width)
    shown = torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn)
    return Batch({"image": list(shown)}, None, {"image_present": PRESENT})


def compare(found: Tensor, expected: Tensor, *modules: nn.Module) -> None:
    """Compares two scalars and their gradients in the modules' weights: the same have some, and the same ones."""
    torch.testing.assert_close(found, expected, check_dtype=False)
    weights = {f"{type(m).__name__}.{name}": p for m in modules for name, p in m.named_parameters()}
    gradients = (
        torch.autograd.grad(x, list(weights.values()), retain_graph=True, allow_unused=True) for x in (found, expected)
    )
    for name, one, other in zip(weights, *gradients, strict=True):
        assert (one is None) == (other is None), f"{name}: a gradient where the other has none"
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def check_answered(loss: Loss, correct: Tensor, classes: int) -> None:
    """Compares what is told of answers (B,) with those that are right; samples that are absent tell nothing."""
    assert len(correct[PRESENT].unique()) > 1, "some of the answers must be right for this to tell anything"
    said = torch.where(PRESENT, correct.float(), torch.nan)
    torch.testing.assert_close(loss.answers["correct"], said, equal_nan=True)
    torch.testing.assert_close(loss.logs["accuracy"], correct[PRESENT].float().mean())
    torch.testing.assert_close(loss.logs["chance_loss"].exp(), torch.tensor(float(classes)))


def check_embedding(loss: Loss, pooled: Tensor, key: str = "image") -> None:
    """Compares what is handed to the monitors, which hold no graph."""
    torch.testing.assert_close(loss.embeddings[key], pooled.detach())
    assert not loss.embeddings[key].requires_grad


def defaults(kind: type) -> dict[str, Any]:
    """Returns the options that a class's own constructor names, as they are where nobody sets them."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
