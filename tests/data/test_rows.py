"""How much a row takes in a tar."""

from __future__ import annotations

from pathlib import Path

from mmssl.data.rows import Row


def test_a_row_takes_its_bytes_and_a_kilobyte_for_each_field(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 300)
    a, gone = str(tmp_path / "a.jpg"), str(tmp_path / "gone.png")
    row = Row("k", {"jpg": (a, 0, None), "png": (gone, 0, None), "wav": (a, 5, 40)}, {"txt": "seven ."})
    assert row.size() == 300 + 0 + 40 + 7 + 4 * 1024
    assert Row("k").size() == 0
