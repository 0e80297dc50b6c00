"""Runs Triton's kernels on a CPU, in its interpreter, which conftest.py has chosen before anything imports Triton."""

from __future__ import annotations

import os

import pytest

from mmssl.numerics import kernels


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles here: test_cuda.py and the like hold the kernels")
    monkeypatch.setattr(kernels, "INTERPRETED", True)
