"""What docs/plots.md tells to type works, and it names every kind."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmssl import cli, names, train

TEXT = (Path(__file__).parents[2] / "docs" / "plots.md").read_text()


def test_every_command_runs(
    color_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmssl.data.in_workers.WORKERS", 0)
    short = {**color_recipe["train"], "samples": 32, "warmup": 0}
    train({**color_recipe, "train": short, "evals": {}}, out="runs/my", progress=False)
    Path("photos").mkdir()
    for number in range(5):
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(f"photos/{number}.jpg")
    (commands,) = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    for line in commands.splitlines():
        assert cli.main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    made = sorted(str(path) for path in Path().rglob("*.png") if path.parts[0] != "photos")
    assert made == [
        "pictures/pca.png",
        "runs/my/plots/embedding/embedding-pca.png",
        "runs/my/plots/neighbors/neighbors.png",
        "runs/my/plots/similarity/similarity.png",
        "runs/timm_vit_tiny_patch16_224/plots/attention/attention.png",
    ]


def test_every_kind_has_its_row() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.M)) == set(names.list_names("plots"))
