"""Lets the tests here share a module of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "data")]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepares samples in this process, where fakes can tell what was asked of them."""
    monkeypatch.setattr("mmssl.data.in_workers.WORKERS", 0)
