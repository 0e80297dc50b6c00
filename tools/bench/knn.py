"""Measures the kNN evaluation beside a bare product with topk, and beside faiss, on the same features.

python tools/bench/knn.py, on one core; needs faiss-cpu. The features are normalised, which only ours does besides;
faiss's index is built before. The OpenBLAS of faiss's wheel takes processors that it does not know for very old ones,
and then needs four times as long, so that it is told about AVX-512.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from timing import Row, compare, show
from torch.nn import functional as F

from mmssl.evals.knn import votes

QUERIES, BANK, DIM, K = 512, 100_000, 384, 200


def rows() -> Iterator[Row]:
    """Yields one search with its votes beside both peers, and three ks beside one."""
    info = Path("/proc/cpuinfo")
    if info.is_file() and " avx512bw " in info.read_text():
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    bank, queries = (F.normalize(torch.randn(n, DIM, generator=generator), dim=1) for n in (BANK, QUERIES))
    labels = torch.randint(100, (BANK,), generator=generator)
    index = faiss.IndexFlatIP(DIM)
    index.add(bank.numpy())

    def ours(*ks: int) -> object:
        return votes(bank, labels, queries, ks=ks, temperature=0.07)

    def product() -> torch.Tensor:
        return queries @ bank.T

    work = f"kNN {QUERIES} x {BANK:,} x {DIM}, k = {K}"
    given = {"bound": product, "bound_by": "the product alone"}
    yield compare(work, lambda: ours(K), lambda: product().topk(K, dim=1), against="matmul + topk", **given)
    yield compare(work, lambda: ours(K), lambda: index.search(queries.numpy(), K), against="faiss", **given)
    yield compare(f"{work}, 20 and 5", lambda: ours(5, 20, K), lambda: ours(K), against="one k", **given)


if __name__ == "__main__":
    show(rows())
