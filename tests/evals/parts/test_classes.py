"""Classes meet by name: in every probe, in zero-shot, in sets of every kind; and what is said where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from named import COLORS, bare, folder, png, tar
from test_evals import Oracle

from mmssl.data.writer import build
from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError, UserError
from mmssl.evals.cluster import Cluster
from mmssl.evals.few_shot import FewShot
from mmssl.evals.finetune import Finetune
from mmssl.evals.knn import KNN
from mmssl.evals.linear import Linear, ranked
from mmssl.evals.low_shot_svm import LowShotSVM
from mmssl.evals.parts.classes import chance, class_of, match_classes, number_classes, number_listed
from mmssl.evals.parts.labelled import Labelled
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.source import open_source
from mmssl.evals.semi_supervised import SemiSupervised
from mmssl.evals.zero_shot import ZeroShot, rank_of
from mmssl.judge import Judge
from mmssl.types import Trained

RAW = Trained({"image": create_encoder("raw:image", size=16)})
ABC = ["ant", "bee", "cat"]


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Any]:
    """Built from folders: ant, bee, cat to learn from, ant and cat to be asked about, which are 0 and 1 there."""
    build(folder(tmp_path / "a", ant=8, bee=8, cat=8), tmp_path / "train", workers=1)
    build(folder(tmp_path / "b", ant=4, cat=4), tmp_path / "test", workers=1)
    assert json.loads((tmp_path / "test" / "index.json").read_text())["classes"] == ["ant", "cat"]
    return {"train": {"shards": str(tmp_path / "train")}, "data": {"shards": str(tmp_path / "test")}}


QUICK = {"epochs": 4, "batch": 8, "workers": 0, "lr": 0.05, "flip": 0.0, "crop_scale": (0.9, 1.0)}
PROBES = [
    (KNN, {"k": (3,)}, "k3"),
    (Linear, {}, "top1"),
    (FewShot, {"ways": 2, "shots": (2,), "episodes": 20}, "2-way/2-shot"),
    (LowShotSVM, {"shots": (4,), "draws": 2}, "4-shot"),
    (Cluster, {"restarts": 2}, "accuracy"),
    (Finetune, QUICK, "top1"),
    (SemiSupervised, {"fractions": (0.5,), "protocols": ("linear",), "epochs": (1,)}, "50%/linear/top1"),
]


@pytest.mark.parametrize(("kind", "options", "figure"), PROBES, ids=lambda value: getattr(value, "__name__", ""))
def test_numbers_of_one_set_are_not_compared_with_those_of_another(
    kind: type, options: dict[str, Any], figure: str, sets: dict[str, Any]
) -> None:
    found = dict(kind(**sets, **options, baselines=False).run(RAW))
    assert found[figure].value == 1.0, "as bare numbers, cat would be bee"


def test_every_kind_of_set_gives_names(tmp_path: Path) -> None:
    names = ["cat", "ant", "bee", "ant"]
    said = ({"png": png(n, i), "cls": 7, "json": {"class": f" {n} "}} for i, n in enumerate(names))
    (tmp_path / "m.csv").write_text("image,label\n" + "".join(f"{i}.png,{n}\n" for i, n in enumerate(names)))
    for number, name in enumerate(names):
        (tmp_path / f"{number}.png").write_bytes(png(name, number))
    build(tmp_path / "m.csv", tmp_path / "manifest", workers=1, shuffle=False)
    kinds = {
        "index": bare(tmp_path / "index", names, ["cat", "bee", "ant"], classes=["cat", "bee", "ant"]),
        "json": tar(tmp_path / "json", said),
        "manifest": {"shards": str(tmp_path / "manifest")},
        "field": {**tar(tmp_path / "field", ({"png": b"", "txt": n} for n in names)), "fields": {"label": "txt"}},
    }
    for kind, node in kinds.items():
        assert [s["label"] for s in open_source(node).samples({"label"})] == names, kind
    assert [s["label"] for s in open_source(bare(tmp_path / "bare", names, ABC)).samples({"label"})] == [2, 0, 1, 0]


@pytest.mark.parametrize("known", ["index", "json"])
@pytest.mark.parametrize("asked", ["index", "json"])
def test_names_that_are_numbers_are_these_and_not_their_places(tmp_path: Path, known: str, asked: str) -> None:
    numbers = {"ant": "0", "bee": "10", "cat": "2"}  # sorted as folders are

    def made(root: Path, kind: str, names: list[str]) -> dict[str, Any]:
        classes = sorted({numbers[name] for name in names})
        said = ({"class": numbers[name]} if kind == "json" else {} for name in names)
        samples = [
            {"png": png(name, seed), "cls": classes.index(numbers[name]), "json": meta}
            for seed, (name, meta) in enumerate(zip(names, said, strict=True))
        ]
        return tar(root, samples, classes=classes if kind == "index" else None)

    train, data = made(tmp_path / "a", known, ABC * 4), made(tmp_path / "b", asked, ["ant", "cat"] * 4)
    assert [s["label"] for s in open_source(data).samples({"label"})] == [0, 2] * 4
    assert dict(KNN(train=train, data=data, k=(3,), baselines=False).run(RAW))["k3"].value == 1.0


def test_numbers_with_leading_zeros_are_names(tmp_path: Path) -> None:
    node = bare(tmp_path, ["ant", "bee"], ["ant", "bee"], classes=["01", "1"])
    assert [s["label"] for s in open_source(node).samples({"label"})] == ["01", "1"]


def test_too_few_classes_for_an_episode_are_told_at_the_start(sets: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"evals\.few_shot: few_shot draws 3 classes; the sets share 2: lower ways"):
        Judge({"few_shot": {**sets, "ways": 3}}).check(RAW)
    Judge({"few_shot": {**sets, "ways": 2}}).check(RAW)


def test_folders_with_different_lists_are_one_set(tmp_path: Path) -> None:
    one = bare(tmp_path / "one", ["ant", "bee"], ["ant", "bee"], classes=["ant", "bee"])
    two = bare(tmp_path / "two", ["cat", "bee"], ["bee", "cat"], classes=["bee", "cat"])
    both = open_source({"shards": [one["shards"], two["shards"]]})
    assert [s["label"] for s in both.samples({"label"})] == ["ant", "bee", "cat", "bee"]
    limited = Labelled({"shards": [one["shards"], two["shards"]]}, one, label="label", limit=3)
    assert all(isinstance(s["label"], str) for s in limited.train.samples({"label"}))


def test_a_number_that_the_index_does_not_list_is_damaged(tmp_path: Path) -> None:
    source = open_source(bare(tmp_path, ["ant", "cat"], ABC, classes=["ant", "bee"]))
    with reporting() as report:
        assert [s["label"] for s in source.samples({"label"})] == ["ant"]
    assert report.counts() == {"a class that index.json does not list": 1}


def test_numbers_are_compared_where_nobody_has_names(tmp_path: Path) -> None:
    train, test = bare(tmp_path / "a", ABC * 4, ABC), bare(tmp_path / "b", ["ant", "cat"] * 2, ABC)
    assert dict(KNN(train=train, data=test, k=(3,), baselines=False).run(RAW))["k3"].value == 1.0


def test_a_class_that_the_training_set_lacks_counts_as_wrong_and_is_named(tmp_path: Path) -> None:
    train = bare(tmp_path / "a", ABC * 8, ABC, classes=ABC)
    asked = ["ant", "bee", "cat", "ant", "dog", "emu", "dog", "cat"]
    test = bare(tmp_path / "b", asked, list(COLORS), classes=list(COLORS))
    for kind, options, figure in PROBES:
        probe = kind(train=train, data=test, **options, baselines=False)
        probe.check(RAW)
        with reporting() as report:
            found = dict(probe.run(RAW))
        (warning,) = report.warnings
        assert warning.startswith("3 of 8 samples of the test set") and warning.endswith("(dog: 2, emu: 1)")
        if kind is FewShot or kind is Cluster:
            continue  # what has no examples is not drawn; clusters need no name
        assert found[figure].value == 5 / 8 and found[figure].n == 8, kind
        assert found[figure].chance == pytest.approx(5 / 8 / 3)


def test_sides_that_share_nothing_are_refused_at_once(tmp_path: Path) -> None:
    train = bare(tmp_path / "a", ABC * 2, ABC, classes=ABC)
    other = bare(tmp_path / "b", ["dog", "emu"], ["dog", "emu"], classes=["dog", "emu"])
    numbers = bare(tmp_path / "c", ["ant", "cat"], ABC)
    for known, asked, told in (
        (train, other, r"evals\.knn: .*none of the classes.*dog, emu against ant, bee, cat"),
        (train, numbers, "0, 2 against ant, bee, cat; names and bare numbers cannot be compared"),
        (numbers, train, "ant, bee, cat against 0, 2; names and bare numbers cannot be compared"),
    ):
        with pytest.raises(UserError, match=told):
            Judge({"knn": {"train": known, "data": asked, "baselines": False}}).check(RAW)
    mixed = {"shards": [train["shards"], numbers["shards"]]}
    with pytest.raises(UserError, match="has names of classes and bare numbers"):
        dict(KNN(train=mixed, data=train, baselines=False).run(RAW))


def test_a_limit_that_leaves_classes_out_says_so(tmp_path: Path) -> None:
    train = bare(tmp_path / "a", ABC * 8, ABC, classes=ABC)
    probe = KNN(train=train, data=bare(tmp_path / "b", ABC, ABC, classes=ABC), limit=3, baselines=False, k=(1,))
    known = {s["label"] for s in probe.sets.train.samples({"label"})}
    assert len(known) == 2, "the draw is from a fixed seed"
    with reporting() as report:
        assert dict(probe.run(RAW))["k1"].value == pytest.approx(2 / 3)
    assert "(limit: 3) lacks their classes" in next(iter(report.warnings))


def test_a_test_set_that_was_learnt_from_is_warned_of(tmp_path: Path) -> None:
    train = bare(tmp_path / "a", ABC, ABC)
    with reporting() as report:
        dict(KNN(train=train, data=train, k=(1,), baselines=False).run(RAW))
    assert list(report.warnings) == ["1 of the 1 shards that are judged on are learnt from as well"]


def test_labels_are_names_or_whole_numbers() -> None:
    labels = [" ant ", "caf\u0065\u0301", True, 3, 3.0, -1]
    assert [class_of(label) for label in labels] == ["ant", "caf\u00e9", "True", 3, 3, -1]
    for missing in (None, float("nan"), "", "  "):
        with pytest.raises(DamagedError, match="without a label"):
            class_of(missing)
    for wrong in (3.5, ["ant"], {"a": 1}):
        with pytest.raises(DamagedError, match="neither a name nor a whole number"):
            class_of(wrong)
    assert number_classes(["b", "a", "b"], where="") == {"a": 0, "b": 1} and number_classes([10, 9], where="") == {
        9: 0,
        10: 1,
    }
    with reporting():
        assert match_classes(["b", "z", "y", "z"], {"a": 0, "b": 1}, where="", known_as="") == [1, 3, 2, 3]


def test_samples_without_a_label_are_left_out(tmp_path: Path) -> None:
    wrong = [{"class": None}, {"other": 1}, {"class": ["ant"]}, {"class": float("nan")}]
    said = [*({"class": name} for name in ABC * 4), *wrong]
    samples = [{"png": png(m["class"] if i < 12 else "ant", i), "json": m} for i, m in enumerate(said)]
    node = {**tar(tmp_path / "a", samples), "fields": {"label": "json.class"}}
    for kind, options, figure in (PROBES[0], PROBES[1], PROBES[5]):
        with reporting() as report:
            found = dict(kind(train=node, data=node, **options, baselines=False).run(RAW))
        assert found[figure].n == 12 and found[figure].value == 1.0, kind
        counts = report.counts()
        assert sum(counts.values()) == 4 and counts["a label that is neither a name nor a whole number"] == 1


def test_what_lies_beyond_the_classes_is_never_right() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.9]])
    labels = torch.tensor([1, 3, 4])
    assert rank_of(scores, labels).tolist() == ranked(scores, labels).tolist() == [0, 3, 3]
    assert chance(labels, 3) == pytest.approx(1 / 9) and chance(labels, 3, guesses=2) == pytest.approx(2 / 9)


class Colored(Oracle):
    """Knows the colours of COLORS, and their names in a prompt."""

    def __init__(self, modality: str) -> None:
        super().__init__(modality)
        self.spaces = {"clip": None}

    def collate(self, items: list[Any]) -> torch.Tensor:
        import numpy as np

        means = [torch.tensor(np.asarray(x.convert("RGB"), dtype=np.float32)).mean((0, 1)) for x in items]
        table = torch.tensor(list(COLORS.values())).float()
        return torch.nn.functional.one_hot(torch.cdist(torch.stack(means), table).argmin(1), len(COLORS)).float()

    def encode(self, texts: list[str], space: str | None = None) -> torch.Tensor:
        return torch.tensor([[float(name in text) for name in COLORS] for text in texts])


def zero_shot(data: dict[str, Any], classes: list[str], **options: Any) -> tuple[dict[str, Any], list[str]]:
    trained = Trained({"image": Colored("image"), "text": Colored("text")})  # type: ignore[dict-item]
    made = ZeroShot(data=data, classes=classes, templates=["{}"], **options)
    made.check(trained)
    with reporting() as report:
        return dict(made.run(trained)), list(report.warnings)


def test_zero_shot_compares_names_whatever_the_order_of_the_list(tmp_path: Path, sets: dict[str, Any]) -> None:
    for classes in (["cat", "bee", "ant"], ["emu", *ABC, "dog"]):
        found, warnings = zero_shot(sets["train"], classes)
        assert found["top1"].value == 1.0 and found["top1"].n == 24 and not warnings
        assert found["class/bee"].n == 8 and "class/emu" not in found
    found, (warning,) = zero_shot(sets["train"], ["cat", "bee", "dog"])
    assert found["top1"].value == pytest.approx(2 / 3) and found["top1"].n == 24
    assert found["top1"].chance == pytest.approx(2 / 9) and found["top1"].trivial == pytest.approx(1 / 3)
    assert "8 of 24 samples" in warning and "list of classes lacks their classes (ant: 8)" in warning
    with pytest.raises(UserError, match="has none of the classes of the list"):
        zero_shot(sets["train"], ["dog", "emu"])


def test_zero_shot_takes_bare_numbers_for_places_in_the_list_and_says_so(tmp_path: Path) -> None:
    node = bare(tmp_path / "a", ABC * 2, ["cat", "bee", "ant"])
    found, (warning,) = zero_shot(node, ["cat", "bee", "ant"])
    assert found["top1"].value == 1.0
    assert warning.startswith("the labels are bare numbers") and ": 0 is cat, 1 is bee, 2 is ant, ...;" in warning
    with reporting() as report:
        assert number_listed(["30", "10", "20"], [10, 20]) == {30: 0, 10: 1, 20: 2}, (
            "these numbers are themselves the names"
        )
    assert not report.warnings
    found, (_, warning) = zero_shot(node, ["cat", "bee"])
    assert found["top1"].value == pytest.approx(2 / 3) and "(2: 2)" in warning


def test_templates_that_do_not_suit_the_data_are_told(tmp_path: Path) -> None:
    class Choosy(Colored):
        """Understands names alone; with a word before it, each name means the class after it."""

        def encode(self, texts: list[str], space: str | None = None) -> torch.Tensor:
            places = [(list(COLORS).index(text.split()[-1]) + (" " in text)) % len(COLORS) for text in texts]
            return torch.eye(len(COLORS))[places]

    data = bare(tmp_path / "a", list(COLORS) * 4, list(COLORS), classes=list(COLORS))
    trained = Trained({"image": Choosy("image"), "text": Choosy("text")})  # type: ignore[dict-item]
    told = []
    for templates in (["a {}", "{}", "the {}"], ["{}"], ["a {}", "the {}"]):
        with reporting() as report:
            found = dict(ZeroShot(data=data, classes=list(COLORS), templates=templates).run(trained))
        assert found["top1"].value == float(templates == ["{}"])
        told += report.warnings
    assert [line.splitlines()[1:3] for line in told] == [
        ["  the 3 given  0.000", "  {}           1.000"],
        ["  the 2 given  0.000", "  {}           1.000"],
    ]
    assert all("the plain class name does better" in line for line in told)
