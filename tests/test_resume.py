"""A run that stops and is taken up again ends as one that did not, whatever its View and its task look at."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from mmssl import names, train, trainer
from mmssl.checkpoint import steps
from mmssl.modalities.video import encode
from mmssl.types import View

LATER = '''
from mmssl.numerics.color import as_unit
from mmssl.transforms.image import Crop, Flip
from mmssl.views.composed import Composed
from mmssl.views.template import Views

class Later(Composed):
    """Shows images that are the darker the further training is."""

    def on_device(self, batch):
        batch = super().on_device(batch)
        batch.views["image"] = [as_unit(x) * (1 - self.progress / 2) for x in batch.views["image"]]
        return batch

view = Views(2, image=[Crop(scale=(0.9, 1.0)), Flip()], kind=Later)
'''


def on_colors(color_recipe: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """Returns a run of a method on images alone: 12 steps of three passes over the set."""
    recipe = copy.deepcopy(color_recipe)
    return {
        "encoders": {"image": recipe["encoders"]["image"]},
        "tasks": {"task": {**recipe["tasks"]["clip"], "method": method}},
        "train": {"samples": 192, "precision": "fp32", "save_every": 16, "deterministic": True},
    }


def on_films(folder: Path, view: dict[str, Any]) -> dict[str, Any]:
    """Returns a run of AVTS: 12 steps."""
    with webdataset.TarWriter(str(folder / "films.tar")) as writer:
        for number in range(8):
            noise = np.random.default_rng(number)
            film = noise.integers(0, 255, (10, 16, 16, 3), dtype=np.uint8)
            sound = noise.uniform(-0.5, 0.5, 16_000)
            writer.write({"__key__": str(number), "mp4": encode(film, fps=5.0, audio=sound, sample_rate=8000)})
    picture = {"name": "convnet", "image_size": 16, "widths": [4], "depths": [1]}
    return {
        "encoders": {
            "video": {"name": "frames", "frames": 2, "fps": 5.0, "temporal": 1, "image": picture},
            "audio": {"name": "spectrogram", "seconds": 0.4, "sample_rate": 8000, "mels": 16, "window": 0.02}
            | {"backbone": {**picture, "in_channels": 1}},
        },
        "tasks": {
            "task": {
                "data": {"shards": str(folder / "films.tar"), "workers": 0},
                "method": {"name": "avts", "objective": {"embed_dim": 8}, "view": view},
                "batch": 4,
            }
        },
        "train": {"samples": 48, "precision": "fp32", "save_every": 4, "deterministic": True},
    }


RESUMED: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
    "Shifted": lambda _, folder: on_films(folder, {"hard": 1.0, "easy_until": 0.5}),
    "Later": lambda colors, _: on_colors(
        colors,
        {
            "name": "directclr",
            "objective": {"dims": 6},
            "view": {"name": "mine.later:view", "image": {"flip": {"p": 0.4}}},
        },
    ),
    "before every epoch": lambda colors, _: on_colors(
        colors, {"name": "deepcluster", "objective": {"clusters": 4, "pca": 4}}
    ),
    "before the first epoch": lambda colors, _: on_colors(
        colors,
        {"name": "colorization", "objective": {"bins": 4, "neighbors": 2, "widths": [8], "learn_from": 200}},
    ),
}


def test_every_view_that_looks_at_progress_is_resumed_here() -> None:
    files = [*names.home("views").glob("*.py"), *names.home("methods").glob("*.py")]
    modules = [importlib.import_module(f"mmssl.{file.parent.name}.{file.stem}") for file in files]
    views = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    look = {kind.__name__ for kind in views if issubclass(kind, View) and "self.progress" in inspect.getsource(kind)}
    assert look - {"View"} <= RESUMED.keys()


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("after", [7, 8])  # of 12 steps: in the middle of a pass, and at its end
def test_a_resumed_run_is_shown_the_same(
    name: str, after: int, color_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "later.py").write_text(LATER)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = RESUMED[name](color_recipe, tmp_path)
    whole = train(recipe, out=tmp_path / "whole", progress=False)
    stop_at(after, monkeypatch)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, out=tmp_path / "run", progress=False)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "results.json").exists()
    assert steps(tmp_path / "run" / "checkpoints")[0].name == f"step_{after}"
    train(recipe, out=tmp_path / "run", resume=True, progress=False)
    mine, theirs = (weights(folder) for folder in (whole, tmp_path / "run"))
    assert mine.keys() == theirs.keys()
    assert not [key for key, value in mine.items() if not torch.equal(value, theirs[key])]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(steps(folder / "checkpoints")[0] / "state.pt", weights_only=True)
    assert state["step"] == 12
    return state["model"]


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs fail before a step."""
    real = trainer.Trainer.train_step

    def stops(self: Any) -> Any:
        if self.step == step:
            raise RuntimeError("power cut")
        return real(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", stops)
