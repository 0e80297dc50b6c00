"""Nearest neighbours by hand, and the embedding in two dimensions against numpy and scikit-learn."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from given import Given, give
from torch import Tensor

from mmssl.errors import UserError
from mmssl.plots import embedding, neighbors
from mmssl.plots.canvas import DISTINCT, fitted, wrapped
from mmssl.plots.embedding import MARKS, in_two, styles
from mmssl.types import Encoder, Features, Preprocess, Trained


class Given3(Preprocess):
    modality = "pulse"

    def __call__(self, raw: Any) -> Tensor:
        return torch.as_tensor(raw, dtype=torch.float32)

    def config(self) -> dict[str, Any]:
        return {}


class Same(Encoder):
    modality = "pulse"

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.options, self.preprocess, self.name = 3, {}, Given3(), "same"
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Features:
        return Features(x)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.data.in_workers.WORKERS", 0)


SUBJECT = Trained({"pulse": Same()})


def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    told: list[Any] = []
    monkeypatch.setattr(neighbors, "drawn_item", lambda field, raw, side, line: tuple(np.round(raw, 3).tolist()))
    monkeypatch.setattr(neighbors, "tiles", lambda rows, titles: told.append((rows, titles)))
    return told


def test_a_row_is_a_sample_and_its_neighbours_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.normal(size=(9, 3))
    x[5] = x[2] * 2  # the same direction, so as near as itself
    give(monkeypatch, "mmssl.plots.neighbors", [{"__key__": f"{n}", "pulse": row} for n, row in enumerate(x)])
    told = laid_out(monkeypatch)
    [(name, _)] = neighbors.plot(SUBJECT, data={}, count=5, k=3)
    [(rows, titles)] = told
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert name == "neighbors" and [title[0] for title in titles] == ["0", "2", "4", "6", "8"]
    for row, title in zip(rows, titles, strict=True):
        query = int(title[0])
        cosines = unit @ unit[query]
        cosines[query] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:3]
        assert title[1:] == [f"{cosines[n]:.2f} {n}" for n in best]
        assert row == [tuple(np.round(x[n], 3).tolist()) for n in (query, *best)]


def test_neighbours_in_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    x, other = np.random.normal(size=(2, 3)), np.random.normal(size=(6, 3))
    other[4] = x[0]
    sets = {
        "mine": Given([{"__key__": f"q{n}", "pulse": row} for n, row in enumerate(x)]),
        "bank": Given([{"__key__": f"b{n}", "pulse": row} for n, row in enumerate(other)]),
    }
    monkeypatch.setattr(neighbors, "open_source", lambda data: sets[data["shards"]])
    told = laid_out(monkeypatch)
    list(neighbors.plot(SUBJECT, data={"shards": "mine"}, bank={"shards": "bank"}, k=1))
    [(_, titles)] = told
    assert titles[0] == ["q0", "1.00 b4"] and len(titles) == 2


def test_of_a_long_name_the_end_is_shown_and_long_texts_are_broken() -> None:
    assert fitted("short", 100) == "short"
    cut = fitted("a/very/long/path/of/a/picture.jpg", 100)
    assert cut.startswith("..") and cut.endswith("picture.jpg") and fitted(cut, 100) == cut
    assert fitted("abc", 1) == ".."
    lines = wrapped("one two three four five six", 60)
    assert " ".join(lines) == "one two three four five six" and len(lines) > 1
    assert all(fitted(line, 60) == line for line in lines)


def test_two_principal_components() -> None:
    x = torch.randn(40, 6) * torch.tensor([1.0, 5, 2, 3, 1, 1])
    centred = x.numpy() - x.numpy().mean(0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    found = in_two(x, "pca", perplexity=30, neighbors=15, seed=0)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    with pytest.raises(UserError, match="there are 2 samples; PCA needs more"):
        in_two(x[:2], "pca", perplexity=30, neighbors=15, seed=0)
    with pytest.raises(UserError, match="there are 40 samples; t-SNE needs more than its perplexity"):
        in_two(x, "tsne", perplexity=40, neighbors=15, seed=0)


def test_t_sne_is_scikit_learns() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    x = torch.randn(30, 4)
    found = in_two(x, "tsne", perplexity=7, neighbors=15, seed=3)
    expected = manifold.TSNE(2, perplexity=7, init="pca", random_state=3).fit_transform(x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("way", "module", "line"), [
    ("tsne", "sklearn.manifold", "t-SNE needs scikit-learn: pip install 'mmssl"),
    ("umap", "umap", "UMAP needs umap-learn: pip install 'mmssl"),
])  # fmt: skip
def test_a_library_that_is_missing_is_one_clear_line(
    way: Any, module: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    with pytest.raises(UserError, match=f"{line}.*way=pca needs nothing"):
        list(embedding.plot(SUBJECT, data={}, way=way))


def test_umap_is_asked_for_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Umap:
        def __init__(self, **options: Any) -> None:
            told.append(options)

        def fit_transform(self, x: Any) -> Any:
            return x[:, :2]

    monkeypatch.setattr(embedding, "_library", lambda way: type("umap", (), {"UMAP": Umap}))
    x = torch.randn(9, 4)
    assert (in_two(x, "umap", perplexity=30, neighbors=15, seed=5) == x[:, :2].numpy()).all()
    assert told == [{"n_neighbors": 8, "random_state": 5, "n_jobs": 1}]


def test_labels_have_colours_and_marks_in_order_the_rare_ones_none() -> None:
    found = styles(["b", "a", "b", None, 10, 9])
    assert list(found) == [9, 10, "a", "b"] and found[9] == (DISTINCT[0], MARKS[0])
    many = [n for n in range(40) for _ in range(2 if n < 32 else 1)]
    assert list(styles(many)) == list(range(32)) and len(set(styles(many).values())) == 32
    assert styles(many)[9] == (DISTINCT[1], MARKS[1])


@pytest.mark.parametrize("label", [None, "kind"])
def test_dots_are_of_length_1_in_the_colours_of_their_labels(
    label: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.normal(size=(12, 3))
    samples = [{"pulse": row, "kind": "ab"[n % 2], "label": n % 3} for n, row in enumerate(x)]
    give(monkeypatch, "mmssl.plots.embedding", samples)
    told: list[Any] = []
    monkeypatch.setattr(embedding, "_drawn", lambda *a: told.append(a))
    [(name, _)] = embedding.plot(SUBJECT, data={}, label=label)
    [(flat, labels, title)] = told
    assert (name, title) == ("embedding-pca", "PCA of 12 samples")
    assert labels == [sample[label or "label"] for sample in samples]
    unit = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)).float()
    np.testing.assert_allclose(flat, in_two(unit, "pca", perplexity=1, neighbors=1, seed=0), atol=1e-5)


def test_without_labels_all_are_of_one_colour_and_a_label_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, "mmssl.plots.embedding", [{"pulse": row} for row in np.random.normal(size=(12, 3))])
    [(_, picture)] = embedding.plot(SUBJECT, data={})
    blue = (np.asarray(picture) == (0, 0x72, 0xB2)).all(2)
    assert blue.sum() > 50 and picture.width > picture.height
    with pytest.raises(UserError, match="no sample of given.tar has 'kind'"):
        list(embedding.plot(SUBJECT, data={}, label="kind"))


def test_each_label_is_in_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    from matplotlib.axes import Axes

    real = Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda self, *a, **o: told.append((len(a[0]), o)) or real(self, *a, **o))
    embedding._drawn(np.random.normal(size=(5, 2)), ["a", "b", None, "a", "a"], "title")
    assert [(count, o["label"], o["c"]) for count, o in told] == [
        (1, "others", embedding.REST),
        (3, "a (3)", DISTINCT[0]),
        (1, "b (1)", DISTINCT[1]),
    ]
