"""In, at rate 0 and trained, and out again: embeddings and probabilities are those of transformers and open_clip."""

from __future__ import annotations

import io
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl import loop, recipe
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.exports.clip import export_clip
from mmssl.loading import load_run

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
import two_towers
from two_towers import RATE, TEXTS, pictures, sounds

METHOD = {"clip": "clip", "siglip": "siglip", "clap": "clip", "open_clip": "clip"}


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of eight sounds with texts."""
    import webdataset

    folder = tmp_path_factory.mktemp("heard")
    random = np.random.default_rng(0)
    with webdataset.TarWriter(str(folder / "part-0000.tar")) as writer:
        for number in range(8):
            file = io.BytesIO()
            with wave.open(file, "wb") as sound:
                sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(RATE)
                sound.writeframes(random.integers(-9000, 9000, RATE, dtype=np.int16).tobytes())
            writer.write({"__key__": f"{number}", "wav": file.getvalue(), "txt": TEXTS[number % 3]})
    return folder


def trained(source: Path, shards: Path, out: Path, family: str, lr: float, **objective: Any) -> Path:
    """Runs two steps of a task of that family, named `clip`, on both towers of a folder."""
    keys = ("audio" if family == "clap" else "image", "text")
    name = f"{'open_clip' if family == 'open_clip' else 'transformers'}:{source}"
    tree = {
        "name": "run",
        "encoders": {key: {"name": name, "modality": key} for key in keys},
        "tasks": {
            "clip": {
                "data": {"shards": str(shards), "workers": 0},
                "method": {"name": METHOD[family], "objective": objective},
                "batch": 8,
            }
        },
        "optim": {"name": "adamw", "lr": lr},
        "train": {"samples": 16, "precision": "fp32"},
    }
    return loop.fit(recipe.check(tree), out=out, progress=False)


def embedded_by(family: str, folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Returns what the other library makes of the folder: embeddings, and logits of the first modality over texts."""
    if family == "open_clip":
        import open_clip

        model, _, see = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        seen = torch.stack([see(picture) for picture in pictures()])
        image, text, *numbers = model.eval()(seen, open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS))
        return {"image": image, "text": text}, numbers[0] * image @ text.T
    import transformers

    kind = {"clip": "CLIPModel", "siglip": "SiglipModel", "clap": "ClapModel"}[family]
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    pad = {"padding": "max_length", "max_length": 12} if family == "siglip" else {"padding": True}
    given = words(TEXTS, return_tensors="pt", **pad)
    given.pop("token_type_ids", None)
    if family == "siglip":
        del given["attention_mask"]
    if family == "clap":
        hears = transformers.ClapFeatureExtractor.from_pretrained(folder)
        given |= hears([one.numpy() for one in waves()], sampling_rate=RATE, return_tensors="pt")
        output = model(**given)
        return {"audio": output.audio_embeds, "text": output.text_embeds}, output.logits_per_audio
    sees = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    output = model(**given, **sees(pictures(), return_tensors="pt"))
    return {"image": output.image_embeds, "text": output.text_embeds}, output.logits_per_image


def waves() -> list[Tensor]:
    torch.manual_seed(0)
    return sounds()


def embedded_by_run(run: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the same of a run of ours."""
    found = load_run(run)
    given = {"image": pictures, "text": lambda: TEXTS, "audio": waves}
    embedded = {key: one.encode(given[key](), space="clip") for key, one in found.encoders.items()}  # type: ignore[operator]
    first, text = embedded.values() if "audio" in embedded else (embedded["image"], embedded["text"])
    objective: Any = found.tasks["clip"].objective
    return embedded, objective.scale() * first @ text.T + getattr(objective, "bias", 0.0)


def same(found: tuple[dict[str, Tensor], Tensor], expected: tuple[dict[str, Tensor], Tensor], family: str) -> None:
    assert found[0].keys() == expected[0].keys()
    for key in found[0]:
        torch.testing.assert_close(found[0][key], expected[0][key], atol=1e-5, rtol=0)
    chance: Callable[[Tensor], Tensor] = torch.sigmoid if family == "siglip" else lambda x: x.softmax(1)
    torch.testing.assert_close(chance(found[1]), chance(expected[1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", METHOD)
@torch.no_grad()
def test_in_and_out(family: str, tmp_path: Path, color_shards: Path, heard: Path) -> None:
    if family == "open_clip":
        pytest.importorskip("open_clip")
    source, shards = tmp_path / "source", heard if family == "clap" else color_shards
    (two_towers.open_clip_of_words if family == "open_clip" else getattr(two_towers, family))(source)
    original = embedded_by(family, source)
    assert original[1].std() > 0.01, "samples are told apart"
    with torch.enable_grad():
        still = trained(source, shards, tmp_path / "still", family, 0.0)
        moved = trained(source, shards, tmp_path / "moved", family, 1e-3)
    same(embedded_by_run(still), original, family)
    ours = embedded_by_run(moved)
    assert (ours[0]["text"] - original[0]["text"]).abs().max() > 1e-3 and (ours[1] - original[1]).abs().max() > 1e-3
    out = tmp_path / "out"
    export_clip(moved, out, "open_clip" if family == "open_clip" else "transformers")
    same(embedded_by(family, out), ours, family)
    with pytest.raises(UserError, match="is not empty"):
        export_clip(moved, out, "transformers")


@torch.no_grad()
def test_another_embed_dim_goes_out_too(tmp_path: Path, color_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("open_clip")
    for family in ("clip", "open_clip"):
        source, out = tmp_path / family, tmp_path / f"{family}_out"
        getattr(two_towers, family)(source)
        with torch.enable_grad():
            run = trained(source, color_shards, tmp_path / f"{family}_run", family, 1e-3, embed_dim=8)
        assert "embed_dim is 8, theirs is 16" in capsys.readouterr().out
        export_clip(run, out, "open_clip" if family == "open_clip" else "transformers", space="clip")
        found = embedded_by(family, out)
        assert found[0]["text"].shape == (3, 8)
        same(found, embedded_by_run(run), family)
        assert "dropped" not in capsys.readouterr().out, (
            "a run that is opened again has the heads that it was trained with"
        )


def test_what_cannot_go_out_is_said(tmp_path: Path, color_shards: Path) -> None:
    source = tmp_path / "source"
    two_towers.clip(source)
    run = trained(source, color_shards, tmp_path / "run", "clip", 1e-3, hidden=[20])
    for options, message in [
        ({"library": "open_clip"}, "open_clip has no model of it"),
        ({"library": "transformers"}, "the image head is linear layers of 32 to 20 numbers and 20 to 512 numbers, but"),
        ({"library": "transformers", "space": "clap"}, "no space 'clap' of two towers; did you mean 'clip'"),
    ]:
        with pytest.raises(UserError, match=message):
            export_clip(run, tmp_path / "out", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(UserError, match="is no run folder"):
        export_clip(source, tmp_path / "out", "transformers")


def test_the_folder_is_compared_with_the_run(
    tmp_path: Path, color_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    two_towers.clip(source)
    run = trained(source, color_shards, tmp_path / "run", "clip", 1e-3)
    made = create_encoder

    def damaged(name: str, **options: Any) -> Any:
        encoder = made(name, **options)
        next(encoder.parameters()).data.mul_(1.1)
        return encoder

    monkeypatch.setattr("mmssl.exports.clip.create_encoder", damaged)
    with pytest.raises(UserError, match="embeds image otherwise than the run, by up to"):
        export_clip(run, tmp_path / "out", "transformers")
