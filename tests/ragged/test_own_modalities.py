"""What is ragged, and what is of one's own kind, trains by files of one's own: nothing in mmssl knows of them.

Masked words, graphs by hand and of PyTorch Geometric, series of a sensor, boxes of images; each from shards through
workers, the loader and the trainer, as a recipe names them.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from mmssl import load_encoder, train
from mmssl.data.collate import collate
from mmssl.data.shards import Source
from mmssl.errors import UserError
from mmssl.types import Batch, Ragged


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def own(name: str) -> Any:
    return importlib.import_module(f"own_modalities.{name}")


def write(folder: Path, samples: Iterator[dict[str, Any]]) -> str:
    with webdataset.TarWriter(str(folder / "0.tar"), encoder=False) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:03d}", **sample})
    return str(folder / "0.tar")


def learn(folder: Path, shards: str, encoders: dict[str, Any], method: str, **more: Any) -> tuple[Path, list[float]]:
    """Trains some steps with one data worker; returns the run and its losses."""
    recipe = {
        "name": "own",
        "encoders": encoders,
        "tasks": {"own": {"data": {"shards": shards, "workers": 1, **more}, "method": {"name": method}, "batch": 16}},
        "optim": {"name": "adamw", "lr": 0.01},
        "train": {"samples": 640, "log_every": 2},
    }
    run = train(recipe, out=folder / "run", progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return run, [line["loss"] for line in lines]


def falls(losses: list[float], to: float) -> bool:
    return bool(np.mean(losses[-3:]) < to * losses[0])


def test_masked_words(tmp_path: Path) -> None:
    kinds = ["red balls roll", "blue cubes stand still for a while", "no"]
    shards = write(tmp_path, ({"txt": kinds[i % 3].encode()} for i in range(48)))
    text = {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "vocab_size": 300}
    run, losses = learn(tmp_path, shards, {"text": text}, "own_modalities.words:method")
    assert falls(losses, 0.5)
    assert load_encoder(run / "encoders" / "text").encode(["red balls roll"]).isfinite().all()


def test_masks_respect_lengths() -> None:
    draw = own("words").draw
    words = Ragged(torch.zeros(200, 9, dtype=torch.long), torch.arange(200) % 9 + 1, padded=True)
    hidden = draw(words, 0.3)
    assert not hidden[~words.mask].any() and hidden.any(1).all()
    assert hidden[words.mask].float().mean().item() == pytest.approx(0.4, abs=0.08)  # one at least, of short ones
    assert torch.equal(draw(words, 1.0), words.mask)
    assert (draw(words, 0.0).sum(1) == 1).all()


def graph(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A ring, a star or a path of some nodes; a node's features are its degree and one."""
    size = 5 + number % 4
    ends = {0: (np.arange(size), (np.arange(size) + 1) % size), 1: (np.zeros(size - 1), np.arange(1, size))}
    a, b = ends.get(number % 3, (np.arange(size - 1), np.arange(1, size)))
    edges = np.stack([np.r_[a, b], np.r_[b, a]]).astype(np.int64)
    return np.stack([np.bincount(edges[1], minlength=size), np.ones(size)], axis=1).astype(np.float32), edges


def as_npz(x: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    np.savez(stream, x=x, edges=edges)
    return {"graph.npz": stream.getvalue()}


def as_json(x: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    return {"graph.json": json.dumps({"x": x.tolist(), "edges": edges.tolist()}).encode()}


@pytest.fixture(params=["graphs", "pyg"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "pyg":
        pytest.importorskip("torch_geometric")
    return str(request.param)


@pytest.mark.parametrize("form", [as_npz, as_json], ids=["npz", "json"])
def test_graphs(tmp_path: Path, kind: str, form: Callable[..., dict[str, Any]]) -> None:
    shards = write(tmp_path, (form(*graph(i)) for i in range(48)))
    encoders = {"graph": {"name": f"own_modalities.{kind}:encoder"}}
    run, losses = learn(tmp_path, shards, encoders, f"own_modalities.{kind}:method")
    assert falls(losses, 0.95)
    encoder = load_encoder(run / "encoders" / "graph", trust_code=True)
    inputs = [dict(zip(("x", "edges"), graph(i), strict=True)) for i in range(3)]
    rows = encoder.encode(inputs, batch_size=2)
    assert rows.shape == (3, 16) and not torch.allclose(rows[0], rows[1])
    alone = torch.cat([encoder.encode([raw]) for raw in inputs])
    torch.testing.assert_close(rows, alone)


def test_a_batch_of_graphs_has_empty_ones_for_samples_without(kind: str) -> None:
    encoder = own(kind).encoder()
    view = own(kind).method.view({"graph": encoder.preprocess}, drop=0.0)
    given = {"graph": dict(zip(("x", "edges"), graph(0), strict=True))}
    batch = collate([view(given), {}, view(given)], view)
    assert batch.present("graph").tolist() == [True, False, True]
    for x in batch.views["graph"]:
        nodes, edges = encoder.packed(x)
        assert nodes.lengths.tolist() == [5, 0, 5] and edges.max() == 9
        rows = encoder(x).pooled
        assert not rows[1].any() and torch.equal(rows[0], rows[2])
    assert isinstance(batch.to("cpu"), Batch)


def test_graphs_and_words_in_one_space_where_some_samples_lack_a_graph(tmp_path: Path, kind: str) -> None:
    """With parts of a batch, an averaged model, and an evaluation of the graphs."""

    def sample(number: int) -> dict[str, Any]:
        words = {"txt": ["ring", "star", "path"][number % 3].encode(), "cls": str(number % 3).encode()}
        return words if number % 5 == 0 else {**words, **as_npz(*graph(number))}

    data = {"shards": write(tmp_path, map(sample, range(60)))}
    recipe = {
        "name": "own",
        "encoders": {
            "graph": {"name": f"own_modalities.{kind}:encoder"},
            "text": {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "vocab_size": 280},
        },
        "tasks": {"clip": {"data": {**data, "workers": 1}, "method": {"name": "clip"}, "batch": 16}},
        "optim": {"name": "adamw", "lr": 0.01},
        "train": {"samples": 640, "log_every": 2, "ema": 0.9, "accumulate": 2},
        "evals": {"knn": {"data": data, "train": data, "encoder": "graph"}},
    }
    run = train(recipe, out=tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert falls([line["loss"] for line in lines if "loss" in line], 0.9)
    scores = json.loads((run / "results.json").read_text())["scores"]
    assert any(name.startswith("knn/") and score["value"] > 0.8 for name, score in scores.items())


def series(number: int) -> bytes:
    """One of four tempos on one of six channels, in a series of some length."""
    time = np.arange(20 + 3 * number % 30)
    values = np.zeros((len(time), 6))
    values[:, number % 6] = np.sin(time * (0.2 + number % 4))
    return values.astype(np.float32).tobytes()


def test_series_of_any_length_in_a_format_of_their_own(tmp_path: Path) -> None:
    written = [{"imu": series(i)} for i in range(48)]
    written[7] = {"imu": b"cut"}
    shards = write(tmp_path, iter(written))
    encoders = {"imu": {"name": "own_modalities.series:encoder"}}
    run, losses = learn(tmp_path, shards, encoders, "own_modalities.series:method")
    assert falls(losses, 0.8)
    report = json.loads((run / "data_report.json").read_text())
    assert report["own"]["damaged"]["a series that is cut"]
    encoder = load_encoder(run / "encoders" / "imu", trust_code=True)
    both = encoder.encode([series(0), series(5)])
    torch.testing.assert_close(both, torch.cat([encoder.encode([series(0)]), encoder.encode([series(5)])]))
    view = own("series").method.view({"imu": encoder.preprocess})
    batch = collate([view({"imu": series(0)}), {}], view)
    assert all(x.lengths[1] == 0 and encoder(x).pooled[1].eq(0).all() for x in batch.views["imu"])


def test_files_of_a_format_of_their_own_are_found_by_its_name(tmp_path: Path) -> None:
    shards = write(tmp_path, iter([{"imu": b"a", "imu_left.imu": b"b", "txt": b"c", "other.imu": b"d"}]))
    (sample,) = Source(shards=shards).samples({"imu", "imu_left"})
    assert (sample["imu"], sample["imu_left"]) == (b"a", b"b")
    (sample,) = Source(shards=shards, fields={"imu": "other.imu"}).samples({"imu"})
    assert sample["imu"] == b"d"
    with pytest.raises(UserError, match="no sample of .* has 'txt'"):  # what mmssl opens has a key of its own
        list(Source(shards=shards).samples({"txt"}))


def picture(number: int) -> dict[str, bytes]:
    """An image whose shade says where its boxes lie, none to three alike."""
    stream, place = io.BytesIO(), number % 4 / 4
    Image.new("L", (16, 16), 60 * (number % 4)).convert("RGB").save(stream, "PNG")
    return {"png": stream.getvalue(), "json": json.dumps({"boxes": [[place, place, 0.1, 0.2]] * (number % 3)}).encode()}


def test_boxes_of_each_sample(tmp_path: Path) -> None:
    shards = write(tmp_path, (picture(i) for i in range(48)))
    image = {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1]}
    fields = {"boxes": "json.boxes"}
    _, losses = learn(tmp_path, shards, {"image": image}, "own_modalities.boxes:method", fields=fields)
    assert falls(losses, 0.2)


def test_boxes_of_a_sample_without_a_picture_are_none() -> None:
    from mmssl.transforms.image import ImagePreprocess

    view = own("boxes").method.view({"image": ImagePreprocess(8)})
    shown = [view({"image": Image.new("RGB", (9, 9)), "boxes": [[0.1, 0, 0, i]] * i}) for i in (2, 0)]
    (boxes,) = collate([{}, *shown, {}], view).fields["image"]["boxes"]
    assert boxes.lengths.tolist() == [0, 2, 0, 0] and boxes.values.shape == (2, 4)
    assert boxes.sample.tolist() == [1, 1]
