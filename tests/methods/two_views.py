"""A tiny encoder on vectors, batches of views of them, and comparisons with a formula in value and gradient."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.types import Batch, Encoder, Features, Loss

ROWS, INPUTS, DIM = 6, 5, 7
HERE = torch.tensor([True, False, True, True, False, True])  # the samples that have the modality
INDEX = torch.tensor([4, 0, 9, 2, 5, 7])  # their numbers in a training set of ten
SAMPLES = 10


class Tiny(Encoder):
    """A layer and BatchNorm, which tells whether views pass one by one."""

    modality = "pulse"

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.dim = dim
        self.layer, self.norm = nn.Linear(INPUTS, dim), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Features:
        return Features(self.norm(self.layer(x)))


def two_encoders() -> dict[str, Encoder]:
    """Two encoders, of which a method is to take `pulse`."""
    return {"other": Tiny(3), "pulse": Tiny()}


def shown(views: int = 3, present: Tensor = HERE) -> Batch:
    """So many views of six samples of either encoder's, of which some are absent."""
    made = {key: [torch.randn(ROWS, INPUTS) for _ in range(views)] for key in ("other", "pulse")}
    return Batch(made, extra={"pulse_present": present, "other_present": ~present, "index": INDEX})


def stir(*modules: nn.Module) -> None:
    """Moves every weight, so that biases are not zero, scales not one, and a teacher lags behind."""
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.add_(0.3 * torch.randn_like(weight))


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()


def pick_own(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of key i for query i, the mean over queries."""
    return F.cross_entropy(queries @ keys.T / temperature, torch.arange(len(queries)))


def same(ours: Tensor, formula: Tensor, *modules: nn.Module) -> None:
    """Compares values, and the gradients of all weights of the modules that have one."""
    torch.testing.assert_close(ours, formula, rtol=1e-4, atol=1e-5)
    weights = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    leaves = [p for _, p in weights]
    found, expected = (
        torch.autograd.grad(x, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        for x in (ours, formula)
    )
    for (name, _), mine, theirs in zip(weights, found, expected, strict=True):
        noise = max(1e-5, 3e-4 * float(theirs.abs().max()))  # of sums in another order, which processors choose
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=noise, msg=lambda m, n=name: f"{n}: {m}")


def outline(layers: Iterable[nn.Module]) -> list[str]:
    """Describes a perceptron layer by layer: `5-7`, `5-7 +bias`, `norm`, `norm, bare`, `relu`."""

    def one(layer: nn.Module) -> str:
        if isinstance(layer, nn.Linear):
            return f"{layer.in_features}-{layer.out_features}" + (" +bias" if layer.bias is not None else "")
        if isinstance(layer, nn.BatchNorm1d):
            return "norm" if layer.affine else "norm, bare"
        return type(layer).__name__.lower()

    return [one(layer) for layer in layers]


def defaults(made: type) -> dict[str, Any]:
    """Returns option -> default of a class, and of its bases where it passes the rest on."""
    given: dict[str, Any] = {}
    for kind in inspect.getmro(made):
        if "__init__" in vars(kind):
            options = inspect.signature(kind).parameters.values()
            given = {p.name: p.default for p in options if p.kind is p.KEYWORD_ONLY} | given
            if all(p.kind is not p.VAR_KEYWORD for p in options):
                break
    return given


def detached(loss: Loss, key: str, expected: Tensor) -> None:
    """Holds what is monitored: one embedding, without a gradient."""
    assert set(loss.embeddings) == {key} and not loss.embeddings[key].requires_grad
    torch.testing.assert_close(loss.embeddings[key], expected.detach())


def follows(slow: nn.Module, before: dict[str, Tensor], fast: nn.Module, decay: float) -> None:
    """Holds a moving average of weights, and copied statistics, to what the two were before."""
    model = dict(fast.named_parameters())
    for name, weight in slow.named_parameters():
        torch.testing.assert_close(weight, decay * before[name] + (1 - decay) * model[name])
    for (name, mine), theirs in zip(slow.named_buffers(), fast.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of a module's state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def nce_by_hand(queries: Tensor, rows: Tensor, own: Tensor, drawn: Tensor, log_z: Tensor, temperature: float) -> Tensor:
    """Gutmann and Hyvarinen's estimate as NPID has it (Wu et al., CVPR 2018), a loss for each query.

    P(i|v) = exp(v_i v / t) / Z; h(i, v) = P / (P + m / n); -log h(own) - sum over the m drawn of log(1 - h).
    """
    losses, share = [], len(drawn) / len(rows)
    for query, mine in zip(queries, own, strict=True):
        chance = (rows @ query / temperature).exp() / log_z.exp()
        known = chance / (chance + share)
        losses.append(-known[mine].log() - sum((1 - known[other]).log() for other in drawn))
    return torch.stack(losses)


def first_draw(negatives: int, writes: int = 0) -> Tensor:
    """The bank's draw of rows after so many writes."""
    return torch.randint(SAMPLES, (negatives,), generator=torch.Generator().manual_seed(writes))


def normaliser(queries: Tensor, rows: Tensor, drawn: Tensor, temperature: float) -> Tensor:
    """The logarithm of Z: n times the mean of exp over a batch's queries and the rows drawn (Wu et al.)."""
    return (len(rows) * (queries @ rows[drawn].T / temperature).exp().mean()).log().detach()
