"""Encoder folders: strict, offline, without the trainer; checkpoints: whole or absent."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmssl import create_encoder, load_encoder, save_encoder
from mmssl.checkpoint import load_state, save_state, steps
from mmssl.encoders import vit
from mmssl.errors import UserError
from mmssl.nn.head import Projection

SMALL = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder = create_encoder("vit", **SMALL)
    encoder.spaces["clip"] = Projection(encoder.dim, out=8, hidden=(12,))
    save_encoder(encoder, tmp_path / "image")
    return tmp_path / "image"


def test_a_saved_encoder_is_the_same_encoder(tmp_path: Path) -> None:
    encoder = create_encoder("vit", **SMALL).eval()
    encoder.spaces["clip"] = Projection(encoder.dim, out=8).eval()
    save_encoder(encoder, tmp_path / "image")
    loaded = load_encoder(tmp_path / "image")
    pictures = torch.randint(0, 256, (3, 3, 40, 30), dtype=torch.uint8)
    for space in (None, "clip"):
        torch.testing.assert_close(loaded.encode(pictures, space=space), encoder.encode(pictures, space=space))
    assert (loaded.dim, loaded.modality, loaded.preprocess) == (16, "image", encoder.preprocess)
    assert not loaded.training


def test_it_loads_offline_where_the_trainer_cannot_be_imported(folder: Path) -> None:
    code = f"""
import sys, socket
for name in ("trainer", "multitask", "recipe", "judge", "methods", "optim", "data", "evals", "losses", "views", "log"):
    sys.modules[f"mmssl.{{name}}"] = None
def refuse(*a, **k): raise OSError("no network")
socket.socket.connect = refuse
import mmssl, numpy as np
encoder = mmssl.load_encoder({str(folder)!r})
print(tuple(encoder.encode(np.zeros((20, 20, 3), np.uint8), space="clip").shape), encoder.dim, encoder.modality)
heavy = ("webdataset", "transformers", "timm", "av", "tensorboard")
print([name for name in sys.modules if name.split(".")[0] in heavy])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(1, 8) 16 image", "[]"], done.stderr[-2000:]


def test_what_is_no_encoder_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no encoder folder \\(no such folder\\)"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="it holds image"):
        load_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(UserError, match="not of mmssl's format"):
        load_encoder(folder)
    config["encoder"]["options"]["width"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="weights do not fit the architecture"):
        load_encoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_encoder(folder)


def test_damaged_weights_are_one_clear_error(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        load_encoder(folder)


def test_a_folder_cannot_name_foreign_code_unless_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["name"] = "their.code:encoder"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trust_code=True"):
        load_encoder(folder)
    from types import ModuleType

    module = ModuleType("their.code")
    module.encoder = vit.encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their", ModuleType("their"))
    monkeypatch.setitem(sys.modules, "their.code", module)
    assert load_encoder(folder, trust_code=True).dim == 16


def test_raw_inputs_of_every_kind_embed_alike(folder: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    encoder = load_encoder(folder)
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "x.png")
    kinds = [array, picture, tmp_path / "x.png", str(tmp_path / "x.png"), torch.from_numpy(array).permute(2, 0, 1)]
    expected = encoder.encode(array)
    assert expected.shape == (1, 16)
    for kind in kinds:
        torch.testing.assert_close(encoder.encode(kind), expected)
        torch.testing.assert_close(encoder.encode([kind, array], batch_size=1), expected.expand(2, -1))
    with pytest.raises(UserError, match="nothing to encode"):
        encoder.encode([])


def test_the_newest_state_that_loads_is_taken_and_old_ones_go(tmp_path: Path) -> None:
    assert load_state(tmp_path) == (None, [])
    for step in (2, 10, 9):
        save_state(tmp_path, step, {"step": step, "x": torch.ones(3)}, keep=2)
    assert [path.name for path in steps(tmp_path)] == ["step_10", "step_9"]
    (tmp_path / "step_10" / "state.pt").write_bytes(b"half")
    (tmp_path / ".step_11.tmp").mkdir()
    state, problems = load_state(tmp_path)
    assert state is not None and state["step"] == 9
    assert len(problems) == 1 and "step_10 does not load" in problems[0]
    shutil.rmtree(tmp_path / "step_9")
    assert load_state(tmp_path)[0] is None
