"""What each verb answers: its words, one JSON document, nothing where nobody reads, and what shells complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mmssl import cli, names
from mmssl.console import Answer

RECIPE = "video/mae_bounce"


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """Runs a verb with --json and returns the document that is all of its stdout."""
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_recipe_is_shown_and_copied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = (names.home("configs") / f"{RECIPE}.yaml").read_text()
    assert cli.main(["show", RECIPE]) == 0
    assert capsys.readouterr().out == text
    mine = tmp_path / "mine.yaml"
    assert cli.main(["new", RECIPE, str(mine)]) == 0
    assert mine.read_text() == text
    mine.write_text("edited")
    assert cli.main(["new", RECIPE, str(mine)]) == 2
    assert "is there already" in capsys.readouterr().err and mine.read_text() == "edited"
    assert cli.main(["new", "video/nowhere", str(tmp_path / "other.yaml")]) == 2
    assert cli.main(["new", RECIPE, str(tmp_path / "none" / "x.yaml")]) == 2
    assert not (tmp_path / "other.yaml").exists()


def test_rooms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    said = [line.split(maxsplit=1) for line in capsys.readouterr().out.split("\n\n")[0].splitlines()]
    assert [name for name, _ in said] == [*names.EXPORTS, "datasets", "configs"]
    assert answer(capsys, "list") == dict(said)
    assert answer(capsys, "list", "optim") == names.list_names("optim")
    assert [*answer(capsys, "list", "configs")] == names.recipe_names() == [*names.list_names("configs")]


def test_help_of_prepare(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["prepare", "--help"], ["prepare", "-h"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        said = capsys.readouterr().out
        assert ended.value.code == 0 and all(f"\n{name} " in said for name in names.list_names("datasets"))
    assert cli.main(["prepare", "emoji", "--help"]) == 0
    assert "--held-out SHARE" in capsys.readouterr().out


def unread(*words: str, cwd: Path | None = None) -> tuple[int, str]:
    """Runs Python with a stdout that nobody reads; returns the exit code and what stands on stderr."""
    reads, writes = os.pipe()
    os.close(reads)
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, *words], stdout=writes, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd)
    os.close(writes)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [["list"], ["--help"], ["list", "optim", "--json"], ["prepare", "--help"]])
def test_a_closed_pipe_ends_a_verb_quietly(words: list[str]) -> None:
    assert unread("-m", "mmssl", *words) == (0, "")


def test_a_dataset_is_made_to_its_end_where_nobody_reads_of_it(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    more = "print('a line' * 10)\n" * 3000  # more than a pipe holds
    (tmp_path / "x" / "prepare.py").write_text(f"{more}open('made', 'w')\nraise SystemExit(3)")
    known = "from pathlib import Path; prepare.list_names = lambda room: ['x']; prepare.home = lambda room: Path('.')"
    code = f"from mmssl import prepare; {known}; raise SystemExit(prepare.prepare('x', []))"
    assert unread("-c", code, cwd=tmp_path) == (3, "")
    assert (tmp_path / "made").exists()


def test_an_explanation_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", "moco")
    assert (found["room"], found["name"]) == ("methods", "moco") and {*found["variants"]} == {"moco:v2", "moco:v3"}
    options = {option["name"]: option for section in found["sections"] for option in section["options"]}
    assert options["objective.queue"]["default"] == 65536 and options["view.image.crop.scale"]["default"] == [0.2, 1.0]
    assert found["recipes"]["image/moco_v2"] == ["moco:v2"] and found["recipes"]["image/moco"] == []
    (node,) = answer(capsys, "explain", "train")["sections"]
    required = [option["name"] for option in node["options"] if "default" not in option]
    assert required == ["samples"]


def test_shards_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name / "x.png")
    out = str(tmp_path / "out")
    built = answer(capsys, "shards", "build", str(tmp_path / "in"), out, "--workers", "1")
    assert built == {out: json.loads((tmp_path / "out" / "index.json").read_text())}
    found = answer(capsys, "shards", "show", out)
    assert (found["samples"], found["shards"], found["classes"]) == (2, 1, ["cat", "dog"])
    assert found["fields"]["png"] == 2 and len(found["first"]) == 2
    assert answer(capsys, "shards", "verify", out) == {"problems": [], "indexed": True}
    next((tmp_path / "out").glob("*.tar")).unlink()
    (problem,) = answer(capsys, "shards", "verify", out, code=2)["problems"]
    assert problem.endswith("is missing")


def test_figures_as_json(capsys: pytest.CaptureFixture[str], color_recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(color_recipe))
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    (tmp_path / "images" / "red").mkdir(parents=True)
    Image.new("RGB", (16, 16), (220, 30, 30)).save(tmp_path / "images" / "red" / "a.png")
    (tmp_path / "images" / "red" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    run = str(tmp_path / "run")
    trained = answer(capsys, "train", str(tmp_path / "my.yaml"), "--out", run, "train.samples=32")
    written = json.loads((tmp_path / "run" / "results.json").read_text())["scores"]
    assert trained["run"] == run and {*trained["scores"]} == {*written}
    for key, score in answer(capsys, "eval", run, "--only", "retrieval")["scores"].items():
        assert score["value"] == pytest.approx(written[key]["value"]) and score["n"] == written[key]["n"]
    asked = ["--images", str(tmp_path / "images"), "--classes", str(tmp_path / "classes.txt")]
    found = answer(capsys, "zero-shot", run, *asked)
    (row,) = found["predictions"]
    assert row["image"] == "red/a.png" and row["class"] in ("red", "blue") and -1 <= row["similarity"] <= 1
    assert [*found["skipped"]] == ["red/b.png"] and found["scores"]["top1"]["n"] == 1


def test_json_has_no_numbers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    Answer("", {"a": [float("nan"), 1.5], "b": (float("inf"),)}).tell(as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None]}


def test_of_several_processes_the_first_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, printed in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["list"]) == 0
        assert bool(capsys.readouterr().out) == printed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_ARGCOMPLETE" in script and "complete" in script and "mmssl" in script


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("mmssl zer", {"zero-shot"}),
        ("mmssl train image/moco_v", {"image/moco_v2", "image/moco_v3_cifar10"}),
        ("mmssl train my", {"my.yaml"}),
        ("mmssl explain mob", {"moby"}),
        ("mmssl prepare em", {"emoji"}),
        ("mmssl list op", {"optim"}),
        ("mmssl plot run retr", {"retrieval"}),
    ],
)
def test_names_are_completed(line: str, some: set[str], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    env = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    subprocess.run([sys.executable, "-m", "mmssl"], env=env, cwd=tmp_path, check=True)
    found = {name.strip() for name in (tmp_path / "found").read_text().split("\n")}
    assert some <= found and all(name.startswith(line.split()[-1]) for name in found)
