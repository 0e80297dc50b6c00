"""Encoders judged on shards with labels: which options are meant for what, where encoders come from, what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl import dist, judge, loading
from mmssl.errors import UserError
from mmssl.judge import judge_encoder, plan
from mmssl.loading import home_of, open_encoders
from mmssl.types import Score, Trained

SETS = {"train": {"shards": "a"}, "data": {"shards": "b"}}


def planned(*names: str, **tree: Any) -> Any:
    return plan(names, tree, train="a", data="b", trust_code=False)


def test_each_protocol_has_both_sets() -> None:
    assert planned("knn", "linear") == {"knn": {"name": "knn", **SETS}, "linear": {"name": "linear", **SETS}}


def test_options_go_to_the_protocol_that_is_named_or_to_all_that_know_them() -> None:
    found = planned("knn", "linear", "few_shot", linear={"solver": "sgd"}, baselines=False, ways=3, k=[7])
    assert found == {
        "knn": {"name": "knn", **SETS, "baselines": False, "k": [7]},
        "linear": {"name": "linear", **SETS, "solver": "sgd", "baselines": False},
        "few_shot": {"name": "few_shot", **SETS, "baselines": False, "ways": 3},
    }


def test_options_of_data_are_for_both_sets_and_those_of_the_model_for_none() -> None:
    fields = {"fields": {"label": "json.class"}}
    found = planned("knn", data=fields, model={"pretrained": False})
    assert found == {"knn": {"name": "knn", "train": {"shards": "a", **fields}, "data": {"shards": "b", **fields}}}
    assert planned("knn", data=None) == {"knn": {"name": "knn", **SETS}}


@pytest.mark.parametrize(
    ("names", "tree", "told"),
    [
        (["retrieval"], {}, "'retrieval' learns from no labels"),
        (["propagate"], {}, "'propagate' learns from no labels"),
        (["knnn"], {}, "there is no eval 'knnn'"),
        (["knn"], {"limits": 3}, "no protocol has the option 'limits'; did you mean 'limit'"),
        (["knn"], {"modle": {"x": 1}}, "no protocol has the option 'modle'; did you mean 'model'"),
        (["knn"], {"linear": {"solver": "sgd"}}, "no protocol has the option 'linear'"),
        (["knn"], {"knn": 3}, "no protocol has the option 'knn'"),
    ],
)
def test_what_is_meant_for_nothing_is_refused(names: list[str], tree: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        planned(*names, **tree)


FOREIGN = """
from mmssl.types import Encoder, Evaluation

class Own(Evaluation):
    def __init__(self, *, train: dict, data: dict, steps: int = 1) -> None: ...

class encoder(Encoder):
    def __init__(self, *, pretrained: bool = False) -> None: ...
"""


def test_code_of_others_is_run_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "code.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(tmp_path))
    options: dict[str, Any] = {"train": "a", "data": "b"}
    found = plan(["strange.code:Own"], {"steps": 3}, **options, trust_code=True)
    assert found == {"strange.code:Own": {"name": "strange.code:Own", **SETS, "steps": 3}}
    monkeypatch.setattr(loading, "create_encoder", lambda *a, **o: Made(*a, **o))
    made: Any = open_encoders("strange.code:encoder", {}, trust_code=True)["image"]
    assert made.options == {"where": "strange.code:encoder", "trust_code": True}
    for untrusted in (
        lambda: plan(["strange.code:Own"], {}, **options, trust_code=False),
        lambda: open_encoders("strange.code:encoder", {}),
        lambda: judge_encoder("raw:image", ["strange.code:Own"], **options),
    ):
        with pytest.raises(UserError, match="trust"):
            untrusted()


class Made:
    """Stands in for an encoder: what it was made of."""

    modality = "image"

    def __init__(self, *told: Any, **options: Any) -> None:
        self.told, self.options, self.moved, self.judged = told, options, "", False

    def to(self, device: str) -> Made:
        self.moved = device
        return self

    def eval(self) -> Made:
        self.judged = True
        return self


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_encoders", lambda *a, **o: {"image": Made("run", *a, **o)})
    monkeypatch.setattr(loading.checkpoint, "load_encoder", lambda *a, **o: Made("folder", *a, **o))
    monkeypatch.setattr(loading, "create_encoder", lambda *a, **o: Made("name", *a, **o))


def own(folder: Path, config: str = '{"format": 1}') -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.usefixtures("makers")
def test_a_run_and_an_encoders_folder_are_loaded(tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "meta", "trust_code": True}
    (tmp_path / "run" / "encoders").mkdir(parents=True)
    found: Any = open_encoders(str(tmp_path / "run"), {}, **options)["image"]
    assert (found.told, found.options) == (("run", tmp_path / "run"), options)
    for name, config in (("ours", '{"format": 1}'), ("damaged", "{"), ("gone", "")):
        folder = own(tmp_path / name, config)
        if name == "gone":
            (folder / "config.json").unlink()
        found = open_encoders(str(folder), {}, **options)["image"]
        assert (found.told, found.options) == (("folder", folder), options)
        with pytest.raises(UserError, match=r"says itself what its encoder is; leave model\.width out"):
            open_encoders(str(folder), {"width": 3})


@pytest.mark.usefixtures("makers")
def test_other_folders_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = own(tmp_path / "theirs", '{"model_type": "vit"}')
    found: Any = open_encoders(str(theirs), {"pretrained": False}, device="meta", trust_code=True)["image"]
    assert found.told == ("name", f"transformers:{theirs}")
    assert found.options["where"] == str(theirs) and found.options["trust_code"] is True
    assert (found.moved, found.judged, found.options["pretrained"]) == ("meta", True, False)
    (theirs / "model.safetensors").unlink()
    assert open_encoders(str(theirs), {})["image"].told == found.told  # type: ignore[attr-defined]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither a run nor an encoder is in"):
        open_encoders(str(tmp_path / "empty"), {})
    with pytest.raises(UserError, match="there is no folder some/where; expected encoders/ or config.json in it"):
        open_encoders("some/where", {})


@pytest.mark.usefixtures("makers")
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("timm:resnet18", {"pretrained": True}),
        ("timm:a/b", {"pretrained": True}),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("raw:image", {}),
        ("convnet", {}),
    ],
)
def test_a_name_comes_with_its_published_weights(name: str, published: dict[str, Any]) -> None:
    found: Any = open_encoders(name, {})["image"]
    assert found.told == ("name", name) and found.moved == "cpu"
    assert found.options == {"where": name, "trust_code": False, **published}
    own = {**published, "width": 2, **dict.fromkeys(published, None)}
    assert open_encoders(name, own)["image"].options == {"where": name, "trust_code": False, **own}  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("path", "home"),
    [("timm:resnet18", "runs/timm_resnet18"), ("a/b", "runs/a_b"), ("/a/b/", "runs/a_b")],
)
def test_figures_of_what_is_not_ours_go_under_runs(path: str, home: str, tmp_path: Path) -> None:
    assert home_of(path) == Path(home)
    assert home_of(str(own(tmp_path / "ours"))) == tmp_path / "ours"
    (tmp_path / "run" / "encoders").mkdir(parents=True)
    assert home_of(str(tmp_path / "run")) == tmp_path / "run"


class Judges:
    """Stands in for a Judge: notes what is done with it, in order."""

    done: list[Any]
    scores: dict[str, Score]

    def __init__(self, nodes: Any, *, progress: bool) -> None:
        self.done.append(("built", nodes))

    def check(self, trained: Trained, keys: Any = None) -> None:
        self.done.append(("check", list(trained.encoders)))

    def run(self, trained: Trained, keys: Any = None) -> dict[str, Score]:
        self.done.append("run")
        return self.scores

    def remarks(self) -> dict[str, Any]:
        return {"left_out": {"knn": {"why": 1}}}

    def finish(self, file: Path, scores: dict[str, Score]) -> None:
        self.done.append(("finish", file, file.is_file()))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    noted: list[Any] = []
    Judges.done, Judges.scores = noted, {"knn/k1": Score(0.5, 0.25, 0.75, 0.1, 8, 0.2)}
    monkeypatch.setattr(judge, "Judge", Judges)
    monkeypatch.setattr(dist, "start", lambda *_, **__: noted.append("start") or torch.device("meta"))
    monkeypatch.setattr(dist, "stop", lambda: noted.append("stop"))

    def opened(path: str, options: Any, **how: Any) -> dict[str, Any]:
        noted.append((path, options, how))
        return {"image": None}

    monkeypatch.setattr(judge, "open_encoders", opened)
    return noted


def judged(file: Path | None, *changes: str, encoder: str = "x", train: str = "a", names: Any = ("knn",)) -> Any:
    return judge_encoder(encoder, names, changes, train=train, data="b", out=file, trust_code=True)


def test_it_is_checked_judged_written_and_then_finished(done: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "deep" / "found.json"
    scores, where = judged(file, "knn.k=[1]", "model.width=3")
    node = {"name": "knn", **SETS, "k": [1]}
    assert scores == Judges.scores and where == file
    opened = ("x", {"width": 3}, {"device": "meta", "trust_code": True})
    assert done == [
        ("built", {"knn": node}),
        "start",
        opened,
        ("check", ["image"]),
        "run",
        "stop",
        ("finish", file, True),
    ]
    score = {"value": 0.5, "low": 0.25, "high": 0.75, "chance": 0.1, "n": 8, "trivial": 0.2}
    found = json.loads(file.read_text())
    assert (
        found.pop("evaluations")["knn"].items()
        >= {
            "name": "knn",
            "options": {**SETS, "k": [1]},
            "judged": "x",
            "model": {"width": 3},
        }.items()
    )
    assert found == {"left_out": {"knn": {"why": 1}}, "warnings": {}, "scores": {"knn/k1": score}}


def test_without_a_file_it_is_in_the_encoders_folder(done: list[Any], tmp_path: Path) -> None:
    assert judged(None, encoder=str(own(tmp_path / "ours")))[1] == tmp_path / "ours" / "eval.json"
    assert (tmp_path / "ours" / "eval.json").is_file()
    assert done[2][1] == {}, "an encoder without options"


def test_the_first_process_writes_and_all_leave_whatever_happens(
    done: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "rank", lambda: 1)
    judged(tmp_path / "found.json")
    assert done[-2:] == ["stop", ("finish", tmp_path / "found.json", False)]

    def fails(self: Judges, trained: Trained, keys: Any = None) -> None:
        raise UserError("no")

    monkeypatch.setattr(Judges, "check", fails)
    with pytest.raises(UserError, match="no"):
        judged(tmp_path / "found.json")
    assert done[-1] == "stop" and done[-2] != "run"


def test_a_garbled_file_costs_neither_its_own_figures_nor_the_new_ones(done: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text("{")
    Judges.scores = {"knn/k1": Score(0.9, 0, 1, 0, 1)}
    judged(file)
    assert list(json.loads(file.read_text())["scores"]) == ["knn/k1"]
    assert (tmp_path / "found.json.damaged").read_text() == "{"


def values(file: Path) -> dict[str, float]:
    return {name: score["value"] for name, score in json.loads(file.read_text())["scores"].items()}


def test_figures_of_the_same_kind_are_replaced_and_all_others_stay(done: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    Judges.scores = {name: Score(0.1, 0, 1, 0, 1) for name in ("knn/k1", "knn/k9", "linear/top1")}
    judged(file, names=("knn", "linear"))
    Judges.scores = {"knn/k1": Score(0.9, 0, 1, 0, 1)}
    judged(file)
    assert values(file) == {"linear/top1": 0.1, "knn/k1": 0.9}
    found = json.loads(file.read_text())
    found["left_out"]["linear"] = {"kept": 2}
    file.write_text(json.dumps(found))
    for value, change, key in (
        (0.2, {"train": "c"}, "knn[train.shards=c]"),
        (0.3, {"encoder": "y"}, "knn[judged=y]"),
        (0.4, {"encoder": "y"}, "knn[judged=y]"),
    ):
        Judges.scores = {"knn/k1": Score(value, 0, 1, 0, 1)}
        judged(file, **change)  # type: ignore[arg-type]
        assert values(file)[f"{key}/k1"] == value
    Judges.scores = {"knn/k1": Score(0.5, 0, 1, 0, 1)}
    judged(file, "knn.k=[1]", "model.width=3")
    apart = ("[train.shards=c]", "[judged=y]", "[model.width=3, k=[1]]")
    assert list(values(file)) == ["linear/top1", "knn/k1", *(f"knn{which}/k1" for which in apart)]
    left_out = json.loads(file.read_text())["left_out"]
    assert left_out == {"linear": {"kept": 2}, **{f"knn{which}": {"why": 1} for which in ("", *apart)}}


def test_what_an_older_version_wrote_stays_and_is_known_for_what_it_is(done: list[Any], tmp_path: Path) -> None:
    file, figure = tmp_path / "found.json", {"value": 0.1, "low": 0, "high": 1, "chance": 0, "n": 1}
    head = {"encoder": "x", "train": "a", "data": "b", "protocols": {"knn": {"name": "knn", **SETS}}}
    for changes, keys in (((), ["knn/k1"]), (("k=[1]",), ["knn/k1", "knn[k=[1]]/k1"])):
        file.write_text(json.dumps({**head, "left_out": {"knn": {"old": 1}}, "scores": {"knn/k1": figure}}))
        Judges.scores = {"knn/k1": Score(0.9, 0, 1, 0, 1)}
        judged(file, *changes)
        assert list(values(file)) == keys and values(file)[keys[-1]] == 0.9
        assert "protocols" not in json.loads(file.read_text())
