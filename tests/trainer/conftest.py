"""Rows to fit, and a path to the modules that the tests here share."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import webdataset

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 12 rows of three numbers."""
    folder = tmp_path_factory.mktemp("rows")
    drawn = np.random.default_rng(0).normal(size=(24, 3))
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"part-{shard}.tar")) as writer:
            for number in range(12 * shard, 12 * shard + 12):
                stream = io.BytesIO()
                np.save(stream, drawn[number])
                writer.write({"__key__": f"{number:02d}", "row.npy": stream.getvalue()})
    return folder
