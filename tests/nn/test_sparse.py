"""Sparse convolutions equal the dense ones at the occupied voxels, in value and gradient."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl.errors import UserError
from mmssl.nn import sparse, voxels
from mmssl.nn.sparse import RowNorm, SparseConv, choose_backend
from mmssl.nn.voxels import Sites
from mmssl.numerics import kernels

SIDE, CLOUDS = 8, 2
KINDS = [(k, 1, False) for k in (1, 3, 5)] + [(k, 2, turned) for k in (1, 2, 3) for turned in (False, True)]


def occupied(share: float) -> Sites:
    return Sites.of((torch.rand(CLOUDS, SIDE, SIDE, SIDE) < share).nonzero())[0]


def to_dense(x: Tensor, sites: Sites, side: int) -> Tensor:
    """Lays features out as (B, C, X, Y, Z), zero where nothing is."""
    grid = x.new_zeros(CLOUDS, side, side, side, x.shape[1])
    return grid.index_put(sites.coords.unbind(1), x).movedim(-1, 1)


def from_dense(grid: Tensor, sites: Sites) -> Tensor:
    return grid.movedim(1, -1)[sites.coords.unbind(1)]


def dense_convolution(conv: SparseConv, x: Tensor, sites: Sites) -> Tensor:
    k, stride, pad = conv.kernel, conv.stride, conv.kernel // 2 if conv.kernel % 2 else 0
    weight = conv.weight.unflatten(0, (k, k, k))  # (x, y, z, inputs, outputs)
    if conv.transposed:
        grid, extra = to_dense(x, sites.coarser(), SIDE // 2), 2 - k + 2 * pad if k < 3 else 1
        weight = weight.permute(3, 4, 0, 1, 2)
        return from_dense(F.conv_transpose3d(grid, weight, stride=2, padding=pad, output_padding=extra), sites)
    grid = F.conv3d(to_dense(x, sites, SIDE), weight.permute(4, 3, 0, 1, 2), stride=stride, padding=pad)
    return from_dense(grid, sites if stride == 1 else sites.coarser())


def check_equal(conv: SparseConv, sites: Sites) -> None:
    """As a CPU computes it, and as a GPU does."""
    conv = conv.double()
    rows = len(sites.coarser() if conv.transposed else sites)
    x = torch.randn(rows, conv.weight.shape[1], dtype=torch.float64, requires_grad=True)
    rules = sites.rules(conv.kernel, conv.stride, transposed=conv.transposed)
    ours = [conv(x, sites), sparse._Columns.apply(x, conv.weight, rules)]
    dense = dense_convolution(conv, x, sites)
    toward = torch.randn_like(dense)
    expected = torch.autograd.grad(dense, (x, conv.weight), toward)
    for found in ours:
        torch.testing.assert_close(found, dense)
        torch.testing.assert_close(torch.autograd.grad(found, (x, conv.weight), toward), expected)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("kernel, stride, transposed", KINDS)
def test_equals_the_dense_convolution_at_the_occupied_voxels(
    kernel: int, stride: int, transposed: bool, share: float
) -> None:
    check_equal(SparseConv(3, 4, kernel, stride=stride, transposed=transposed), occupied(share))


@pytest.mark.parametrize("kernel, stride, transposed", KINDS[1:])
def test_long_lists_of_pairs_are_taken_in_pieces(
    kernel: int, stride: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voxels, "CHUNK", 7)
    monkeypatch.setattr(sparse, "ELEMENTS", 9 * 3 * kernel**3)  # nine outputs at a time
    sites = occupied(0.5)
    check_equal(SparseConv(3, 4, kernel, stride=stride, transposed=transposed), sites)
    assert max(len(inputs) for _, inputs, _ in sites.rules(kernel, stride, transposed=transposed).steps) == 7


def test_single_precision_stays_within_1e5() -> None:
    sites, conv = occupied(0.4), SparseConv(16, 16)
    x = torch.randn(len(sites), 16)
    torch.testing.assert_close(conv(x, sites), dense_convolution(conv, x, sites), atol=1e-5, rtol=1e-5)


class Kernels(TorchDispatchMode):
    """Counts the operations of which a GPU launches a kernel each, by name; views and empty memory cost none."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "empty" not in func.__name__:
            self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return self.names["mm"] + self.names["addmm_"]


WAYS = ["_Pairs", "_Columns"]


@pytest.mark.parametrize(("to_x", "to_weight"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_only_asked_gradients_are_made(way: str, to_x: bool, to_weight: bool, stride: Literal[1, 2]) -> None:
    sites, conv = occupied(0.4), SparseConv(2, 2, stride=stride).requires_grad_(to_weight)
    x = torch.randn(len(sites), 2, requires_grad=to_x)
    rules = sites.rules(3, stride)
    loss = getattr(sparse, way).apply(x, conv.weight, rules).sum()
    with Kernels() as kernels:
        loss.backward()
    assert (x.grad is not None, conv.weight.grad is not None) == (to_x, to_weight)
    once = len(rules.steps) + (stride == 1) if way == "_Pairs" else 1  # the centre is no step
    assert kernels.products == once * (to_x + to_weight)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (5, 1), (2, 2)])
def test_a_gpu_is_asked_for_few_kernels(kernel: int, stride: Literal[1, 2]) -> None:
    """Whatever the kernel's size, where there is one gather for each offset there are hundreds; and no wait."""
    sites, conv = occupied(0.4), SparseConv(8, 8, kernel, stride=stride)
    x = torch.randn(len(sites), 8, requires_grad=True)
    sites.coarser()
    with Kernels() as searching:
        rules = sites.rules(kernel, stride)
        assert rules.columns is not None and rules.turned.columns is not None
    with Kernels() as forward:
        y = sparse._Columns.apply(x, conv.weight, rules)
    with Kernels() as backward:
        y.backward(torch.ones_like(y))
    for counted, most in ((searching, 60), (forward, 4), (backward, 12)):
        assert counted.names.total() <= most, counted.names
        assert not counted.names.keys() & {"nonzero", "_local_scalar_dense"}, "the host would wait"


def test_clouds_of_a_batch_do_not_meet() -> None:
    conv = SparseConv(2, 3).double()
    coords = torch.cat([torch.zeros(27, 1, dtype=torch.long), torch.ones(3, 3, 3).nonzero()], dim=1)
    one, both = Sites.of(coords)[0], Sites.of(torch.cat([coords, coords + torch.tensor([1, 0, 0, 0])]))[0]
    x, y = torch.randn(2, 27, 2, dtype=torch.float64)
    torch.testing.assert_close(conv(torch.cat([x, y]), both), torch.cat([conv(x, one), conv(y, one)]))


def test_nothing_in_gives_nothing_out() -> None:
    sites = Sites.of(torch.zeros(0, 4, dtype=torch.long))[0]
    assert SparseConv(2, 3)(torch.zeros(0, 2), sites).shape == (0, 3)
    assert SparseConv(2, 3, 2, stride=2)(torch.zeros(0, 2), sites).shape == (0, 3)


def test_stride_one_takes_odd_kernels_only() -> None:
    with pytest.raises(UserError, match="kernel 2 needs stride 2"):
        SparseConv(2, 2, 2)
    with pytest.raises(UserError, match="kernel 3 needs stride 2"):
        SparseConv(2, 2, 3, transposed=True)
    assert SparseConv(2, 2).kernel == 3


@pytest.mark.parametrize(("kernel", "outputs"), [(3, 40), (2, 90)])
def test_weights_begin_as_he_and_others_say_for_the_fan_out(kernel: int, outputs: int) -> None:
    weight = SparseConv(50, outputs, kernel, stride=2).weight
    assert weight.shape == (kernel**3, 50, outputs)
    assert weight.std().item() == pytest.approx((2 / (kernel**3 * outputs)) ** 0.5, rel=0.02)
    assert weight.mean().abs() < 0.02 * weight.std()


@pytest.mark.parametrize("way", WAYS)
def test_sums_are_in_float32_at_least(way: str) -> None:
    """One and 2^-9 a hundred times over: in bfloat16 a sum would stay at 1."""
    sites = Sites.of(torch.tensor([[0, x, y, z] for x in range(3) for y in range(3) for z in range(3)]))[0]
    conv = SparseConv(1, 1).to(torch.bfloat16)
    with torch.no_grad():
        conv.weight.fill_(2**-9)
        conv.weight[13] = 1
    x = torch.ones(27, 1, dtype=torch.bfloat16, requires_grad=True)
    y = getattr(sparse, way).apply(x, conv.weight, sites.rules(3))
    assert y.dtype == torch.bfloat16 and y[13].item() == pytest.approx(1 + 26 / 512, abs=0.004)
    y[13].backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16 and x.grad[0].item() == 2**-9


def test_one_pair_of_voxels_by_hand() -> None:
    """Two neighbours along z: each sees itself by the middle weight and the other by the one beside it."""
    sites = Sites.of(torch.tensor([[0, 5, 5, 5], [0, 5, 5, 6], [0, 9, 9, 9]]))[0]
    conv = SparseConv(1, 1)
    conv.weight.data = torch.arange(27.0).view(27, 1, 1)
    out = conv(torch.tensor([[1.0], [10.0], [100.0]]), sites)
    assert out[:, 0].tolist() == [13 * 1 + 14 * 10, 13 * 10 + 12 * 1, 1300]
    down = SparseConv(1, 1, 2, stride=2)
    down.weight.data = torch.arange(8.0).view(8, 1, 1)
    out = down(torch.tensor([[1.0], [10.0], [100.0]]), sites)  # (5, 5, 5) is corner 7 of (2, 2, 2), ...
    assert out[:, 0].tolist() == [7 * 1, 6 * 10, 7 * 100]


@pytest.mark.parametrize("kernel", [1, 3])
def test_autocast_is_followed(kernel: int) -> None:
    sites, conv = occupied(0.4), SparseConv(8, 8, kernel)
    x = torch.randn(len(sites), 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x, sites)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), conv(x, sites), atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32 and conv.weight.grad is not None


def test_normalisation_takes_rows_and_a_single_one_too() -> None:
    norm, plain, x = RowNorm(4), torch.nn.BatchNorm1d(4), torch.randn(9, 4)
    with torch.no_grad():
        norm.weight += torch.rand(4)
        norm.bias += torch.rand(4)
    plain.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), plain(x))
    torch.testing.assert_close(norm(x[:2]), plain(x[:2]))
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm(x[:1]), plain.eval()(x[:1]))
    torch.testing.assert_close(norm.running_mean, before)


def test_a_missing_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.nn.sparse.find_spec", lambda name: None)
    conv = SparseConv(2, 2)
    choose_backend(conv, "auto")
    assert not conv.spconv
    with pytest.raises(UserError, match="spconv is not installed"):
        choose_backend(conv, "spconv")
    choose_backend(conv, "torch")
    assert not conv.spconv


@pytest.mark.parametrize(("backend", "used"), [("auto", True), ("spconv", True), ("torch", False)])
def test_the_chosen_backend_reaches_every_convolution(
    backend: Any, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmssl.nn.sparse.find_spec", lambda name: name == "spconv" or None)
    network = torch.nn.Sequential(SparseConv(2, 2), torch.nn.Sequential(RowNorm(2), SparseConv(2, 2, 2, stride=2)))
    assert not network[0].spconv, "plain PyTorch, unless it is chosen"
    choose_backend(network, backend)
    assert network[0].spconv == network[1][1].spconv == used


class OnGpu(Tensor):
    """A tensor that says it lies on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def test_each_device_has_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    sites, conv = occupied(0.3), SparseConv(3, 3)
    here = torch.randn(len(sites), 3)
    there = here.as_subclass(OnGpu)

    def ask(name: str, x: Tensor, weight: Tensor, rules: Any) -> Tensor:
        assert weight is conv.weight and rules is sites.rules(3)
        asked.append(name)
        return x

    for name in (*WAYS, "_Gathered"):
        monkeypatch.setattr(sparse, name, SimpleNamespace(apply=partial(ask, name)))
    monkeypatch.setattr(sparse, "_spconv", partial(ask, "_spconv"))
    for conv.spconv, triton in itertools.product((False, True), repeat=2):
        monkeypatch.setattr(kernels, "_installed", lambda triton=triton: triton)
        for x in (here, there):
            assert conv(x, sites) is x
    assert asked == ["_Pairs", "_Columns", "_Pairs", "_Gathered", *["_Pairs", "_spconv"] * 2]


@pytest.mark.parametrize("kernel, stride, transposed", [(3, 1, False), (2, 2, False), (2, 2, True)])
def test_spconv_is_given_the_rules_as_its_functions_read_them(
    kernel: int, stride: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for spconv multiplies pair by pair; its submanifold convolution does the centre itself."""

    def indice_conv(x: Tensor, weight: Tensor, pairs: Tensor, counts: Tensor, rows: int, algorithm: str) -> Tensor:
        assert algorithm == "native" and not torch.is_autocast_enabled("cpu")
        assert x.dtype == weight.dtype == torch.float32 and weight.is_contiguous()
        out = torch.zeros(rows, len(weight))
        for offset, count in enumerate(counts.tolist()):
            for i, j in pairs[:, offset, :count].T.tolist():
                out[j] += weight[:, offset] @ x[i]
        return out

    def indice_subm_conv(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        return indice_conv(x, weight, *rest) + x @ weight[:, weight.shape[1] // 2].T

    functional = SimpleNamespace(indice_conv=indice_conv, indice_subm_conv=indice_subm_conv)
    monkeypatch.setitem(sys.modules, "spconv", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "spconv.core", SimpleNamespace(ConvAlgo=SimpleNamespace(Native="native")))
    monkeypatch.setitem(sys.modules, "spconv.pytorch", SimpleNamespace(functional=functional))
    sites, conv = occupied(0.3), SparseConv(3, 4, kernel, stride=stride, transposed=transposed)
    rules = sites.rules(kernel, stride, transposed=transposed)
    x = torch.randn(len(sites.coarser() if transposed else sites), 3)
    torch.testing.assert_close(sparse._spconv(x, conv.weight, rules), dense_convolution(conv, x, sites))
    with torch.autocast("cpu", torch.bfloat16):
        half = sparse._spconv(x.bfloat16(), conv.weight.bfloat16(), rules)
    assert half.dtype == torch.bfloat16
    far = Sites.of(torch.tensor([[0, 1, 1, 1], [0, 9, 9, 9]]))[0]  # no neighbours: no pairs to give
    one = SparseConv(3, 4)
    torch.testing.assert_close(sparse._spconv(x[:2], one.weight, far.rules(3)), x[:2] @ one.weight[13])


def on_cuda(kernel: int, stride: Literal[1, 2], transposed: bool) -> tuple[SparseConv, Tensor, Sites]:
    sites = Sites(occupied(0.4).keys.cuda())
    conv = SparseConv(16, 32, kernel, stride=stride, transposed=transposed).cuda()
    return (
        conv,
        torch.randn(len(sites.coarser() if transposed else sites), 16, device="cuda", requires_grad=True),
        sites,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kernel, stride, transposed", KINDS)
def test_a_gpu_equals_a_cpu(kernel: int, stride: Literal[1, 2], transposed: bool, dtype: torch.dtype) -> None:
    conv, x, sites = on_cuda(kernel, stride, transposed)
    answers = []
    for device in ("cuda", "cpu"):
        place, y = Sites(sites.keys.to(device)), x.detach().to(device, dtype).requires_grad_()
        own = conv.to(device, dtype)
        out = own(y, place)
        answers.append([z.cpu() for z in (out, *torch.autograd.grad(out.square().sum(), (y, own.weight)))])
    for mine, expected in zip(*answers, strict=True):
        scale = 1e-9 if dtype == torch.float64 else 0.05 * float(expected.detach().abs().max())
        torch.testing.assert_close(mine, expected, atol=scale, rtol=1e-9 if dtype == torch.float64 else 0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_convolution_never_waits_for_the_device() -> None:
    conv, x, sites = on_cuda(3, 1, False)
    for quiet in (False, True):  # the first step may set things up
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                conv(x, Sites(sites.keys)).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not (find_spec("spconv") and torch.cuda.is_available()), reason="needs spconv and CUDA")
@pytest.mark.parametrize("kernel, stride, transposed", KINDS)
def test_spconv_equals_plain_pytorch(kernel: int, stride: Literal[1, 2], transposed: bool) -> None:
    conv, x, sites = on_cuda(kernel, stride, transposed)
    answers = []
    for backend in ("torch", "spconv"):
        choose_backend(conv, backend)
        y = conv(x, sites)
        answers.append((y, *torch.autograd.grad(y.square().sum(), (x, conv.weight))))
    for mine, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
