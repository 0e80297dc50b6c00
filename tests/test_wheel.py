"""The wheel carries recipes, cards and the demo, and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmssl import names

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        wheel.extractall(place / "site")
    return place


def run(place: Path, *arguments: str) -> str:
    """Runs the command from the unpacked wheel, in a folder that holds nothing else."""
    (place / "elsewhere").mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(place / "site")}
    command = [sys.executable, "-m", "mmssl", *arguments]
    done = subprocess.run(command, env=env, cwd=place / "elsewhere", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    return done.stdout


@pytest.mark.parametrize("room", ["configs", "datasets", "methods", "encoders"])
def test_it_lists_what_the_checkout_lists(unpacked: Path, room: str) -> None:
    listed = [line.split()[0] for line in run(unpacked, "list", room).splitlines()]
    assert [name for name in listed if ":" not in name] == list(names.list_names(room))


def test_its_datasets_can_be_made(unpacked: Path) -> None:
    run(unpacked, "prepare", "bounce", "world", "--train", "2", "--test", "2", "--workers", "1")
    assert "2 samples" in run(unpacked, "shards", "show", "world/train")


def test_nothing_of_the_workshop_is_in_it(unpacked: Path) -> None:
    top = {path.relative_to(unpacked / "site").parts[0] for path in (unpacked / "site").rglob("*")}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mmssl"}


def test_type_checkers_know_that_it_is_annotated(unpacked: Path) -> None:
    assert (unpacked / "site" / "mmssl" / "py.typed").is_file()
