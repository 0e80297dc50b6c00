"""What the README tells a stranger to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Command
from PIL import Image

from mmssl import cli, names, recipe, train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, color_recipe: dict[str, Any]) -> Path:
    """A folder as the README supposes it: a run, photos, classes, templates, a folder per class, a recipe."""
    place = tmp_path_factory.mktemp("readme")
    train(color_recipe, out=place / "runs" / "demo", progress=False)
    train(color_recipe, out=place / "runs" / "my", progress=False)
    (place / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30), (200, 40, 40)).save(place / "photos" / f"{name}.jpg")
    for name in ("cats", "dogs"):
        (place / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(place / "pictures" / name / "x.png")
    (place / "classes.txt").write_text("ball\ncube\n")
    (place / "templates.txt").write_text("a {}\n")
    (place / "my.yaml").write_text(yaml.safe_dump(color_recipe))
    return place


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("mmssl ")])
def test_every_command_is_understood(command: str) -> None:
    arguments = cli.parse(shlex.split(command)[1:])
    named = getattr(arguments, "recipe", None)
    if named and named != "my.yaml":
        recipe.load(named, arguments.overrides)
    if dataset := getattr(arguments, "dataset", None):
        assert dataset in names.list_names("datasets")


LONG = ("mmssl train", "mmssl prepare", "mmssl demo", "mmssl doctor")  # tried by their own tests


def test_the_quick_commands_run_in_the_order_they_stand(place: Path) -> None:
    for command in COMMANDS:
        words = shlex.split(command)
        if command.startswith(LONG) or words[0] not in ("mmssl", "python"):
            continue
        call = [*(["-m", "mmssl"] if words[0] == "mmssl" else []), *words[1:]]
        done = Command([ROOT / word if word.startswith("tools/") else word for word in call], cwd=place)
        assert done.wait() == 0, f"{command}: {done.stderr[-1500:]}"
    assert (place / "predictions.csv").is_file() and (place / "data" / "mine" / "index.json").is_file()


@pytest.mark.parametrize("code", blocks("python"))
def test_every_piece_of_python_runs(code: str, place: Path) -> None:
    done = Command(["-c", code], cwd=place)
    assert done.wait() == 0, done.stderr[-1500:]
    assert done.stdout


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_recipe_is_sound(text: str) -> None:
    recipe.check(yaml.safe_load(text))


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
