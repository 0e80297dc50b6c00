"""Evaluations and images say what they need before a run: an encoder, a space, a task, a field; in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from named import png, tar

from mmssl import cli, names, train
from mmssl.data.subset import Subset
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.parts.needs import Declared
from mmssl.evals.parts.source import open_source
from mmssl.judge import Judge, evaluate
from mmssl.names import list_names
from mmssl.nn.head import Projection
from mmssl.types import Encoder, Objective, Pretext, Trained
from mmssl.views.single import view

VIT = {"name": "vit", "image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Images without anything beside them."""
    return tar(tmp_path_factory.mktemp("plain"), ({"png": png("ant", i)} for i in range(3)))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Samples with a field of every kind; none is ever opened."""
    empty = {
        "png": b"",
        "txt": "",
        "mp4": b"",
        "wav": b"",
        "masks.npz": b"",
        "mask.png": b"",
        "normals.png": b"",
        "cls": 0,
        "json": {},
    }
    return tar(
        tmp_path_factory.mktemp("full"),
        ({**empty, "annotations.json": [], "ply": b"", "points_b.ply": b""} for _ in range(3)),
    )


@pytest.fixture(autouse=True)
def with_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed; tests/evals/parts/test_average_precision.py has it otherwise."""
    monkeypatch.setattr("mmssl.evals.detect.require_pycocotools", lambda: None)


def trained() -> Trained:
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {
        "image": create_encoder("convnet", image_size=16, widths=[8], depths=[1]),
        "text": create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=280),
        "video": create_encoder("frames", image=VIT, frames=4),
        "audio": create_encoder("raw:audio"),
        "points": create_encoder("pointnet", widths=[8, 8]),
    }
    for key in ("image", "text", "video", "audio"):
        encoders[key].spaces["clip"] = Projection(encoders[key].dim, out=8)
    pretext = Pretext(Objective({"image": encoders["image"]}), view, {})
    return Trained(encoders, {"single": pretext})


PROBE: dict[str, Any] = {"encoder": "image", "train": None}
OFF = {"fpfh": False, "ransac": False}
GOOD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("knn", "linear", "finetune", "few_shot", "low_shot_svm", "semi_supervised", "cluster"), PROBE),
    **dict.fromkeys(("transfer_dense", "segment", "normals", "detect"), PROBE),
    "cluster_dense": {"encoder": "image"},
    "accuracy": {**PROBE, "space": "clip"},
    "zero_shot": {"classes": ["ant", "bee"]},
    "retrieval": {},
    "register": OFF,
    "propagate": {},
    "localize": {"task": "clip", "truth": "masks"},
    "audio_visual": {"task": "clip"},
    "shortcut": {"task": "single"},
    "pretext": {"task": "single"},
}
WRONG = [
    *((name, {"encoder": "images"}, "'images'; did you mean 'image'") for name in GOOD if GOOD[name] is PROBE),
    ("knn", {"encoder": None}, "say which with encoder"),
    ("linear", {"space": "clop"}, "no layer 'clop'; did you mean 'clip'"),
    ("linear", {"layers": ["stemm"]}, "no layer 'stemm'; did you mean 'stem'"),
    ("knn", {"label": "kind"}, "train: no sample of .* has 'kind'"),
    ("transfer_dense", {"encoder": "audio"}, "reads audio; expected image or video"),
    ("transfer_dense", {"mask": "segments"}, "has 'segments'"),
    ("cluster_dense", {"encoder": "video"}, "reads video; expected image"),
    ("cluster_dense", {"mask": "segments"}, "has 'segments'"),
    ("accuracy", {"space": "clop"}, "no space 'clop'; did you mean 'clip'"),
    ("accuracy", {"label": "kind"}, "has 'kind'"),
    ("segment", {"encoder": "video"}, "reads video; expected image"),
    ("segment", {"mask": "segments"}, "has 'segments'"),
    ("normals", {"normals": "directions"}, "has 'directions'"),
    ("detect", {"annotations": "boxes"}, "has 'boxes'"),
    ("zero_shot", {"space": "clop"}, "encoder 'text' has no space 'clop'; did you mean 'clip'"),
    ("zero_shot", {"modality": "points"}, "encoder 'points' has no space 'clip'"),
    ("zero_shot", {"label": "kind"}, "has 'kind'"),
    ("zero_shot", {"modality": "depth"}, "no encoder 'depth'"),
    ("retrieval", {"space": "siglip"}, "no space 'siglip'"),
    ("retrieval", {"modalities": ["image", "depth"]}, "no encoder 'depth'"),
    ("register", {"encoder": "voxels"}, "no encoder 'voxels'"),
    ("register", {"encoder": "image"}, "reads image; expected points"),
    ("register", {"space": "clip"}, "no space 'clip'"),
    ("propagate", {"encoder": "films"}, "no encoder 'films'"),
    ("propagate", {"encoder": "points"}, "reads points; expected video or image"),
    ("propagate", {"space": "clop"}, "no space 'clop'"),
    ("localize", {"task": "avol"}, "'avol' compares no image or video with sound"),
    ("localize", {"truth": "boxes"}, "has 'boxes'"),
    ("audio_visual", {"task": "avc"}, "'avc' compares no image or video with sound"),
    ("audio_visual", {"label": "kind"}, "has 'kind'"),
    ("shortcut", {"task": "simgle"}, "no task 'simgle' to judge; did you mean 'single'"),
    ("pretext", {"task": "simgle"}, "no task 'simgle' to judge; did you mean 'single'"),
    ("order", {"task": "opn"}, "no task 'opn' to judge"),
    ("order", {"task": "single"}, "'single' is not about the order of frames"),
]


def judge(name: str, node: dict[str, Any], **options: Any) -> Judge:
    made = {"data": node, **GOOD.get(name, {}), **options}
    return Judge({name: {key: node if key == "train" else value for key, value in made.items()}})


def test_every_evaluation_is_here() -> None:
    assert {*GOOD, "order", "captioning"} == set(list_names("evals"))


@pytest.mark.parametrize("name", GOOD)
def test_what_has_all_it_needs_passes_without_opening_anything(name: str, full: dict[str, Any]) -> None:
    fields = {"label": "cls"} if name != "propagate" else {}
    judge(name, {**full, "fields": fields} if fields else full).check(trained())


@pytest.mark.parametrize(("name", "options", "told"), WRONG)
def test_what_is_missing_is_told(name: str, options: dict[str, Any], told: str, full: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"evals\.{name}: .*{told}"):
        judge(name, full, **options).check(trained())


@pytest.mark.parametrize("name", [name for name in GOOD if name not in ("shortcut", "pretext")])
def test_fields_that_the_data_lacks_are_told(name: str, data: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"evals\.{name}: .*0\.tar has "):
        judge(name, data).check(trained())


def test_every_evaluation_declares_them_and_has_the_same_options() -> None:
    for name in list_names("evals"):
        kind, _ = names.resolve("evals", name)
        assert issubclass(kind, Declared), name
        assert {"data", "baselines", "limit"} <= set(names.options_of(kind)), name


OWN = """
from mmssl.types import Evaluation, Score

class Own(Evaluation):
    def run(self, trained):
        yield "one", Score(1, 1, 1, 0, 1)

class Loose:
    run = Own.run
"""


def test_a_users_own_evaluation_needs_no_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owned").mkdir()
    (tmp_path / "owned" / "evals.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Judge({"mine": {"name": "owned.evals:Own"}}).run(Trained({}))["mine/one"].value == 1
    with pytest.raises(UserError, match=r"'owned.evals:Loose' is none of the evals; expected a mmssl\.types\.E"):
        Judge({"mine": {"name": "owned.evals:Loose"}})


def test_a_run_refuses_before_its_first_step(
    color_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"data": color_recipe["evals"]["retrieval"]["data"], "space": "clop"}
    monkeypatch.setattr("mmssl.trainer.Trainer.train_step", lambda self: pytest.fail("before the first step"))
    with pytest.raises(UserError, match=r"evals\.retrieval: .*no space 'clop'; did you mean 'clip'"):
        train({**color_recipe, "evals": {"retrieval": node}}, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_results_say_what_was_left_out_and_pictures_what_they_need(
    color_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [{"png": png("bee", i) if i else b"rubbish", "txt": "a red square", "cls": i % 5} for i in range(8)]
    evals = {
        "zero_shot": {"data": tar(tmp_path, samples), "classes": ["red", "green", "blue", "white"]},
        "retrieval": color_recipe["evals"]["retrieval"],
    }
    short = {**color_recipe["train"], "samples": 32}
    run = train({**color_recipe, "evals": evals, "train": short}, out=tmp_path / "run", progress=False)
    found = json.loads((run / "results.json").read_text())
    assert list(found["left_out"]["zero_shot"].values()) == [1] and found["left_out"]["retrieval"] == {}
    assert "1 of 7 samples" in found["warnings"]["zero_shot"][1] and found["scores"]["zero_shot/top1"]["n"] == 7
    evaluate(run, evals=["retrieval"])
    again = json.loads((run / "results.json").read_text())
    assert (again["left_out"], again["warnings"]) == (found["left_out"], found["warnings"])
    assert again["scores"].keys() == found["scores"].keys()
    capsys.readouterr()
    for kind, told in (
        ("retrieval", "no space 'clop'"),
        ("order", "no task 'opn'"),
        ("register", "no encoder 'points'"),
        ("propagate", "no encoder 'video'"),
        ("localize", "'avol' compares no image or video with sound"),
    ):
        space = ["space=clop"] if kind == "retrieval" else []
        assert cli.main(["plot", str(run), kind, f"data.shards={tmp_path / '0.tar'}", *space]) == 2
        said = capsys.readouterr().err
        assert said.startswith("mmssl: ") and told in said and said.count("\n") == 1, kind
    assert cli.main(["plot", str(run), "retrieval", f"data.shards={tmp_path / '0.tar'}"]) == 0
    said = capsys.readouterr()
    assert "retrieval: left out 1 sample: " in said.out + said.err


def test_a_subset_of_a_subset_keeps_the_numbers(full: dict[str, Any]) -> None:
    source = open_source(full)
    one = Subset(source, [0, 2])
    assert [e.number for e in Subset(one, [2, 1]).entries(0)] == [2]
