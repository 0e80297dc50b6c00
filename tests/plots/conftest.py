"""Lets the tests here share the module of samples in memory with those of evaluations."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "evals"))
