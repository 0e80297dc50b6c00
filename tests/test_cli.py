"""The command as users meet it: one clear line and exit code 2 for their mistakes, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mmssl import cli


def says(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Runs the command and returns what it said on stderr, which must be one line without a traceback."""
    assert cli.main(arguments) == code
    error = capsys.readouterr().err.strip()
    assert error.startswith("mmssl: ") and "\n" not in error and "Traceback" not in error
    return error


@pytest.fixture
def recipe_file(tmp_path: Path, color_recipe: dict[str, Any]) -> str:
    file = tmp_path / "colors.yaml"
    file.write_text(yaml.safe_dump(color_recipe))
    return str(file)


def test_wrong_recipes_and_options(capsys: pytest.CaptureFixture[str], recipe_file: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert "there is no recipe 'nowhere'" in says(capsys, "train", "nowhere")
    said = says(capsys, "train", recipe_file, "--out", out, "optim.lrr=1", "train.samples=32")
    assert "optim: optimizer has no option 'lrr'; did you mean 'lr'" in said
    said = says(capsys, "train", recipe_file, "tasks.clip.data.shards=/no/such.tar", "--out", out)
    assert "/no/such.tar" in said
    said = says(capsys, "train", recipe_file, "tasks.clip.data.fields={text: json.title}", "--out", out)
    assert "json.title" in said or "text" in said
    said = says(capsys, "train", recipe_file, "tasks.clip.batch=640", "--out", out)
    assert "64 samples" in said and "640" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_empty_shard_set_and_a_folder_in_use(
    capsys: pytest.CaptureFixture[str], recipe_file: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    said = says(
        capsys, "train", recipe_file, f"tasks.clip.data.shards={tmp_path / 'empty'}", "--out", str(tmp_path / "a")
    )
    assert str(tmp_path / "empty") in said
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious").write_text("x")
    assert "is not empty" in says(capsys, "train", recipe_file, "--out", str(tmp_path / "used"))
    assert (tmp_path / "used" / "precious").read_text() == "x"


def test_runs_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is no run folder" in says(capsys, "eval", str(tmp_path))
    classes = tmp_path / "classes.txt"
    classes.write_text("red\nred\n")
    arguments = ("zero-shot", str(tmp_path), "--images", str(tmp_path), "--classes", str(classes))
    assert "is no run folder" in says(capsys, *arguments)


def test_judging_encoders_on_shards(
    capsys: pytest.CaptureFixture[str], recipe_file: str, color_shards: Path, tmp_path: Path
) -> None:
    run, sets = str(tmp_path / "run"), ["--train", str(color_shards), "--data", str(color_shards)]
    assert cli.main(["train", recipe_file, "--quiet", "--out", run, "train.samples=32"]) == 0
    capsys.readouterr()
    small = ["encoder=image", "few_shot.ways=2", "few_shot.episodes=20", "limit=40", "knn.k=[3]"]
    assert cli.main(["eval", run, *sets, "--protocol", "knn,few_shot", *small]) == 0
    said = capsys.readouterr().out
    assert all(f"{p}{name}" in said for p in ("knn/raw/", "knn/random_init/", "knn/") for name in ("k3",))
    assert "few_shot/2-way/1-shot" in said and f"written to {run}/eval.json" in said
    assert cli.main(["eval", f"{run}/encoders/image", *sets, "--out", f"{run}/eval.json", "baselines=false"]) == 0
    assert "linear/top1" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert found["evaluations"]["linear"]["judged"].endswith("image") and "linear/top1" in found["scores"]
    beside = {key for key in found["evaluations"] if key.startswith("knn[judged=")}
    assert len(beside) == 1 and {"knn/k3", f"{beside.pop()}/k5"} < set(found["scores"])
    again = ["--protocol", "cluster", "--out", f"{run}/eval.json", "baselines=false"]
    assert cli.main(["eval", f"{run}/encoders/image", *sets, *again]) == 0
    merged = json.loads((tmp_path / "run" / "eval.json").read_text())["scores"]
    assert set(merged) >= {"knn/k3", "linear/top1", "cluster/NMI"}
    named = ["timm:resnet10t", *sets, "--protocol", "knn", "--out", str(tmp_path / "t.json"), "limit=8"]
    assert cli.main(["eval", *named, "model.pretrained=false", "model.image_size=32", "baselines=false"]) == 0
    assert "knn/k5" in json.loads((tmp_path / "t.json").read_text())["scores"]


def test_wrong_words_about_judging_encoders(
    capsys: pytest.CaptureFixture[str], color_shards: Path, tmp_path: Path
) -> None:
    sets = ["--train", str(color_shards), "--data", str(color_shards)]
    assert "--train SHARDS and --data SHARDS go together" in says(capsys, "eval", "x", "--train", "y")
    assert "say on what to judge" in says(capsys, "eval", "x", "--protocol", "knn")
    assert "there is no eval 'knnn'; did you mean 'knn'" in says(capsys, "eval", "x", *sets, "--protocol", "knnn")
    assert "learns from no labels" in says(capsys, "eval", "x", *sets, "--protocol", "retrieval")
    assert "no protocol has the option 'limits'" in says(capsys, "eval", "x", *sets, "limits=3")
    assert "there is no folder runs/none" in says(capsys, "eval", "runs/none", *sets)
    assert "neither a run nor an encoder" in says(capsys, "eval", str(tmp_path), *sets)
    assert "no protocol has the option 'knn'" in says(capsys, "eval", "x", *sets, "knn=3")
    said = says(capsys, "eval", "raw:image", *sets, "knn.kk=3")
    assert "KNN has no option 'kk'; did you mean 'k'" in said


def test_folders_of_transformers_are_judged(color_shards: Path, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    from mmssl.judge import judge_encoder

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**small, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    scores, file = judge_encoder(
        str(tmp_path / "vit"),
        ["knn"],
        ["knn.k=[3]", "baselines=false", "limit=16"],
        train=str(color_shards),
        data=str(color_shards),
        out=tmp_path / "found.json",
    )
    assert list(scores) == ["knn/k3"] and file == tmp_path / "found.json"


def test_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no dataset 'bonce'; did you mean 'bounce'" in says(capsys, "prepare", "bonce", "x")
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "x", "--rezume"])
    assert caught.value.code == 2


def test_no_space_left_is_one_line(
    capsys: pytest.CaptureFixture[str], recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/checkpoints")

    monkeypatch.setattr("mmssl.checkpoint.torch.save", full)
    said = says(capsys, "train", recipe_file, "--quiet", "--out", str(tmp_path / "run"))
    assert f"step 6 cannot be saved: No space left on device at {tmp_path}/run/checkpoints/step_6; what was" in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EFBIG])
def test_what_the_system_refuses_is_one_line(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file's name where it is known; any error that has one is of a file."""
    refusal = OSError(number, os.strerror(number))
    monkeypatch.setattr("mmssl.data.verify.look", lambda folder: (_ for _ in ()).throw(refusal))
    assert says(capsys, "shards", "show", "x") == f"mmssl: {os.strerror(number)}; nothing already written is lost"
    refusal.filename = "x/y"
    assert f"{os.strerror(number)} at x/y; nothing" in says(capsys, "shards", "show", "x")


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EACCES, errno.ESTALE])
def test_an_error_without_a_file_is_no_users_mistake(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = OSError(number, os.strerror(number))
    monkeypatch.setattr("mmssl.data.verify.look", lambda folder: (_ for _ in ()).throw(refusal))
    with pytest.raises(OSError, match=os.strerror(number)):
        cli.main(["shards", "show", "x"])
    refusal.filename = "x/y"
    assert cli.main(["shards", "show", "x"]) == 2


def test_zero_shot_on_a_folder_of_pictures(
    capsys: pytest.CaptureFixture[str], recipe_file: str, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    assert cli.main(["train", recipe_file, "--quiet", "--out", run]) == 0
    for name, color in (("red", (220, 30, 30)), ("blue", (40, 60, 220))):
        (tmp_path / "plots" / name).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.full((16, 16, 3), color, np.uint8)).save(tmp_path / "plots" / name / f"{index}.png")
    (tmp_path / "plots" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\nwhite\n")
    (tmp_path / "prompts.txt").write_text("a {} square\nsomething {}\n")
    capsys.readouterr()
    arguments = ["--classes", str(tmp_path / "classes.txt"), "--templates", str(tmp_path / "prompts.txt")]
    arguments += ["--images", str(tmp_path / "plots"), "--out", str(tmp_path / "found.csv")]
    assert cli.main(["zero-shot", run, *arguments]) == 0
    said = capsys.readouterr()
    assert "top1" in said.out and "skipped red/broken.png" in said.err
    rows = (tmp_path / "found.csv").read_text().splitlines()
    assert rows[0] == "image,class,similarity" and len(rows) == 7
    (tmp_path / "classes.txt").write_text("red\nblue\nred\n")
    assert "classes that come twice: red" in says(capsys, "zero-shot", run, *arguments)

    script = Path(__file__).parents[1] / "tools" / "zero_shot.py"
    picture = str(tmp_path / "plots" / "blue" / "0.png")
    call = [sys.executable, str(script), run, picture, "--classes", "red", "blue", "--templates", "something {}"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.split("\t")[0] == picture and len(done.stdout.split("\t")) == 3


@pytest.mark.parametrize(("world", "late"), [("1", True), ("2", False)])
def test_a_process_of_a_group_ends_before_its_interpreter_is_taken_down(world: str, late: bool) -> None:
    run = "from mmssl.cli import main; raise SystemExit(main(['shards', 'show', 'none']))"
    code = f"import atexit; atexit.register(print, 'late'); {run}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "WORLD_SIZE": world}
    )
    assert (done.returncode, "late" in done.stdout) == (2, late)
    assert done.stderr.startswith("mmssl: there is no shard none")


def test_doctor_names_versions_that_are_not_supported() -> None:
    from mmssl.doctor import _outside_bounds

    asked = ["numpy>=1.26,<2", "pillow>=1", "scipy<1; extra == 'test'", "scipy<1; python_version < '3'", "no-such<1"]
    (found,) = _outside_bounds(asked)
    assert (found.what, found.well, found.needed, found.mend) == ("numpy", False, True, "pip install 'numpy<2,>=1.26'")
    assert found.found == f"{np.__version__}; mmssl supports numpy<2,>=1.26"


def test_doctor_finds_this_installation_well(capsys: pytest.CaptureFixture[str]) -> None:
    from mmssl.doctor import Finding, diagnose, report

    findings = {f.what: f for f in diagnose()}
    assert findings["torch"].well and findings["one CUDA build"].well and findings["video and sound"].well
    assert all(isinstance(f, Finding) and (f.well or f.mend or not f.needed) for f in findings.values())
    assert report(findings.values())[1] == 0
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"] == 0


@pytest.mark.parametrize("room", ["encoders", "methods", "evals", "datasets", "configs"])
def test_list_prints_every_name(capsys: pytest.CaptureFixture[str], room: str) -> None:
    from mmssl.names import list_names

    assert cli.main(["list", room]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in list_names(room))


def test_zero_shot_on_shards(
    capsys: pytest.CaptureFixture[str], recipe_file: str, color_shards: Path, tmp_path: Path
) -> None:
    run, classes = str(tmp_path / "run"), tmp_path / "classes.txt"
    assert cli.main(["train", recipe_file, "--quiet", "--out", run]) == 0
    classes.write_text("red\ngreen\nblue\nwhite\n")
    capsys.readouterr()
    assert cli.main(["zero-shot", run, "--images", str(color_shards), "--classes", str(classes)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(line.count("\t") == 2 for line in said) == 64
    top1 = next(line.split() for line in said if line.startswith("top1"))
    assert float(top1[1]) > 0.5 and top1[-1] == "64"


def test_names_of_a_strangers_files_steer_no_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name in ("0.png", "0.\x1b]0;title\x07\x9b2Jjpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert cli.main(["shards", "show", str(folder)]) == 0
    assert cli.main(["shards", "show", str(tmp_path / "\x1b[2J none")]) == 2
    printed = capsys.readouterr()
    assert "\\x1b]0;title\\x07\\x9b2jjpg" in printed.out.lower() and "\\x1b[2J none" in printed.err
    assert not {"\x1b", "\x07", "\x9b"} & {*printed.out, *printed.err}
