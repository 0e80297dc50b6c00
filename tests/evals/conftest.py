"""Lets the tests here share a module of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "parts"), str(HERE.parent / "data")]


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepares samples in this process, where fakes can tell what was asked of them."""
    monkeypatch.setattr("mmssl.data.in_workers.WORKERS", 0)
