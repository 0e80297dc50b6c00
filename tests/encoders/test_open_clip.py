"""open_clip's models give open_clip's own embeddings, by folder, by architecture with a state dict, and saved."""

from __future__ import annotations

import builtins
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.encoders import create_encoder, fetched
from mmssl.errors import UserError
from mmssl.methods.siglip import SigLIP

sys.path.insert(0, str(Path(__file__).parent))
import two_towers
from two_towers import OPEN_CLIP, pictures

TEXTS = ["a red ball", "It's 25 O'Clock!! on  the\tRIVER", "Čeština – naïve 中文 🙂", "x" * 300]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def towers(name: str, **options: Any) -> dict[str, Any]:
    return {one: create_encoder(f"open_clip:{name}", modality=one, **options).eval() for one in ("image", "text")}


def siglip_like() -> dict[str, Any]:
    """Returns a config with most that SigLIP's have: no causal mask, the last of a full text, biases, a timm tower."""
    text = {**OPEN_CLIP["text_cfg"], "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    vision = {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
    return {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text, "custom_text": True, "init_logit_bias": -10}


CONFIGS: dict[str, Any] = {"clip": lambda: OPEN_CLIP, "siglip": siglip_like}


@pytest.mark.parametrize("kind", CONFIGS)
@torch.inference_mode()
def test_a_folder_gives_open_clips_embeddings(tmp_path: Path, kind: str) -> None:
    open_clip = pytest.importorskip("open_clip")
    mode = {"clip": "shortest", "siglip": "squash"}[kind]
    model = two_towers.open_clip(tmp_path, CONFIGS[kind](), resize_mode=mode)
    see = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")[2]
    pixels = torch.stack([see(picture) for picture in pictures()])
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    ours = towers(str(tmp_path))
    batch = ours["text"].preprocess.collate(TEXTS)
    torch.testing.assert_close(batch.values, ids[:, : batch.values.shape[1]])
    assert batch.lengths.tolist() == [5, 12, 12, 12]
    shown = torch.stack([ours["image"].preprocess(picture) for picture in pictures()])
    close(ours["image"].front(shown), pixels)
    expected = {"image": model.encode_image(pixels, normalize=True), "text": model.encode_text(ids, normalize=True)}
    inputs = {"image": pictures(), "text": TEXTS}
    for key, encoder in ours.items():
        close(encoder.encode(inputs[key], space="open_clip"), expected[key])
        save_encoder(encoder, tmp_path / key)
        again = load_encoder(tmp_path / key)
        close(again.encode(inputs[key], space="open_clip"), expected[key])
    if kind == "clip":
        features = ours["image"](shown)
        assert features.grid == (4, 4) and features.tokens.shape == (3, 16, 32) and ours["image"].dim == 32
        assert ours["text"](batch).tokens.shape == (4, 12, 24)
    objective = SigLIP(ours)
    assert objective.scale().item() == pytest.approx(torch.tensor(3.5).exp().item(), rel=1e-6)
    assert objective.bias.item() == (-7.5 if kind == "siglip" else -10.0)
    assert objective.heads["image"].embed_dim == {"clip": 16, "siglip": 20}[kind]


@torch.inference_mode()
def test_an_architecture_takes_a_state_dict(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    model = two_towers.open_clip(tmp_path / "folder")
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "mine", "state_dict": state}, tmp_path / "epoch_3.pt")
    for file in (tmp_path / "epoch_3.pt", tmp_path / "folder" / "open_clip_model.safetensors"):
        ours = towers("", architecture=OPEN_CLIP, checkpoint=str(file), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
        from_folder = towers(str(tmp_path / "folder"))
        for key, given in (("image", pictures()), ("text", TEXTS)):
            close(ours[key].encode(given, space="open_clip"), from_folder[key].encode(given, space="open_clip"))
    fresh = create_encoder("open_clip", architecture=OPEN_CLIP, modality="text")
    assert fresh.joint is None and not fresh.spaces and fresh.dim == 24 and not fresh.learns_preprocess
    text = {**OPEN_CLIP["text_cfg"], "vocab_size": 300, "hf_tokenizer_name": "some/where"}
    learns = create_encoder("open_clip", architecture={**OPEN_CLIP, "text_cfg": text}, modality="text")
    assert learns.learns_preprocess
    learns.learn_preprocess(["ab ab ab"])
    assert not learns.learns_preprocess and learns.preprocess.collate(["ab"]).lengths.tolist() == [2]


def test_a_published_tag_brings_its_own_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")
    two_towers.open_clip(tmp_path)
    file = str(tmp_path / "open_clip_model.safetensors")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: dict(OPEN_CLIP) if name == "ViT-B-32" else None)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda values: file)
    values = {"url": "x", "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear", "quick_gelu": True}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: values)
    image = create_encoder("open_clip:ViT-B-32", modality="image", checkpoint="openai")
    assert image.mean == (0.1, 0.2, 0.3) and image.std == pytest.approx(open_clip.OPENAI_DATASET_STD)
    assert image.preprocess.interpolation == "bilinear" and image.architecture["quick_gelu"]
    with pytest.raises(UserError, match="'opanai' is no file and no tag; did you mean 'openai'"):
        create_encoder("open_clip:ViT-B-32", modality="image", checkpoint="opanai")


def test_a_hub_id_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    model = two_towers.open_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")

    def cached(name: str, file: str, **_: Any) -> str | None:
        assert name == "some/where"
        return str(tmp_path / file) if (tmp_path / file).exists() else None

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    one = create_encoder("open_clip:hf-hub:some/where", modality="image").eval()
    assert one.mean == (0.4, 0.5, 0.6)
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        close(one.embed(x, space="open_clip"), model.encode_image(one.front(x), normalize=True))


def test_a_tokenizer_in_the_folder_is_cleaned_for_as_open_clip_does(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    words = two_towers.tokenizer()
    text = {**OPEN_CLIP["text_cfg"], "vocab_size": len(words), "hf_tokenizer_name": "some/where", "pool_type": "last"}
    config = {**OPEN_CLIP, "text_cfg": {**text, "tokenizer_kwargs": {"clean": "canonicalize"}}}
    words.save_pretrained(tmp_path)
    model = two_towers.open_clip(tmp_path, config)
    given = ["A red, Ball!", "one  old_blue (cube) rolls."]
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(given)
    text = create_encoder(f"open_clip:{tmp_path}", modality="text").eval()
    batch = text.preprocess.collate(given)
    assert batch.values.tolist() == ids[:, : batch.values.shape[1]].tolist() and 0 not in batch.values
    with torch.inference_mode():
        close(text.encode(given, space="open_clip"), model.encode_text(ids, normalize=True))


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    two_towers.open_clip(folder)
    empty.mkdir()
    weights = str(folder / "open_clip_model.safetensors")
    wide = {**OPEN_CLIP, "embed_dim": 17}
    heard = {**OPEN_CLIP, "text_cfg": {"hf_model_name": "bert-base"}}
    bare: Any = {"modality": "image"}
    for name, options, expected in [
        ("", {}, "takes a folder, hub id or architecture"),
        (f":{empty}", {}, "is no folder of open_clip"),
        (":ViT-B-23", {}, "no such architecture; did you mean"),
        (f":{folder}", {"checkpoint": weights}, "leave `checkpoint` out"),
        ("", {"architecture": OPEN_CLIP, "checkpoint": str(tmp_path / "no.pt")}, "there are no weights at"),
        ("", {"architecture": wide, "checkpoint": weights}, "do not fit"),
        ("", {"architecture": heard}, "none of transformers"),
        ("", {"architecture": {"embed_dim": 3}}, "model_cfg"),
        (":hf-hub:no/such", {}, "hf-hub:no/such"),
    ]:
        with pytest.raises(UserError, match=expected) as error:
            create_encoder(f"open_clip{name}", **bare, **options)
        assert "\n" not in str(error.value)
    changed = json.loads((folder / "open_clip_config.json").read_text())
    changed["preprocess_cfg"]["resize_mode"] = "longest"
    (folder / "open_clip_config.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="resize_mode is 'longest'"):
        create_encoder(f"open_clip:{folder}", **bare)


def test_a_strangers_config_reads_nothing_from_elsewhere() -> None:
    def found(**vision: Any) -> list[Any]:
        options = {"architecture": {**OPEN_CLIP, "vision_cfg": vision}, "modality": "image"}
        return list(fetched("open_clip", options, trust_code=False))

    assert found(width=3) == found(timm_model_name="resnet10t") == []
    assert found(timm_model_name="hf-hub:some/where") and found(hf_model_name="some/where")
    assert list(fetched("open_clip:ViT-B-32", {}, trust_code=False))
    assert list(fetched("open_clip", {"architecture": OPEN_CLIP, "checkpoint": "x.pt"}, trust_code=False))


def test_nothing_in_a_state_dict_runs(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    marker = tmp_path / "marker"

    class Marks:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    torch.save({"state_dict": Marks()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="do not fit") as error:
        create_encoder("open_clip", architecture=OPEN_CLIP, checkpoint=str(tmp_path / "x.pt"), modality="image")
    assert "\n" not in str(error.value) and not marker.exists()
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert marker.exists(), "it would have"


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'mmssl\[open_clip\]'"):
        create_encoder("open_clip:ViT-B-32", modality="image")
