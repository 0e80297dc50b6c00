"""Own code in a file: found beside what names it, copied with what is saved, refused where it is not trusted."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mmssl import cli, evaluate, load_encoder, names, own, recipe, save_encoder, train
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.judge import judge_encoder, load_run
from mmssl.types import Batch

DOC = (Path(__file__).parents[1] / "docs" / "own_method.md").read_text()
NARROW = ["encoders.image.widths=[8,8]", "encoders.image.depths=[1,1]"]
MINE = """
from mmssl.encoders.convnet import ConvNet
from mmssl.evals.knn import KNN
from mmssl.methods.clip import CLIP
from mmssl.nn.head import Projection
from mmssl.optim.sgd import optimizer
from mmssl.plots.pca import plot
from mmssl.types import Method
from mmssl.views.single import view

NUMBER = 1


class Head(Projection): ...


class Net(ConvNet): ...


class Mine(CLIP):
    def __init__(self, encoders, **options):
        super().__init__(encoders, **options)
        assert type(encoders["image"]) is Net, "the copies are one module"
        self.heads["image"].__class__ = Head


class Nearest(KNN): ...


method = Method(view, Mine)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC, re.S)


def words(line: str) -> list[str]:
    """Returns a command of the page, small where it trains."""
    small = (
        ["train.samples=64", "tasks.align.batch=16", "tasks.align.data.workers=0", "--quiet", *NARROW]
        if line.startswith("mmssl train")
        else []
    )
    return [*shlex.split(line)[1:], *small]


def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, color in (("red", (220, 40, 40)), ("blue", (40, 60, 220))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng(number).normal(color, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "align.py").write_text(*blocks("python"))
    (tmp_path / "align.yaml").write_text(*blocks("yaml"))
    told = {}
    for line in [line for block in blocks("bash") for line in block.splitlines()]:
        assert cli.main(words(line)) == 0, line
        told[line] = capsys.readouterr().out
        if line.startswith("mmssl train"):
            (tmp_path / "align.py").unlink()
    assert "objective.sharpness: float = 2" in told["mmssl explain ./align.py --room methods"]
    run = tmp_path / "runs" / "align"
    assert (run / "code" / "align.py").read_text() == blocks("python")[0]
    assert str(tmp_path) not in (run / "recipe.yaml").read_text()
    assert "knn/k5" in told["mmssl eval runs/align --trust-code"]


def test_the_method_of_the_page_is_the_papers(tmp_path: Path) -> None:
    (tmp_path / "align.py").write_text(*blocks("python"))
    method, _ = names.resolve("methods", str(tmp_path / "align.py"))
    encoder = create_encoder("convnet", image_size=8, widths=[16], depths=[1], stem_stride=1)
    objective = method.objective({"image": encoder}, embed_dim=5, weight=0.3, sharpness=1.5)
    images = [torch.rand(6, 3, 8, 8) for _ in range(2)]
    found = objective({"image": encoder}, Batch(views={"image": images}))
    pooled = encoder(torch.cat(images)).pooled.split(6)
    raw = [objective.head.project(x).detach().double() for x in pooled]
    one, other = (x / x.norm(dim=1, keepdim=True) for x in raw)
    aligned = sum(float((a - b) @ (a - b)) for a, b in zip(one, other, strict=True)) / 6
    pairs = [(i, j) for i in range(6) for j in range(i)]
    spread = [
        np.log(np.mean([np.exp(-1.5 * float((x[i] - x[j]) @ (x[i] - x[j]))) for i, j in pairs])) for x in (one, other)
    ]
    assert found.total.item() == pytest.approx(aligned + 0.3 * sum(spread) / 2, rel=1e-5)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "mine.py"
    file.write_text(MINE)
    return file


@pytest.fixture
def written(mine: Path, color_recipe: dict[str, Any]) -> Path:
    """A recipe beside the file, which names it everywhere."""
    tree = json.loads(json.dumps(color_recipe))
    tree["encoders"]["image"]["name"] = "./mine.py:Net"
    tree["tasks"]["clip"]["method"] = {"name": "mine.py", "objective": {"embed_dim": 8}}
    tree["optim"] = {"name": "mine.py", "lr": 0.01}
    shards = tree["tasks"]["clip"]["data"]["shards"]
    sets = {key: {"shards": shards} for key in ("train", "data")}
    tree["evals"] = {"near": {"name": "mine.py:Nearest", **sets, "encoder": "image", "k": [3], "baselines": False}}
    tree["train"]["samples"] = 32
    file = mine.with_name("my.yaml")
    file.write_text(yaml.safe_dump(tree))
    return file


def test_a_run_carries_its_code(
    written: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(written, out=tmp_path / "run", progress=False)
    kept = yaml.safe_load((run / "recipe.yaml").read_text())
    assert kept["encoders"]["image"]["name"] == "code/mine.py:Net" and kept["optim"]["name"] == "code/mine.py"
    config = json.loads((run / "encoders" / "image" / "config.json").read_text())
    assert config["encoder"]["name"] == "code/mine.py:Net" and config["spaces"]["clip"]["kind"] == "code/mine.py:Head"
    for copy in (run / "code" / "mine.py", run / "encoders" / "image" / "code" / "mine.py"):
        assert copy.read_text() == MINE
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    moved = run.rename(elsewhere / "moved")
    before = json.loads((moved / "results.json").read_text())["scores"]["near/k3"]["value"]
    mine.write_text("raise AssertionError")
    for refused in (load_run, evaluate, lambda run: load_encoder(run / "encoders" / "image")):
        with pytest.raises(UserError, match="names code outside mmssl; pass trust_code=True"):
            refused(moved)
    assert cli.main(["eval", "moved"]) == 2 and "--trust-code" in capsys.readouterr().err
    assert evaluate("moved", trust_code=True)["near/k3"].value == pytest.approx(before)
    assert [*json.loads((moved / "results.json").read_text())["scores"]] == ["near/k3"], "the same evaluation"
    encoder = load_encoder("moved/encoders/image", trust_code=True)
    assert type(encoder).__name__ == "Net" and type(encoder.spaces["clip"]).__name__ == "Head"
    save_encoder(encoder, tmp_path / "again")
    assert type(load_encoder(tmp_path / "again", trust_code=True)) is type(encoder)


def test_a_resumed_run_keeps_the_code_of_before(written: Path, mine: Path, tmp_path: Path) -> None:
    run = train(written, out=tmp_path / "run", progress=False)
    mine.write_text(f"{MINE}# edited\n")
    train(written, ["train.samples=64"], out=run, resume=True, progress=False)
    assert (run / "code" / "mine.py").read_text() == f"{MINE}# edited\n"
    assert (run / "code" / "mine_until_step_2.py").read_text() == MINE
    train(run / "recipe.yaml", ["train.samples=96"], out=run, resume=True, progress=False)
    assert {path.name for path in (run / "code").glob("*.py")} == {"mine.py", "mine_until_step_2.py"}


def test_where_a_name_is_looked_for(written: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").write_text(MINE.replace("NUMBER = 1", "NUMBER = 2"))
    monkeypatch.chdir(tmp_path / "here")
    made = recipe.load(written, ["tasks.clip.method.view.name=./mine.py"])
    assert made.encoders["image"]["name"] == f"{mine}:Net", "beside the recipe"
    assert made.tasks["clip"].method["view"]["name"] == f"{tmp_path}/here/mine.py", "by an override, from here"
    kept = yaml.safe_load(made.dump())
    assert kept["encoders"]["image"]["name"] == "code/mine.py:Net"
    assert kept["tasks"]["clip"]["method"]["view"]["name"] == "code/mine_2.py"
    assert {place: b"NUMBER = 2" in data for place, data in made.code.items()} == {
        "code/mine.py": False,
        "code/mine_2.py": True,
    }
    assert names.resolve("plots", "mine.py")[0].__name__ == "plot" and create_encoder("mine.py:Net").name.startswith(
        "/"
    )
    assert recipe.load(written, ["name=notes.py"]).plain["name"] == "notes.py", "the name of a run is no code"
    with pytest.raises(
        UserError, match=r"the key 'mine.py:Nearest' is a file; choose another key, and write in it name"
    ):
        recipe.load(written, ["evals={'mine.py:Nearest': {k: [1]}}"])


def test_figures_and_folders_are_called_by_what_is_named(mine: Path, color_shards: Path, tmp_path: Path) -> None:
    protocol, shards = f"{mine}:Nearest", str(color_shards)
    options = ["Nearest.k=[3]", "limit=16", "baselines=false"]
    scores, _ = judge_encoder(
        "raw:image", [protocol], options, train=shards, data=shards, out=tmp_path / "f.json", trust_code=True
    )
    assert [*scores] == ["Nearest/k3"]
    assert own.title("a/b.py") == "b" and own.title("knn") == "knn" and own.title("a.b:c") == "a.b:c"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x = (", "mine.py", "mine.py, line 1: '(' was never closed"),
        ("import no_such_package", "mine.py", "needs the package 'no_such_package': pip install no_such_package"),
        ("import beside", "mine.py", "imports beside.py beside it, but a file of own code stands alone"),
        ("encoder = 3", "mine.py", "is none of the encoders; expected a mmssl.types.Encoder"),
        ("", "mine.py:Net", "has no 'Net'"),
        ("", "mine.py", "has no 'encoder'"),
        ("", "other.py:Net", "there is no file '.*other.py' of own code; expected it beside what names it"),
        ("", "\0.py", "there is no file"),
    ],
)
def test_what_does_not_work_is_one_line(text: str, name: str, message: str, mine: Path) -> None:
    mine.write_text(text)
    mine.with_name("beside.py").touch()
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as caught:
        names.resolve("encoders", str(mine.parent / name))
    assert "\n" not in str(caught.value)


def test_an_untrusted_file_is_not_run(mine: Path) -> None:
    marker = mine.with_name("marker")
    mine.write_text(f"open({str(marker)!r}, 'w')\n{MINE}")
    hidden = own._module_of(mine)
    for name in (str(mine), f"{mine}:Net", f"{hidden}:Net", "mmssl.py:Net", "mmssl.encoders.py", "mmssl/own.py"):
        for room in ("encoders", "heads", "methods", "evals", "views", "optim", "plots"):
            with pytest.raises(UserError, match="outside mmssl"):
                names.resolve(room, name, trust_code=False)
    assert not marker.exists()


def test_a_changed_file_is_imported_again_and_a_copy_is_not(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    first = own.load(str(mine))
    assert own.load(f"{mine}:Net") is first
    copy = mine.with_name("copy.py")
    copy.write_text(MINE)
    assert own.load(str(copy)) is first, "its classes are the same"
    mine.write_text(MINE.replace("NUMBER = 1", "NUMBER = 2"))
    assert own.load(str(mine)).NUMBER == 2 and own.load(str(copy)) is first
    assert not (mine.parent / "__pycache__").exists()


def test_a_worker_imports_the_file_by_what_it_unpickles(mine: Path) -> None:
    mine.write_text("class Net:\n    value = 7\n")
    kind, _ = own.load(str(mine)).Net, None
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).value)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(kind()), capture_output=True, check=True)
    assert done.stdout.strip() == b"7"
