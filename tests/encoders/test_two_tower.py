"""What CLIP, SigLIP and CLAP in folders of transformers bring: embeddings, projections, scale and bias."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.clip import CLIP
from mmssl.methods.siglip import SigLIP

sys.path.insert(0, str(Path(__file__).parent))
import two_towers
from two_towers import RATE, TEXTS, sounds


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def towers(folder: Path, *modalities: str) -> dict[str, Any]:
    return {one: create_encoder(f"transformers:{folder}", modality=one).eval() for one in modalities}


@pytest.mark.parametrize("fused", [False, True])
@torch.inference_mode()
def test_clap_gives_its_own_embeddings(tmp_path: Path, fused: bool) -> None:
    from transformers import AutoTokenizer, ClapFeatureExtractor

    model = two_towers.clap(tmp_path, fused=fused)
    hears, heard = ClapFeatureExtractor.from_pretrained(tmp_path), sounds()
    given = hears([one.numpy() for one in heard], sampling_rate=RATE, return_tensors="pt")
    given["is_longer"] = torch.zeros(2, 1, dtype=torch.bool)  # of a batch without any, it says so of one at random
    words = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    words.pop("token_type_ids", None)
    theirs = model(**given, **words)
    ours = towers(tmp_path, "audio", "text")
    batch = ours["audio"].preprocess.collate([ours["audio"].preprocess(one) for one in heard])
    torch.testing.assert_close(ours["audio"].front(batch), given["input_features"][:, :1], atol=1e-3, rtol=1e-4)
    close(ours["audio"].encode(heard, space="clap"), theirs.audio_embeds)
    close(ours["text"].encode(TEXTS, space="clap"), theirs.text_embeds)
    close(ours["audio"].encode(heard), model.audio_model(**given).pooler_output)
    tokens = ours["audio"](batch).tokens
    close(tokens.mean(1), ours["audio"].encode(heard))
    save_encoder(ours["audio"], tmp_path / "ours")
    close(load_encoder(tmp_path / "ours").encode(heard, space="clap"), theirs.audio_embeds)


def test_a_longer_sound_of_clap_is_cut_to_its_middle(tmp_path: Path) -> None:
    two_towers.clap(tmp_path)
    heard = torch.randn(2 * RATE)
    preprocess = towers(tmp_path, "audio")["audio"].preprocess
    torch.testing.assert_close(preprocess(heard), heard[RATE // 2 : RATE // 2 + RATE])
    short = torch.arange(1.0, 3001)
    expected = torch.cat([short, short, torch.zeros(2000)])
    torch.testing.assert_close(preprocess(short), expected)
    half = create_encoder(f"transformers:{tmp_path}", modality="audio", seconds=0.5)
    assert half.preprocess.blank().shape == (RATE // 2,)


@pytest.mark.parametrize("family", ["clip", "siglip", "clap"])
def test_an_objective_begins_with_what_the_model_brings(tmp_path: Path, family: str) -> None:
    model = getattr(two_towers, family)(tmp_path)
    keys = ("audio" if family == "clap" else "image", "text")
    encoders = towers(tmp_path, *keys)
    clip = CLIP(encoders)
    size = {"clip": 16, "siglip": 32, "clap": 24}[family]
    scale = {"clip": math.exp(4.0), "siglip": math.exp(4.8), "clap": math.exp(2.9)}[family]
    assert clip.scale().item() == pytest.approx(scale, rel=1e-6)
    clip.after_step(encoders, 0.0)
    assert clip.scale().item() == pytest.approx(scale, rel=1e-6), "a scale above the ceiling is not cut"
    assert {key: clip.heads[key].embed_dim for key in keys} == dict.fromkeys(keys, size)
    for key in keys:
        assert clip.heads[key] is encoders[key].spaces[family], "what is trained is what the encoder knows"
    siglip = SigLIP(encoders, embed_dim=size)
    assert siglip.scale().item() == pytest.approx(scale, rel=1e-6)
    assert siglip.bias.item() == pytest.approx(-12.5 if family == "siglip" else -10.0)
    assert siglip.heads["text"] is encoders["text"].spaces[family]
    if family == "clip":
        torch.testing.assert_close(clip.heads["image"].layers[0].weight, model.visual_projection.weight)


def test_options_come_before_what_the_model_brings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_towers.siglip(tmp_path)
    encoders = towers(tmp_path, "image", "text")
    clip = CLIP(encoders, temperature=0.5, max_scale=40.0)
    assert clip.scale().item() == pytest.approx(2.0) and clip.scale.ceiling == pytest.approx(math.log(40))
    siglip = SigLIP(encoders, scale=3.0, bias=0.0)
    assert siglip.scale().item() == pytest.approx(3.0) and siglip.bias.item() == 0.0
    assert capsys.readouterr().out == ""


def test_projections_that_do_not_fit_are_dropped_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two_towers.clip(one), two_towers.clip(two)
    encoders = towers(one, "image", "text")
    other = CLIP(encoders, embed_dim=8)
    said = capsys.readouterr().out
    assert "projections of image, text are dropped" in said and "embed_dim is 8, theirs is 16" in said
    assert other.heads["text"].embed_dim == 8 and other.scale().item() == pytest.approx(1 / 0.07)
    assert CLIP(encoders, hidden=(20,)).heads["image"].config()["hidden"] == [20]
    assert "hidden is [20]" in capsys.readouterr().out
    mixed = CLIP({"image": encoders["image"], "text": towers(two, "text")["text"]})
    said = capsys.readouterr().out
    assert str(one) in said and str(two) in said and mixed.heads["image"].embed_dim == 512
    alone = CLIP({"image": encoders["image"], "text": create_encoder("transformer", width=8, depth=1, heads=1)})
    assert capsys.readouterr().out == "" and alone.heads["text"].embed_dim == 16
    assert alone.heads["image"] is encoders["image"].spaces["clip"]


def test_what_clap_cannot_be_told(tmp_path: Path) -> None:
    two_towers.clap(tmp_path)
    name = f"transformers:{tmp_path}"
    with pytest.raises(UserError, match="say modality: audio or modality: text"):
        create_encoder(name, modality="image")
    with pytest.raises(UserError, match="leave `mean` and `std` out"):
        create_encoder(name, modality="audio", mean=(0.0,))
    with pytest.raises(UserError, match="pads sounds by 'repeat'"):
        create_encoder(name, modality="audio", extractor={"padding": "repeat"})
    silent = create_encoder(name, modality="audio", extractor={"padding": "pad"}).preprocess(torch.ones(10))
    assert silent.sum() == 10
