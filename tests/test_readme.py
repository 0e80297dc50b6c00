"""What the README and the pages behind it tell a stranger to type works; its walks are tried in tests/walks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Command
from pages import README, ROOT, blocks, commands, without_walks
from PIL import Image

from mmssl import cli, names, recipe, train
from mmssl.data.writer import build

METHODS, TRAINING = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("methods", "training"))
TYPED = [line for page in (README, METHODS, TRAINING) for line in commands(page)]
RECIPES = [text for page in (README, METHODS) for text in blocks(page, "yaml")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, color_recipe: dict[str, Any]) -> Path:
    """A folder as the pages suppose it: runs, photos, classes, templates, shards, a recipe."""
    place = tmp_path_factory.mktemp("readme")
    train(color_recipe, out=place / "runs" / "demo", progress=False)
    train(color_recipe, out=place / "runs" / "my", progress=False)
    (place / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30), (200, 40, 40)).save(place / "photos" / f"{name}.jpg")
    for name in ("cats", "dogs"):
        (place / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(place / "pictures" / name / "x.png")
    build(str(place / "pictures"), place / "data" / "mine", workers=1)
    (place / "classes.txt").write_text("ball\ncube\n")
    (place / "templates.txt").write_text("a {}\n")
    (place / "my.yaml").write_text(yaml.safe_dump(color_recipe))
    return place


@pytest.mark.parametrize("command", sorted({c for c in TYPED if c.startswith("mmssl ")}))
def test_every_command_is_understood(command: str) -> None:
    arguments = cli.parse(shlex.split(command)[1:])
    named = getattr(arguments, "recipe", None)
    if named and not named.endswith(".yaml"):
        recipe.load(named, getattr(arguments, "overrides", []))
    if dataset := getattr(arguments, "dataset", None):
        assert dataset in names.list_names("datasets")


LONG = ("mmssl train", "mmssl prepare", "mmssl demo", "mmssl doctor")  # tried by their own tests


def test_the_quick_commands_run_in_the_order_they_stand(place: Path) -> None:
    for command in (line for page in (without_walks(), METHODS, TRAINING) for line in commands(page)):
        words = shlex.split(command)
        if command.startswith(LONG) or words[0] not in ("mmssl", "python"):
            continue
        call = [*(["-m", "mmssl"] if words[0] == "mmssl" else []), *words[1:]]
        done = Command([ROOT / word if word.startswith("tools/") else word for word in call], cwd=place)
        assert done.wait() == 0, f"{command}: {done.stderr[-1500:]}"
    assert (place / "predictions.csv").is_file() and (place / "mine.yaml").is_file()


@pytest.mark.parametrize("code", blocks(METHODS, "python"))
def test_every_piece_of_python_runs(code: str, place: Path) -> None:
    done = Command(["-c", code], cwd=place)
    assert done.wait() == 0, done.stderr[-1500:]
    assert done.stdout


@pytest.mark.parametrize("text", RECIPES)
def test_every_recipe_is_sound(text: str) -> None:
    recipe.check(yaml.safe_load(text))


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_page_is_named_by_the_readme() -> None:
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\(([^)]+)\)", README))
