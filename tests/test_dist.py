"""Collectives of two processes, and of one, against what one process would compute."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, two_processes: Callable[..., str]) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks") / "found"
    two_processes(Path(__file__).with_name("two_ranks.py"), out)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(2)]


def test_each_process_knows_its_place(ranks: list[dict[str, Any]]) -> None:
    assert [found["place"] for found in ranks] == [(0, 2, "cpu", True), (1, 2, "cpu", True)]
    assert [found["alone"][:3] for found in ranks] == [(0, 1, False)] * 2
    assert [float(found["alone"][3]) for found in ranks] == [1.0, 1.0]


def test_gathered_rows_carry_the_gradient_of_the_whole_batch(ranks: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    w = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    z = torch.randn(6, 3, dtype=torch.float64) @ w
    whole = torch.nn.functional.cross_entropy(z @ z.T, torch.arange(6))
    whole.backward()
    for found in ranks:
        torch.testing.assert_close(found["keys"], z.detach())
    torch.testing.assert_close((ranks[0]["loss"] + ranks[1]["loss"]) / 2, whole.detach())
    torch.testing.assert_close((ranks[0]["gradient"] + ranks[1]["gradient"]) / 2, w.grad)


@pytest.mark.parametrize("rank, begin", [(0, 0), (1, 3), (2, 4)])
@pytest.mark.parametrize("kind", [torch.float, torch.long])
def test_rows_of_all_processes_come_in_their_order(
    monkeypatch: pytest.MonkeyPatch, rank: int, begin: int, kind: torch.dtype
) -> None:
    everyone = [torch.arange(12).view(3, 2, 2), 100 + torch.arange(4).view(1, 2, 2), torch.zeros(0, 2, 2).long()]
    everyone = [x.to(kind) for x in everyone]
    asked = []

    def gather(x: Tensor) -> Tensor:
        """All processes' lengths, or their rows, padded with zeros to the longest."""
        asked.append("plain")
        if x.ndim == 1:
            assert x.tolist() == [len(everyone[rank])]
            return torch.tensor([3, 1, 0])
        assert x.shape == (3, 2, 2) and x[: len(everyone[rank])].equal(everyone[rank])
        assert not x[len(everyone[rank]) :].any()
        filled = [torch.cat([part, 77 * torch.ones(3 - len(part), 2, 2).to(kind)]) for part in everyone]
        return torch.cat(filled)

    def with_grad(x: Tensor) -> Tensor:
        found = gather(x)
        asked[-1] = "with_grad"
        return found

    monkeypatch.setattr(dist, "world", lambda: 3)
    monkeypatch.setattr(dist, "rank", lambda: rank)
    monkeypatch.setattr(dist, "gather", gather)
    monkeypatch.setattr(dist, "gather_with_grad", with_grad)
    rows, first = dist.gather_rows(everyone[rank])
    assert rows.equal(torch.cat(everyone)) and first == begin and isinstance(first, int)
    assert asked == ["plain", "with_grad" if kind == torch.float else "plain"]


def test_a_process_alone_has_its_own_rows() -> None:
    x = torch.rand(3, 2)
    rows, first = dist.gather_rows(x)
    assert rows is x and first == 0


def test_plain_values_are_gathered_in_order(ranks: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(ranks):
        assert found["rows"].tolist() == [[0.0, 1.0], [10.0, 11.0], [12.0, 13.0]]
        assert found["objects"] == [{"rank": 0}, {"rank": 1}]
        assert found["total"].tolist() == [3.0] and not found["total"].requires_grad
        assert found["mine"].tolist() == [1.0 + rank], "what is summed stays as it was"


def test_a_mean_over_the_rows_of_both(ranks: list[dict[str, Any]]) -> None:
    """Rank 0 has 1 that counts; rank 1 has 2, 4 and 8: together 15 / 4."""
    assert sum(float(found["mean"]) for found in ranks) / 2 == pytest.approx(15 / 4)
    assert ranks[0]["values"].tolist() == pytest.approx([2 / 4, 0, 0, 0])
    assert ranks[1]["values"].tolist() == pytest.approx([2 / 4, 2 / 4, 0, 2 / 4])
    nothing, whole, shares = zip(*(found["others"].tolist() for found in ranks), strict=True)
    assert nothing == (0.0, 0.0) and whole == (1.5, 3.0)
    assert sum(shares) / 2 == pytest.approx((0.25 + 1.0 + 0.5 + 2.0) / 1.5)
    for found in ranks:
        assert found["counts"].tolist() == [4.0, 0.0, 2.0, 1.5]


def test_the_largest_number_is_found_in_the_order_asked(ranks: list[dict[str, Any]]) -> None:
    assert [found["largest"] for found in ranks] == [(1, 3), (1, 3)]
    assert dist.start_max(2)() == 2


def test_one_process_is_alone() -> None:
    x = torch.ones(2, requires_grad=True)
    assert (dist.is_on(), dist.rank(), dist.world()) == (False, 0, 1)
    assert dist.gather_with_grad(x) is x and dist.gather(x) is x and dist.gather_objects("a") == ["a"]
    total = dist.total(x)
    assert total.tolist() == [1.0, 1.0] and not total.requires_grad and total.data_ptr() != x.data_ptr()
    dist.barrier()
    dist.stop()


@pytest.mark.parametrize(
    ("weight", "mean", "gradient"),
    [
        (None, 3.5, [0.5, 0.5]),
        ([True, True], 3.5, [0.5, 0.5]),
        ([False, True], 5.0, [0.0, 1.0]),
        ([False, False], 0.0, [0.0, 0.0]),
        ([1.0, 3.0], (2 + 15) / 4, [0.25, 0.75]),
    ],
)
def test_a_mean_of_one_process(weight: Any, mean: float, gradient: list[float]) -> None:
    values = torch.tensor([2.0, 5.0], requires_grad=True)
    found = dist.mean(values, None if weight is None else torch.tensor(weight))
    found.backward()
    assert float(found.detach()) == pytest.approx(mean) and values.grad.tolist() == pytest.approx(gradient)


def test_rows_that_do_not_weigh_may_be_no_numbers() -> None:
    values = torch.tensor([torch.inf, 5.0], requires_grad=True)
    dist.mean(values, torch.tensor([0, 1])).backward()
    assert values.grad.tolist() == [0.0, 1.0]


def test_rows_are_counted_only_inside() -> None:
    dist.note(1, torch.device("cpu"))
    with dist.counting() as counts:
        dist.note(3, torch.device("cpu"))
        dist.note(torch.tensor(2.5), torch.device("cpu"))
    dist.note(4, torch.device("cpu"))
    assert [float(count) for count in counts] == [3.0, 2.5] and counts[0].dtype == torch.float32


class Group:
    """Stands in for CUDA and the process group, and writes down what is asked."""

    def __init__(self, patch: pytest.MonkeyPatch, *, cuda: bool, **environment: str) -> None:
        self.asked: list[Any] = []
        patch.setattr(torch.cuda, "is_available", lambda: cuda)
        patch.setattr(torch.cuda, "device_count", lambda: 4 * cuda)
        patch.setattr(torch.cuda, "set_device", lambda device: self.asked.append(str(device)))
        patch.setattr(dist.td, "init_process_group", lambda name, **options: self.asked.append((name, options)))
        patch.setattr(dist.td, "new_group", lambda **options: self.asked.append(options))
        patch.setattr(dist.td.distributed_c10d, "_get_default_group", lambda: None)
        patch.setattr(dist, "Peers", lambda **options: self)
        for name in ("_JOINED", "_GROUPS"):
            patch.setattr(dist, name, [])
        for name in ("LOCAL_RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)

    server, rank, world = "store", 1, 2

    def meet(self) -> None:
        self.asked.append("met")

    def watch(self, progress: Callable[[], int]) -> None:
        self.asked.append("watched")


LATE = timedelta(seconds=90)
JOINED = {"store": "store", "rank": 1, "world_size": 2, "timeout": LATE}
NCCL = ["met", "watched", ("nccl", JOINED), {"backend": "gloo", "timeout": LATE}]


@pytest.mark.parametrize(
    ("device", "cuda", "environment", "chosen", "asked"),
    [
        (None, False, {}, "cpu", []),
        (None, True, {}, "cuda:0", ["cuda:0"]),
        (None, True, {"LOCAL_RANK": "3", "WORLD_SIZE": "4"}, "cuda:3", ["cuda:3", *NCCL]),
        ("cuda", True, {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "cuda:1", ["cuda:1", *NCCL]),
        ("cuda:2", True, {"LOCAL_RANK": "1"}, "cuda:2", ["cuda:2"]),
        ("cpu", True, {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "cpu", ["met", "watched", ("gloo", JOINED)]),
        (None, False, {"WORLD_SIZE": "1"}, "cpu", []),
    ],
)
def test_which_device_and_group(
    device: str | None,
    cuda: bool,
    environment: dict[str, str],
    chosen: str,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Group(monkeypatch, cuda=cuda, **environment)
    assert str(dist.start(device, timeout=30.0)) == chosen
    assert group.asked == asked


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(monkeypatch, cuda=True, LOCAL_RANK="4", WORLD_SIZE="5")
    with pytest.raises(UserError, match=r"process 4 of this machine .* cuda:4, .* 4 CUDA devices; .* train.device=cpu"):
        dist.start()
    assert not group.asked


def test_what_ends_a_process_is_told_to_the_others_before_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(monkeypatch, cuda=False, WORLD_SIZE="2")
    monkeypatch.setattr(group, "tell", group.asked.append, raising=False)
    monkeypatch.setattr(group, "close", lambda: group.asked.append("closed"), raising=False)
    fault = KeyError("bug")
    with pytest.raises(KeyError, match="bug"), dist.group("cpu") as device:
        assert str(device) == "cpu"
        raise fault
    assert group.asked[3:] == [fault, "closed"]
    group.asked.clear()
    with dist.group("cpu"):
        pass
    assert group.asked[3:] == ["closed"]


@pytest.mark.parametrize(
    ("device", "amx", "avx", "native", "able"),
    [
        ("cpu", False, False, True, False),
        ("cpu", True, False, False, True),
        ("cpu", False, True, False, True),
        ("cuda", False, False, True, True),
        ("cuda", True, True, False, False),
    ],
)
def test_who_computes_in_bf16(
    device: str, amx: bool, avx: bool, native: bool, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert dist.computes_bf16(torch.device(device)) is able


def test_leaving_says_what_was_said_and_gives_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, SimpleNamespace(flush=lambda name=name: said.append(name)))
    monkeypatch.setattr(os, "_exit", said.append)
    dist.leave(3)
    dist.leave()
    monkeypatch.undo()
    assert said == ["stdout", "stderr", 3, "stdout", "stderr", 0]
