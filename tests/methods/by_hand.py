"""A tiny encoder, and the plain formulas that tests of methods are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch, Encoder, Epoch, Features


class Tiny(Encoder):
    """Images of any size to 6 numbers; notes whether it was in training mode and with gradients."""

    modality = "image"
    dim = 6

    def __init__(self, *, size: int = 4) -> None:
        super().__init__()
        self.preprocess = ImagePreprocess(size=size)
        self.layer = nn.Conv2d(3, self.dim, 2, stride=2)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Features:
        self.seen.append((self.training, torch.is_grad_enabled()))
        return Features(self.layer(4 * x - 2).tanh().mean(dim=(2, 3)))


def pictures(sizes: Sequence[int], rows: int, *, absent: Sequence[int] = (), seed: int = 3) -> Batch:
    """A view of each size; samples `absent` have none, and stand anywhere in the training set."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor([row not in absent for row in range(rows)])
    colors = [torch.rand(rows, 3, 1, 1, generator=generator) for _ in sizes]
    views = [
        0.7 * color + 0.3 * torch.rand(rows, 3, size, size, generator=generator)
        for size, color in zip(sizes, colors, strict=True)
    ]
    return Batch({"image": views}, extra={"image_present": present, "index": torch.arange(rows) * 3 % 7})


def unasked() -> Iterator[Batch]:
    """Stands for what an objective may not look at."""
    pytest.fail("nothing of this is to be looked at")


def epoch(
    *,
    number: int = 0,
    batches: Callable[[], Iterator[Batch]] = unasked,
    sweep: Callable[[], Iterator[Batch]] = unasked,
) -> Epoch:
    """Returns a pass of which only what is given may be looked at."""
    return Epoch(number, batches, sweep)


def epoch_of(shown: Batch, *, index: Sequence[int], parts: int = 2) -> Epoch:
    """Returns a pass that shows the first view of a batch's samples under the numbers `index`, in so many batches."""
    whole = Batch({"image": shown.views["image"][:1]}, extra={**shown.extra, "index": torch.tensor(index)})

    def sweep() -> Iterator[Batch]:
        for rows in torch.arange(len(index)).chunk(parts):
            yield whole.map(lambda x, rows=rows: x[rows])

    return epoch(sweep=sweep)


@torch.no_grad()
def shake(*modules: nn.Module, by: float = 0.3) -> None:
    """Moves every weight, so that no bias is zero and no copy equals what it is a copy of."""
    for module in modules:
        for p in module.parameters():
            p.add_(by * torch.randn(p.shape))


def unit(x: Tensor) -> Tensor:
    """Rows of length 1."""
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()


def perceptron(
    head: nn.Module, x: Tensor, *, act: Callable[[Tensor], Tensor] = torch.relu, norm: bool = False
) -> Tensor:
    """What a head's linear layers make of x, with an activation between them, and BatchNorm of x's own statistics."""
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == (len(linear) - 1 if norm else 0) and linear[-1].bias is not None
    for number, layer in enumerate(linear[:-1]):
        x = F.linear(x, layer.weight, layer.bias)
        if norm:
            x = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
            x = x * norms[number].weight + norms[number].bias
        x = act(x)
    return F.linear(x, linear[-1].weight, linear[-1].bias)


def gradients(loss: Tensor, *modules: nn.Module) -> dict[str, Tensor | None]:
    """The gradient of every parameter of the modules, None where there is none."""
    named = {f"{i}.{name}": p for i, module in enumerate(modules) for name, p in module.named_parameters()}
    for p in named.values():
        p.grad = None
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in named.items()}


def same(found: Tensor, expected: Tensor, *modules: nn.Module) -> None:
    """Compares values, and gradients of all weights that learn; the others have none."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    mine, theirs = gradients(found, *modules), gradients(expected, *modules)
    moving = {f"{i}.{n}" for i, m in enumerate(modules) for n, p in m.named_parameters() if p.requires_grad}
    assert {name for name, g in mine.items() if g is not None} == moving
    for name in moving:
        wanted = theirs[name]
        assert wanted is not None, name
        torch.testing.assert_close(
            mine[name], wanted, rtol=1e-4, atol=1e-6, msg=lambda told, name=name: f"{name}: {told}"
        )


def defaults(kind: Callable[..., Any]) -> dict[str, Any]:
    """The options of a method's class and what they are by default."""
    options = inspect.signature(kind).parameters.values()
    return {o.name: o.default for o in options if o.kind is o.KEYWORD_ONLY}


def spread(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Sinkhorn-Knopp of scores (B, K), the sums of clusters and of samples divided out in turn, in double precision."""
    q = (scores.detach().double() / epsilon).exp()
    for _ in range(iterations):
        q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
    return (q * q.shape[0]).float()


def evenness(counts: Tensor) -> Tensor:
    """The entropy of shares over that of equal ones."""
    shares = counts[counts > 0] / counts.sum()
    return -(shares * shares.log()).sum() / torch.tensor(float(len(counts))).log()
