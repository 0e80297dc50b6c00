"""Two processes in one: what either does runs in a thread, and collectives hand tensors from one to the other.

Quick, so that what depends on rank and world is held without starting processes; those that do start are the proof.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from mmssl import dist

T = TypeVar("T")


def side_by_side(work: Callable[[int], T], monkeypatch: pytest.MonkeyPatch) -> list[T]:
    """Returns what `work` of rank 0 and of rank 1 return; it must draw no random numbers."""
    here, meet = threading.local(), threading.Barrier(2, timeout=60)
    given: list[Tensor] = [torch.zeros(())] * 2

    def exchange(x: Tensor) -> list[Tensor]:
        given[here.rank] = x
        meet.wait()
        both = list(given)
        meet.wait()
        return both

    def run(rank: int) -> T:
        here.rank = rank
        try:
            return work(rank)
        except BaseException:
            meet.abort()
            raise

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(dist, "rank", lambda: here.rank)
        patched.setattr(dist, "world", lambda: 2)
        patched.setattr(dist, "gather_with_grad", lambda x: torch.cat(exchange(x)))
        patched.setattr(dist, "gather", lambda x: torch.cat(exchange(x.detach())))
        patched.setattr(dist, "total", lambda x: sum(exchange(x.detach().clone()), start=torch.zeros_like(x)))
        return list(pool.map(run, range(2)))
