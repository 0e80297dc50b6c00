"""What docs/encode.md tells to type works, in the order in which it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmssl import cli
from mmssl.data.writer import build
from mmssl.modalities import video

TEXT = (Path(__file__).parents[2] / "docs" / "encode.md").read_text()


def test_every_command_and_the_python_run(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(both, "runs/my")
    for name, grey in (("a", 20), ("b", 200)):
        Path("photos").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (grey, 0, 0)).save(f"photos/{name}.jpg")
    Path("captions.csv").write_text("file,caption\nphotos/a.jpg,a red cube\nphotos/b.jpg,a ball\n")
    Path("films").mkdir()
    Path("films/film.mp4").write_bytes(video.encode(np.zeros((20, 16, 16, 3), np.uint8), fps=4))
    build("photos", "data/mine", workers=1)
    for line in [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines()]:
        words = shlex.split(line)[1:]
        quiet = ["--quiet", "--workers", "0"] if words[0] == "encode" else []
        assert cli.main([*words, *quiet]) == 0, (line, capsys.readouterr().err)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names: dict[str, Any] = {}
    exec(code.replace("progress=False", "progress=False, workers=0"), names)
    assert list(names["found"].skipped) == ["photos/gone.jpg"] and names["windows"].spans.shape == (4, 2)
    assert Path("keep.txt").read_text().splitlines()[0] == "a.jpg" and Path("groups.csv").is_file()
