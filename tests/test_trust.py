"""What a stranger made runs nothing: each hostile file plants a marker, which must not be there after it was opened."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mmssl import cli, recipe, train
from mmssl.checkpoint import load_encoder
from mmssl.classify import zero_shot
from mmssl.encoders import create_encoder, transformers
from mmssl.errors import UserError
from mmssl.judge import evaluate, judge_encoder, load_encoders, load_run
from mmssl.loading import open_encoders
from mmssl.plot import plot

CODE = """
from pathlib import Path

from mmssl.encoders.convnet import ConvNet
from mmssl.evals.retrieval import Retrieval
from mmssl.methods.clip import method
from mmssl.nn.head import Projection
from mmssl.optim.adamw import optimizer
from mmssl.views.single import view

Path({marker!r}).touch()


class encoder(ConvNet):
    def __init__(self, **options: object) -> None:
        super().__init__(**options)


class evaluation(Retrieval): ...
"""


@pytest.fixture(scope="module")
def trained(color_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, judged by two evaluations."""
    tree = {**color_recipe, "train": {**color_recipe["train"], "samples": 32}}
    return train(tree, out=tmp_path_factory.mktemp("trust") / "run", progress=False)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be made hostile."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What hostile code makes if it runs: the module `stranger.code`, or the command line that stands in sys.argv."""
    path = tmp_path / "marker"
    (tmp_path / "python" / "stranger").mkdir(parents=True)
    (tmp_path / "python" / "stranger" / "code.py").write_text(CODE.format(marker=str(path)))
    monkeypatch.syspath_prepend(str(tmp_path / "python"))
    for name in [name for name in sys.modules if name.split(".")[0] == "stranger"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "plots" / "red").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "plots" / "red" / "a.png")
    monkeypatch.setattr(sys, "argv", ["mmssl", "shards", "build", str(tmp_path / "plots"), str(path)])
    monkeypatch.setenv("WDS_COMMAND", "pipe:")
    return path


def filled(value: Any, marker: Path) -> Any:
    """Puts the marker's path where a hostile value names it."""
    if isinstance(value, dict):
        return {filled(key, marker): filled(inner, marker) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, marker) for inner in value]
    return value.replace("MARKER", str(marker)) if isinstance(value, str) else value


DEMO = {"data": "MARKER", "out": "MARKER"}
SIDE = {"image_size": 16}
THEIR_FILE = "../../../python/stranger/code.py"  # from an encoder's folder
CONFIGS: dict[str, dict[str, Any]] = {
    "code of his own": {"encoder": {"name": "stranger.code:encoder", "options": SIDE}},
    "a module of his own": {"encoder": {"name": "stranger.code", "options": SIDE}},
    "a file of his own": {"encoder": {"name": f"{THEIR_FILE}:encoder", "options": SIDE}},
    "a file within": {"encoder": {"name": "frames", "options": {"image": {"name": THEIR_FILE, **SIDE}}}},
    "a head of his own in a file": {"spaces": {"clip": {"kind": f"{THEIR_FILE}:Projection", "dim": 16}}},
    "a command of mmssl": {"encoder": {"name": "mmssl.demo:demo", "options": DEMO}},
    "the command line": {"encoder": {"name": "mmssl.cli:main", "options": {}}},
    "the program": {"encoder": {"name": "mmssl.__main__:main", "options": {}}},
    "what a file imports": {"encoder": {"name": "mmssl.encoders.timm:annotations", "options": {}}},
    "code within": {"encoder": {"name": "frames", "options": {"image": {"name": "stranger.code:encoder", **SIDE}}}},
    "a command within": {"encoder": {"name": "frames", "options": {"image": {"name": "mmssl.demo:demo", **DEMO}}}},
    "the program within": {
        "encoder": {"name": "lab", "options": {"part": "color", "image": {"name": "mmssl.cli:main"}}}
    },
    "further within": {
        "encoder": {
            "name": "frames",
            "options": {"image": {"name": "lab", "part": "color", "image": {"name": "stranger.code:encoder"}}},
        }
    },
    "a head of his own": {"spaces": {"clip": {"kind": "stranger.code:Projection", "dim": 16}}},
    "a head that is a command": {"spaces": {"clip": {"kind": "mmssl.__main__:main", "dim": 16}}},
}
OPENERS: dict[str, Callable[[Path], Any]] = {
    "load_encoder": lambda run: load_encoder(run / "encoders" / "image"),
    "load_encoders": load_encoders,
    "load_run": load_run,
    "evaluate": evaluate,
    "plot": lambda run: plot(run, "retrieval"),
    "zero_shot": lambda run: zero_shot(run, str(run.parent / "plots"), ["red", "blue"], progress=False),
    "judge_encoder": lambda run: judge_encoder(
        str(run / "encoders" / "image"), ["knn"], train=shards(run), data=shards(run)
    ),
}


def shards(run: Path) -> str:
    return str(yaml.safe_load((run / "recipe.yaml").read_text())["tasks"]["clip"]["data"]["shards"])


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("hostile", CONFIGS)
def test_no_config_runs_anything(hostile: str, opener: str, run: Path, marker: Path) -> None:
    file = run / "encoders" / "image" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **filled(CONFIGS[hostile], marker)}))
    with pytest.raises(
        UserError, match=r"outside mmssl|is none of the (encoders|heads)|has no variant|timm has no model"
    ):
        OPENERS[opener](run)
    assert not marker.exists()


COMMANDS = [
    "pipe:touch MARKER",
    "{pipe,x}:touch MARKER",
    "p{ip,}e:touch MARKER",
    "{/x,pipe:touch} MARKER",
    "\\pipe:touch MARKER",
    "x.tar::pipe:touch MARKER",
    "/x.tar::pipe:touch MARKER",
    "${WDS_COMMAND}touch MARKER",
    "https://localhost:9/';touch MARKER;'",
    "s3://bucket/';touch MARKER;'",
    "file:MARKER",
    "-",
    "/dev/zero",
    "{/dev/null,x.tar}",
]
HOSTILE = "stranger.code"
SHARDS = {"shards": "pipe:touch MARKER"}
RECIPES: dict[str, dict[str, Any]] = {
    "an encoder": {"encoders.image.name": f"{HOSTILE}:encoder"},
    "an encoder within": {"encoders.video": {"name": "frames", "image": {"name": f"{HOSTILE}:encoder"}}},
    "a method": {"tasks.clip.method.name": f"{HOSTILE}:method"},
    "a method by its key": {"tasks": {HOSTILE: {"data": {"shards": "x.tar"}, "method": {}, "batch": 4}}},
    "a method in a file": {"tasks.clip.method.name": "../python/stranger/code.py"},
    "an evaluation in a file": {"evals.retrieval.name": "../python/stranger/code.py:evaluation"},
    "a view": {"tasks.clip.method.view.name": f"{HOSTILE}:view"},
    "an optimizer": {"optim.name": f"{HOSTILE}:optimizer"},
    "an evaluation": {"evals.retrieval.name": f"{HOSTILE}:evaluation"},
    "an evaluation by its key": {"evals": {f"{HOSTILE}:evaluation": {"data": {"shards": "x.tar"}}}},
    "a method that is a command": {"tasks.clip.method.name": "mmssl.demo:demo"},
    "an evaluation that is a command": {"evals.retrieval": {"name": "mmssl.demo:demo", **DEMO}},
    "an evaluation that is the program": {"evals.retrieval": {"name": "mmssl.__main__:main"}},
    "an optimizer that is a command": {"optim": {"name": "mmssl.demo:demo", **DEMO}},
    "a task's shards": {"tasks.clip.data": SHARDS},
    "several shards": {"evals.retrieval.data.shards": ["x.tar", "pipe:touch MARKER"]},
    "shards to learn from": {"evals.retrieval": {"name": "knn", "train": SHARDS, "data": {"shards": "x.tar"}}},
    **{f"shards {command}": {"evals.retrieval.data.shards": command} for command in COMMANDS},
}


def write_recipe(run: Path, changes: dict[str, Any]) -> None:
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize("opener", ["load_run", "evaluate", "plot"])
@pytest.mark.parametrize("hostile", RECIPES)
def test_no_recipe_of_a_run_runs_anything(hostile: str, opener: str, run: Path, marker: Path) -> None:
    write_recipe(run, filled(RECIPES[hostile], marker))
    with pytest.raises(
        UserError,
        match=r"outside mmssl|is none of the|a command, an address or a device|expected str that names a file",
    ):
        OPENERS[opener](run)
    assert not marker.exists()


def test_nor_does_the_command_line(run: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [f"encoders/{key}/config.json" for key in ("image", "text")]
    sets = ["--train", shards(run), "--data", shards(run)]
    (run.parent / "classes.txt").write_text("red\nblue\n")
    asked = ["--images", str(run.parent / "plots"), "--classes", str(run.parent / "classes.txt")]
    lines = (["eval", str(run)], ["plot", str(run), "retrieval"])
    for line in (*lines, ["zero-shot", str(run), *asked], ["eval", str(run / "encoders" / "image"), *sets]):
        before = {name: (run / name).read_text() for name in ("recipe.yaml", *both)}
        write_recipe(run, filled({"evals.retrieval.data": SHARDS}, marker))
        for name in both:
            config = json.loads(before[name])
            (run / name).write_text(json.dumps({**config, "encoder": {"name": "stranger.code:encoder", "options": {}}}))
        assert cli.main(line) == 2, line
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "--trust-code" in said, said
        for name, text in before.items():
            (run / name).write_text(text)
        assert not marker.exists()


def test_ones_own_code_runs_where_it_is_trusted(run: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "encoders" / "image" / "config.json"
    config = json.loads(file.read_text())
    config["encoder"]["name"] = "stranger.code:encoder"
    config["spaces"]["clip"]["kind"] = "stranger.code:Projection"
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="outside mmssl"):
        load_encoder(file.parent)
    assert not marker.exists()
    assert type(load_encoder(file.parent, trust_code=True)).__module__ == "stranger.code"
    assert marker.exists()
    (run.parent / "classes.txt").write_text("red\nblue\n")
    asked = ["zero-shot", str(run), "--images", str(run.parent / "plots"), "--classes"]
    assert cli.main([*asked, str(run.parent / "classes.txt"), "--trust-code"]) == 0
    assert "a.png" in capsys.readouterr().out
    before = (run / "results.json").read_text()
    write_recipe(
        run,
        {
            "encoders.image.name": "stranger.code:encoder",
            "tasks.clip.method": {"name": "stranger.code:method", "view": {"name": "stranger.code:view"}}
            | {"objective": {"embed_dim": 8}},
            "optim.name": "stranger.code:optimizer",
            "evals.retrieval.name": "stranger.code:evaluation",
            "evals.retrieval.data.shards": [f"pipe:cat {tar}" for tar in sorted(Path(shards(run)).glob("*.tar"))],
        },
    )
    found = evaluate(run, trust_code=True)
    scores = json.loads(before)["scores"]
    assert {key: score.value for key, score in found.items()} == {key: scores[key]["value"] for key in found}
    assert found.keys() == scores.keys()


def test_ones_own_words_are_trusted(run: Path, marker: Path) -> None:
    command = f"pipe:touch {marker}; cat {shards(run)}/part-0000.tar"
    evaluate(run, [f"evals.retrieval.data.shards={command}"], evals=["retrieval"])
    assert marker.exists(), "what the caller says is run"
    marker.unlink()
    evaluate(run, ["evals.retrieval.name=stranger.code:evaluation"], evals=["retrieval"])
    assert marker.exists()
    write_recipe(run, {"tasks.clip.data.shards": command})
    assert recipe.load(run / "recipe.yaml").tasks["clip"].data["shards"] == command, "a recipe that one trains"


@pytest.mark.parametrize("pattern", ["a.tar", "/a/12:30/{000..003}.tar", "../b c/*.tar", "~/x", "/$HOME/x"])
def test_paths_are_no_commands(pattern: str, run: Path) -> None:
    write_recipe(run, {"evals.retrieval.data.shards": pattern, "name": "v1.5"})
    made = recipe.load(run / "recipe.yaml", trust_code=False)
    assert made.evals["retrieval"]["data"]["shards"] == pattern


TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
BERT = {"model_type": "bert", "vocab_size": 9, **TINY}
FETCHING: dict[str, tuple[str, dict[str, Any]]] = {
    "timm's weights": ("timm:resnet18", {"pretrained": True}),
    "weights within": ("frames", {"image": {"name": "timm:resnet18", "pretrained": True}}),
    "torchvision's weights": ("torchvision:r3d_18", {"weights": "KINETICS400_V1"}),
    "a hub id": ("transformers:user/model", {}),
    "a folder": ("transformers:MARKER", {}),
    "a folder within": ("frames", {"image": {"name": "transformers:MARKER"}}),
    "a backbone": (
        "transformers",
        {"architecture": {"model_type": "timm_wrapper", "architecture": "hf-hub:user/model"}},
    ),
    "no family": ("transformers", {"architecture": {"vocab_size": 9}}),
    "attention from the hub": ("transformers", {"architecture": {**BERT, "attn_implementation": "user/code"}}),
    "attention within": (
        "transformers",
        {
            "architecture": {"model_type": "clip", "text_config": {"_attn_implementation": "user/code"}},
            "modality": "text",
        },
    ),
}


def refuse_network(monkeypatch: pytest.MonkeyPatch, marker: Path) -> None:
    """Lets every way by which encoders fetch leave the marker."""
    import timm
    import torchvision

    def fetch(*_: Any, **__: Any) -> None:
        marker.touch()
        raise UserError("fetched")

    for maker in ("load_model", "make_model"):
        monkeypatch.setattr(transformers, maker, fetch)
    monkeypatch.setattr(timm, "create_model", fetch)
    monkeypatch.setattr(torchvision.models, "get_model", fetch)


@pytest.mark.parametrize("hostile", FETCHING)
def test_a_saved_encoder_fetches_nothing(
    hostile: str, run: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, options = filled(list(FETCHING[hostile]), marker)
    refuse_network(monkeypatch, marker)
    file = run / "encoders" / "image" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "encoder": {"name": name, "options": options}}))
    with pytest.raises(UserError, match=r"would read .*; pass trust_code=True, on the command line --trust-code"):
        load_encoder(file.parent)
    assert not marker.exists()
    with pytest.raises(UserError, match="fetched"):
        load_encoder(file.parent, trust_code=True)
    assert marker.exists(), "this is what it would have done"


def test_what_timm_does_not_have_is_one_line(run: Path) -> None:
    file = run / "encoders" / "image" / "config.json"
    for variant in ("hf-hub:user/model", "local-dir:/tmp", "resnet18.nowhere", "resnet18.hf-hub:user/model", "a/b.c"):
        encoder = {"name": f"timm:{variant}", "options": {}}
        file.write_text(json.dumps({**json.loads(file.read_text()), "encoder": encoder}))
        with pytest.raises(UserError, match="timm has no model|timm:resnet18"):
            load_encoder(file.parent)


def test_a_folder_of_transformers_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    refuse_network(monkeypatch, marker)
    for config in ({**BERT, "attn_implementation": "user/code"}, {"model_type": "rwkv"}, {"model_type": ["bert"]}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="would read"):
            open_encoders(str(tmp_path), {})
        assert not marker.exists()
    for config, trust_code in ((BERT, False), ({"model_type": "rwkv"}, True)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="fetched"):
            open_encoders(str(tmp_path), {}, trust_code=trust_code)
        marker.unlink()


def test_what_mmssl_saves_fetches_nothing() -> None:
    encoder = create_encoder("timm:test_vit")
    encoder.options = {"pretrained": True}
    assert encoder.fetches(encoder.options) and not encoder.fetches(encoder.config()["options"])
