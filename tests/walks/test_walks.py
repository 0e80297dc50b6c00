"""The README's three walks, from a clean folder, by its words: recipes made small, commands as they stand."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pages import blocks, commands, walk
from PIL import Image

from mmssl import cli, load_encoder, recipe
from mmssl.modalities import audio, video

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
import two_towers

RATE = 16_000
Walk = Callable[..., dict[str, str]]


@pytest.fixture
def walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Walk:
    """Returns what writes a walk's recipe, with smaller values, runs its commands and returns what each printed."""

    def run(number: int, *smaller: str) -> dict[str, str]:
        text = walk(number)
        (found,) = blocks(text, "yaml")
        tree = yaml.safe_load(found)
        for change in smaller:
            recipe.override(tree, change)
        (name,) = set(re.findall(r"`(\w+\.yaml)`", text))
        Path(name).write_text(yaml.safe_dump(tree))
        told = {}
        for line in commands(text):
            code = cli.main(shlex.split(line)[1:])
            told[line], errors = capsys.readouterr()
            assert code == 0, f"{line}: {errors[-1500:]}"
        return told

    monkeypatch.chdir(tmp_path)
    return run


def told_by(told: dict[str, str], verb: str) -> list[str]:
    """Returns the lines that the command which begins so has printed."""
    return next(text for line, text in told.items() if line.startswith(f"mmssl {verb}")).splitlines()


def table(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(file).read_text().splitlines()))


def picture(file: str) -> Image.Image:
    with Image.open(file) as opened:
        return opened.convert("RGB")


def noise(number: int, color: tuple[int, int, int], size: tuple[int, int] = (40, 32)) -> np.ndarray:
    return np.random.default_rng(number).normal(color, 40, (*size, 3)).clip(0, 255).astype(np.uint8)


def test_own_pictures_to_features_and_figures(walked: Walk) -> None:
    Path("photos").mkdir()
    for place, (kind, color) in enumerate({"cats": (200, 60, 60), "dogs": (60, 60, 200)}.items()):
        Path("pictures", kind).mkdir(parents=True)
        for number in range(15):
            Image.fromarray(noise(100 * place + number, color)).save(f"pictures/{kind}/{number}.jpg")
    for name, number in {"photos/a.jpg": 0, "photos/b.jpg": 1, "pictures/cats/again.jpg": 0}.items():
        Path(name).write_bytes(Path(f"pictures/cats/{number}.jpg").read_bytes())
    small = ("encoders.image.name=timm:test_resnet", "encoders.image.image_size=32", "train.samples=32")
    told = walked(1, *small, "tasks.simclr.batch=16", "tasks.simclr.data.workers=0")
    assert "train: 25 samples" in told_by(told, "shards build")[0]
    figures = {line.split()[0]: line.split()[1:] for line in told_by(told, "eval")[2:-1]}
    assert figures["linear/top1"][-1] == "6" and {"knn/k5", "knn/random_init/k5", "knn/raw/k5"} <= set(figures)
    features, names = np.load("pictures.npy"), table("pictures.npy.names.csv")
    assert features.shape == (31, load_encoder("runs/pictures/encoders/image").dim)
    assert [row["name"] for row in names][:2] == ["cats/0.jpg", "cats/1.jpg"]
    hits = [line.split() for line in told_by(told, "search")]
    assert {hits[0][1], hits[1][1]} == {"cats/0.jpg", "cats/again.jpg"} and hits[0][0] == hits[1][0] == "1.0000"
    groups = [(row["group"], row["name"]) for row in table("groups.csv")]
    assert {"cats/0.jpg", "cats/again.jpg"} <= {name for group, name in groups if group == groups[0][0]}
    for kind in ("embedding", "neighbors"):
        for file in told_by(told, f"plot runs/pictures {kind}"):
            assert len(picture(file).getcolors(1 << 20) or ()) > 50
    import timm

    theirs = timm.create_model("local-dir:resnet18", pretrained=True, num_classes=0).eval()
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = torch.rand(2, 3, 32, 32)
    ours = load_encoder("runs/pictures/encoders/image")(x).pooled
    torch.testing.assert_close(theirs((x - mean) / std), ours, atol=1e-5, rtol=1e-5)
    (code,) = blocks(walk(1), "python")
    exec(code, {})


def test_own_films_to_an_audio_visual_encoder_and_heat_maps(walked: Walk) -> None:
    Path("films").mkdir()
    for number in range(10):
        shown = np.zeros((24, 48, 64, 3), np.uint8)
        shown[:, 10:30, 5 * number : 5 * number + 15] = noise(number, (120, 200, 90), (20, 15))
        heard = 0.3 * np.sin(2 * np.pi * (300 + 60 * number) * np.arange(3 * RATE) / RATE)
        film = video.encode(shown, fps=8, audio=heard.astype(np.float32), sample_rate=RATE)
        Path(f"films/{number}.{'mov' if number % 2 else 'mp4'}").write_bytes(film)
    Path("films/notes.txt").write_text("not a film")
    Path("bell.wav").write_bytes(audio.encode(np.sin(np.arange(RATE) / 5).astype(np.float32), sample_rate=RATE))
    small = ("encoders.image.image_size=32", "encoders.image.widths=[8,16,16]", "encoders.image.depths=[1,1,1]")
    backbone = "encoders.audio.backbone={name: convnet, in_channels: 1, widths: [8, 16], depths: [1, 1]}"
    told = walked(2, *small, backbone, "train.samples=16", "tasks.avol.batch=8", "tasks.avol.data.workers=0")
    assert [line.split(" samples")[0] for line in told_by(told, "prepare")] == ["train: 8", "test: 2"]
    assert any(line.startswith("audio_visual/") for line in told_by(told, "train"))
    maps = told_by(told, "plot")
    assert maps and all(picture(file).width > 300 for file in maps)
    rows = table("films.npy.names.csv")
    assert len(rows) == 20 and {(row["start"], row["end"]) for row in rows} == {("0.0", "2.0"), ("1.0", "3.0")}
    about = json.loads(Path("films.npy.json").read_text())
    assert about["space"] == "avol" and np.allclose(np.linalg.norm(np.load("films.npy"), axis=1), 1, atol=1e-5)
    assert re.search(r"\d\.(mov|mp4)", told_by(told, "search")[0])


def test_a_clip_is_fine_tuned_on_own_pairs_and_is_a_clip_again(walked: Walk) -> None:
    from transformers import CLIPModel

    source = two_towers.clip(Path("models/clip"))
    Path("photos").mkdir()
    rows = ["file,caption"]
    for number in range(40):
        Path("photos", "ball" if number % 2 else "cube").mkdir(exist_ok=True)
        kind, color = ("ball", (200, 60, 60)) if number % 2 else ("cube", (60, 60, 200))
        Image.fromarray(noise(number, color)).save(f"photos/{kind}/{number}.jpg")
        rows.append(f"photos/{kind}/{number}.jpg,{'a red ball' if number % 2 else 'one old blue cube'}")
    Path("pairs.csv").write_text("\n".join(rows))
    Path("classes.txt").write_text("ball\ncube\n")
    told = walked(3, "train.samples=32", "tasks.clip.batch=16", "tasks.clip.data.workers=0", "train.precision=fp32")
    assert "train: 32 samples" in told_by(told, "shards build")[0]
    assert any(line.startswith("zero_shot/top1") or "top1" in line for line in told_by(told, "zero-shot"))
    tuned = CLIPModel.from_pretrained("clip-tuned").eval()
    before, after = source.state_dict(), tuned.state_dict()
    frozen = {key for key in before if key.startswith("text_model.embeddings")}
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    assert not torch.equal(before["visual_projection.weight"], after["visual_projection.weight"])
    far = {key: float((after[key] - before[key]).abs().max()) for key in before}
    assert 0 < far["logit_scale"] < 3e-4 and 0 < far["text_projection.weight"] < 3e-4, "two steps of Adam at 1e-4"
    embedded = load_encoder("runs/pairs/encoders/text").encode(two_towers.TEXTS, space="clip")
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained("clip-tuned")(two_towers.TEXTS, return_tensors="pt", padding=True)
    theirs = tuned(pixel_values=torch.zeros(1, 3, 32, 32), **{k: given[k] for k in ("input_ids", "attention_mask")})
    torch.testing.assert_close(embedded, theirs.text_embeds, atol=1e-5, rtol=0)
    (code,) = blocks(walk(3), "python")
    exec(code, {})
