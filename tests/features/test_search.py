"""Searching features by words and files, exactly and with faiss."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssl import cli
from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.errors import UserError
from mmssl.features.ann import build_index
from mmssl.features.encode import encode_data
from mmssl.features.files import Table, beside, clock, read_features
from mmssl.features.search import search


@pytest.fixture(scope="module")
def features(both: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features") / "f.npy"
    return encode_data(str(both), str(photos), out, space="clip", encoder="image", workers=0, progress=False).path


def test_words_and_pictures_find_what_is_nearest(features: Path, both: Path, photos: Path) -> None:
    for key, query in (("text", "a red cube"), ("image", photos / "b" / "3.png")):
        vector = load_encoder(both / "encoders" / key).encode([query], space="clip")[0].numpy()
        table, hits = search(features, query, k=4)
        cosines = table.features @ vector / np.linalg.norm(table.features, axis=1) / np.linalg.norm(vector)
        order = np.argsort(-cosines)[:4]
        assert [hit.row for hit in hits] == order.tolist()
        np.testing.assert_allclose([hit.similarity for hit in hits], cosines[order], rtol=1e-5)
    assert table.names[hits[0].row] == "b/3.png" and hits[0].similarity == pytest.approx(1, abs=1e-5)
    assert len(search(features, "a red cube", k=50)[1]) == 7


def test_what_cannot_be_compared_is_said(features: Path, both: Path, photos: Path, tmp_path: Path) -> None:
    pooled = tmp_path / "pooled.npy"
    encode_data(str(both), str(photos), pooled, encoder="image", workers=0, progress=False)
    assert search(pooled, photos / "a" / "2.png", k=1)[0].names[search(pooled, photos / "a" / "2.png")[1][0].row]
    with pytest.raises(UserError, match=r"query is of text, .* pooled features.*make: image \(of image\); .* --space"):
        search(pooled, "a red cube")
    with pytest.raises(UserError, match=r"there is no file 'gone\.png'"):
        search(features, "gone.png")
    with pytest.raises(UserError, match="no encoder 'txt'; did you mean 'text'"):
        search(features, "a cube", encoder="txt")
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(UserError, match="query is of audio"):
        search(features, tmp_path / "a.wav")


def test_a_model_that_was_trained_since_is_refused(features: Path, both: Path, tmp_path: Path) -> None:
    for key in ("image", "text"):
        encoder = load_encoder(both / "encoders" / key)
        with torch.no_grad():
            next(encoder.parameters()).mul_(1.001)
        save_encoder(encoder, tmp_path / "encoders" / key)
    with pytest.raises(UserError, match="the encoder 'image' is not the one that made .*, or was trained since"):
        search(features, "a red cube", model=str(tmp_path))


def test_features_of_elsewhere_are_searched_by_a_named_model(photos: Path, both: Path, tmp_path: Path) -> None:
    """And what a stranger's file says of its model is no reason to fetch that."""
    rows = np.eye(4, dtype=np.float32)
    np.save(tmp_path / "theirs.npy", rows)
    with pytest.raises(UserError, match="does not say what it was made by; .*--model"):
        search(tmp_path / "theirs.npy", photos / "a" / "0.png")
    vector = load_encoder(both / "encoders" / "text").encode(["a cube"])
    np.save(tmp_path / "theirs.npy", np.concatenate([-vector.numpy(), vector.numpy()]))
    model = str(both / "encoders" / "text")
    table, hits = search(tmp_path / "theirs.npy", "a cube", model=model)
    assert [table.names[hit.row] for hit in hits] == ["1", "0"] and hits[1].similarity == pytest.approx(-1, abs=1e-5)
    beside(tmp_path / "theirs.npy", "json").write_text(json.dumps({"model": "transformers:some/where"}))
    with pytest.raises(UserError, match="was made by 'transformers:some/where', which is no folder here"):
        search(tmp_path / "theirs.npy", "a cube")
    np.save(tmp_path / "theirs.npy", rows[:, :3])
    with pytest.raises(UserError, match="the query has 8 numbers and a row 3"):
        search(tmp_path / "theirs.npy", "a cube", model=model)


def many(path: Path, count: int = 4000, dim: int = 32) -> Table:
    """Writes vectors in all directions, the hardest to index."""
    np.save(path, 3 * np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32))
    return read_features(path)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_index_finds_nearly_all_that_exact_search_finds(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from mmssl.features.ann import search_index

    table = many(tmp_path / "f.npy")
    build_index(tmp_path / "f.npy", table, tmp_path / "f.faiss", kind=kind, lists=40 if kind == "ivf" else None)  # type: ignore[arg-type]
    drawn = np.random.default_rng(1).normal(size=(50, 32)).astype(np.float32)
    queries = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    cosines = queries @ table.rows(0, 4000).numpy().T
    exact = np.argsort(-cosines, axis=1)[:, :10]
    for effort, least, most in ((200, 0.97, 1.0), (1, 0.0, 0.9)):
        similar, rows = search_index(tmp_path / "f.faiss", table, queries, 10, effort=effort)
        recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact.tolist(), rows.tolist(), strict=True)])
        assert least <= recall <= most, (effort, recall)
        found = rows >= 0
        np.testing.assert_allclose(similar[found], np.take_along_axis(cosines, rows, 1)[found], atol=1e-5)


def test_an_index_goes_with_its_features(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    index = features.parent / "sub" / "f.faiss"
    assert cli.main(["index", str(features), str(index)]) == 0 and "hnsw over 7 rows" in capsys.readouterr().out
    ours, theirs = search(features, "a red cube")[1], search(index, "a red cube")[1]
    assert [hit.row for hit in ours] == [hit.row for hit in theirs]
    np.testing.assert_allclose([h.similarity for h in ours], [h.similarity for h in theirs], atol=1e-5)
    about = beside(features, "json")
    kept = about.read_text()
    about.write_text(json.dumps({**json.loads(kept), "digest": "other"}))
    with pytest.raises(UserError, match=r"has changed since .* was built; build it again by `mmssl index`"):
        search(index, "a red cube")
    about.write_text(kept)
    assert cli.main(["index", str(features), str(tmp_path / "x.npy")]) == 2
    assert "end it in .faiss" in capsys.readouterr().err
    assert cli.main(["index", str(features), str(tmp_path / "x.faiss"), "--lists", "3"]) == 2


def test_without_faiss_exact_search_works_and_an_index_says_what_to_install(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert cli.main(["index", str(features), str(tmp_path / "x.faiss")]) == 2
    assert "pip install 'mmssl[retrieval]'" in capsys.readouterr().err
    assert cli.main(["search", str(features), "a red cube", "-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table, hits = search(features, "a red cube", k=2)
    assert lines == [f"{hit.similarity:.4f}  {table.names[hit.row]}" for hit in hits]


def test_windows_are_told_as_times(both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmssl.modalities import video

    (tmp_path / "films").mkdir()
    frames = np.stack([np.full((16, 16, 3), 60 * (t // 4), np.uint8) for t in range(16)])
    (tmp_path / "films" / "film.mp4").write_bytes(video.encode(frames, fps=4))
    out = tmp_path / "w.npy"
    encode_data(
        str(both), str(tmp_path / "films"), out, space="clip", window=1, workers=0, progress=False, encoder="image"
    )
    assert cli.main(["search", str(out), "a cube", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted((hit["name"], hit["start"], hit["end"]) for hit in found) == [
        ("film.mp4", float(t), t + 1.0) for t in range(4)
    ]
    assert cli.main(["search", str(out), "a cube", "-k", "1"]) == 0
    start, end = int(found[0]["start"]), int(found[0]["end"])
    assert capsys.readouterr().out.split()[1:] == ["film.mp4", f"0:{start:02}-0:{end:02}"]
    assert (clock(62.5), clock(3600), clock(0.04), clock(59.999)) == ("1:02.5", "1:00:00", "0:00.04", "1:00")


def test_files_that_are_no_features(tmp_path: Path) -> None:
    def refused(match: str, name: str = "f.npy") -> None:
        with pytest.raises(UserError, match=match):
            read_features(tmp_path / name)

    refused("there is no file")
    (tmp_path / "f.npy").write_bytes(b"x")
    refused(r"f\.npy cannot be read as npy")
    np.save(tmp_path / "f.npy", np.array([[object()]]), allow_pickle=True)
    refused("cannot be read as npy")
    np.save(tmp_path / "f.npy", np.zeros((3, 2), int))
    refused("expected floats")
    np.save(tmp_path / "f.npy", np.array([[0.0, np.nan]]))
    refused("not finite")
    np.save(tmp_path / "f.npy", np.zeros((3, 2)))
    beside(tmp_path / "f.npy", "names.csv").write_text("name\na\n")
    refused("3 rows and 1 names")
    (tmp_path / "f.csv").write_text("a,b\n1,2\n")
    refused("expected name, start, end", "f.csv")
    (tmp_path / "f.csv").write_text("name,f0\nx,1\ny,z\n")
    refused(r"f\.csv cannot be read as csv", "f.csv")
