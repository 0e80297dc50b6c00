"""Near duplicates: by hand, and against faiss's range search."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mmssl import cli
from mmssl.errors import UserError
from mmssl.features import dedupe
from mmssl.features.dedupe import near_duplicates
from mmssl.features.files import Table


def at(*degrees: float) -> Table:
    """Returns vectors of two numbers and any length at these angles."""
    angles = np.radians(degrees)
    lengths = 1 + np.arange(len(degrees))[:, None]
    rows = lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Table(rows.astype(np.float32), [f"{angle:g}" for angle in degrees])


def test_by_hand() -> None:
    """10 degrees are a cosine of 0.985, 20 of 0.940; a chain does not drop what resembles nothing that is kept."""
    found = near_duplicates(at(0, 7, 16, 90, 98, 89, 9), 0.985)
    assert found.keep() == [0, 2, 3]
    assert found.groups() == {0: [1], 2: [6], 3: [5, 4]}
    assert found.similarity[4] == pytest.approx(np.cos(np.radians(8)), abs=1e-6)
    scaled = np.random.default_rng(0).normal(size=(20, 1, 50)) * np.array([1, 3, 7.7])[None, :, None]
    same = Table(scaled.reshape(60, 50).astype(np.float32), list(map(str, range(60))))
    assert near_duplicates(same, 1.0).keep() == list(range(0, 60, 3))  # whatever the rounding of their cosines
    assert near_duplicates(at(0, 1, 2), 1.0).keep() == [0, 1, 2]
    for threshold in (0, 1.01, float("nan")):
        with pytest.raises(UserError, match="expected a cosine above 0, at most 1"):
            near_duplicates(at(0), threshold)


@pytest.mark.parametrize("block, tile", [(1024, 16_384), (7, 20)])
def test_as_range_search_of_faiss_has_it(block: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(dedupe, "BLOCK", block)
    monkeypatch.setattr(dedupe, "TILE", tile)
    random = np.random.default_rng(1)
    rows = random.normal(size=(30, 6))[random.integers(0, 30, 300)] + 0.2 * random.normal(size=(300, 6))
    table = Table(rows.astype(np.float32), list(map(str, range(300))))
    found = near_duplicates(table, 0.95)
    unit = rows.astype(np.float32) / np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    index = faiss.IndexFlatIP(6)
    index.add(unit)
    limits, cosines, places = index.range_search(unit, 0.95)
    kept: dict[int, tuple[float, int]] = {}
    for row in range(300):
        near = zip(cosines[limits[row] : limits[row + 1]], places[limits[row] : limits[row + 1]], strict=True)
        among = [(float(c), int(place)) for c, place in near if place < row and kept[place][1] == place]
        kept[row] = max(among) if among else (1.0, row)
    assert found.kept.tolist() == [kept[row][1] for row in range(300)] and 30 <= len(found.keep()) < 250
    np.testing.assert_allclose(found.similarity, [kept[row][0] for row in range(300)], atol=1e-5)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "f.npy", at(0, 90, 1, 91, 45).features)
    (tmp_path / "f.npy.names.csv").write_text(
        "name,start,end\n" + "".join(f"film{i % 2}.mp4,{i}.0,{i + 1}.5\n" for i in range(5))
    )
    call = ["dedupe", str(tmp_path / "f.npy"), "--threshold", "0.99", "--quiet"]
    assert cli.main([*call, "--keep", str(tmp_path / "keep.txt"), "--out", str(tmp_path / "groups.csv")]) == 0
    assert capsys.readouterr().out == "5 rows: 3 kept, 2 near duplicates in 2 groups (cosine >= 0.99)\n"
    assert (tmp_path / "keep.txt").read_text() == "film0.mp4\t0.0\t1.5\nfilm1.mp4\t1.0\t2.5\nfilm0.mp4\t4.0\t5.5\n"
    lines = list(csv.DictReader((tmp_path / "groups.csv").read_text().splitlines()))
    assert [(x["group"], x["keep"], x["name"], x["start"]) for x in lines] == [
        ("0", "1", "film0.mp4", "0.0"),
        ("0", "0", "film0.mp4", "2.0"),
        ("1", "1", "film1.mp4", "1.0"),
        ("1", "0", "film1.mp4", "3.0"),
    ]
    assert cli.main([*call, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kept"] == 3 and told["groups"][0]["keep"] == {"name": "film0.mp4", "start": 0.0, "end": 1.5}
    assert told["groups"][0]["duplicates"][0]["similarity"] == pytest.approx(np.cos(np.radians(1)), abs=1e-6)
    assert cli.main(call) == 0
    assert "film0.mp4 0:00-0:01.5\n  0.9998  film0.mp4 0:02-0:03.5\n" in capsys.readouterr().out
