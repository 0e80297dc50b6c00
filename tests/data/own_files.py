"""Users' files for tests: images, tables, and what a shard set holds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmssl.data.shards import Source


def png(color: int) -> bytes:
    """Returns a small image of one grey."""
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), color, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as CSV, TSV, JSONL or Parquet, as the path ends."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def samples(shards: Path, *keys: str) -> list[dict[str, Any]]:
    """Returns the wanted keys of every sample of a set, without what the reader adds."""
    found = Source(shards=str(shards)).samples(set(keys))
    return [{key: value for key, value in sample.items() if not key.startswith("__")} for sample in found]
