"""Triton's kernels for sparse convolutions, interpreted on a CPU, against the sum over offsets in float64."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmssl.nn.sparse import SparseConv
from mmssl.nn.voxels import Rulebook, Sites

sys.path.insert(0, str(Path(__file__).parents[1]))
from interpreted import interpreted as interpreted  # a fixture


def by_hand(x: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
    """For each output the sum over offsets of input times weight."""
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return torch.einsum("kmc,kcd->md", padded[rules.table], weight)


@pytest.mark.parametrize(
    ("kernel", "stride", "transposed", "inputs", "outputs"),
    [(3, 1, False, 40, 70), (5, 1, False, 1, 3), (2, 2, False, 70, 33), (2, 2, True, 33, 90)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_outputs_and_gradients(
    interpreted: None,
    kernel: int,
    stride: int,
    transposed: bool,
    inputs: int,
    outputs: int,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    coords = torch.cat([torch.randint(0, 2, (500, 1)), torch.randint(0, 8, (500, 3))], dim=1)
    sites, _ = Sites.of(torch.unique(coords, dim=0))
    conv = SparseConv(inputs, outputs, kernel, stride=stride, transposed=transposed)  # type: ignore[arg-type]
    x = torch.randn(len(sites.coarser() if transposed else sites), inputs).to(dtype).requires_grad_()
    exact = [x.detach().double().requires_grad_(), conv.weight.detach().to(dtype).double().requires_grad_()]
    mine = conv(x, sites)
    right = by_hand(*exact, sites.rules(kernel, stride, transposed=transposed))
    assert mine.dtype == dtype and "Gathered" in type(mine.grad_fn).__name__
    share = torch.randn_like(right).to(dtype)
    found = [mine, *torch.autograd.grad(mine, (x, conv.weight), share)]
    expected = [right, *torch.autograd.grad(right, exact, share.double())]
    tolerance = 2e-6 if dtype == torch.float32 else 2e-3
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other).detach().abs().max()) < tolerance * float(other.detach().abs().max())
