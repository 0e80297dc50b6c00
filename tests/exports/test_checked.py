"""Encoders that came in, trained a step and went out give the same embeddings where the other library opens them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmssl import cli, create_encoder, load_encoder, save_encoder
from mmssl.encoders.published import load_published
from mmssl.errors import UserError
from mmssl.exports import checked
from mmssl.exports.checked import export
from mmssl.exports.plain import Plain, random_batch
from mmssl.nn.head import Projection
from mmssl.types import Encoder, Features, Ragged

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
SMALL = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
BERT = {"vocab_size": 10, "max_position_embeddings": 24, **TINY}
VIT = {"image_size": 16, "patch_size": 8, **TINY}


def trained(name: str, **options: Any) -> Encoder:
    """An encoder after steps that are large enough for every weight, and BatchNorm's statistics, to be its own."""
    return stepped(create_encoder(name, **options))


def stepped(encoder: Encoder) -> Encoder:
    encoder.train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05)
    for seed in range(2):
        encoder(random_batch(encoder, 4, seed=seed)).pooled.square().mean().backward()
        optimizer.step()
    return encoder.eval()


def close(ours: Tensor, theirs: Any) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-5, atol=1e-5)


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in ((40, 30, 3), (50, 90, 3))]


@pytest.mark.parametrize(
    "name, options",
    [
        ("timm:resnet18", {"image_size": 64}),
        ("timm:test_vit", {"img_size": 96, "global_pool": "avg", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}),
        ("timm:resnet18", {"in_channels": 2, "image_size": 64}),
    ],
)
@torch.no_grad()
def test_timm_opens(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    import timm

    variant = name.partition(":")[2]
    given = {key: value for key, value in options.items() if key in ("img_size", "global_pool")}
    own = timm.create_model(variant, num_classes=5, in_chans=options.get("in_channels", 3), **given)
    torch.save({"state_dict": {f"module.{key}": value for key, value in own.state_dict().items()}}, tmp_path / "in.pth")
    encoder = create_encoder(name, **options).eval()
    load_published(encoder, tmp_path / "in.pth")
    own.reset_classifier(0)
    x = random_batch(encoder, 2)
    close(encoder(x).pooled, own.eval()(encoder.normalize(x)))
    with torch.enable_grad():
        stepped(encoder)
    assert (encoder(x).pooled - own(encoder.normalize(x))).abs().max() > 1e-3, "a step was made"
    assert export(encoder, tmp_path / "out", format="timm") < 1e-5
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    if len(data["mean"]) == 2:
        x = torch.rand(2, 2, 64, 64)
        close(encoder(x).pooled, model(x))
        return
    shown = torch.stack([timm.data.create_transform(**data)(picture) for picture in pictures()])
    torch.testing.assert_close(encoder.encode(pictures()), model(shown), rtol=1e-4, atol=1e-4)  # bytes are rounded
    x = torch.rand(5, *data["input_size"])
    mean, std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
    close(encoder(x).pooled, model((x - mean) / std))


@pytest.mark.parametrize("name, options", [("timm:resnet18", {"image_size": 64}), ("torchvision:r3d_18", {"frames": 2,
                                           "image_size": 32})])  # fmt: skip
@torch.no_grad()
def test_torchvision_opens(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    import torchvision

    with torch.enable_grad():
        encoder = trained(name, **options)
    export(encoder, tmp_path / "out", format="torchvision")
    model = torchvision.models.get_model(name.partition(":")[2])
    model.fc = nn.Identity()
    model.load_state_dict(torch.load(tmp_path / "out" / "weights.pth", weights_only=True))
    said = json.loads((tmp_path / "out" / "preprocess.json").read_text())
    x = random_batch(encoder, 2)
    mean, std = (torch.tensor(said[key]).view(-1, *[1] * (x.ndim - 2)) for key in ("mean", "std"))
    close(encoder(x).pooled, model.eval()((x - mean) / std))
    assert said["size"] == options["image_size"] and said["normalized_inside"] is False


@pytest.mark.parametrize("options", [None, {**SMALL, "positions": "learned", "mlp_ratio": 1.5}, SMALL])
@torch.no_grad()
def test_transformers_opens_a_vision_transformer(options: dict[str, Any] | None, tmp_path: Path) -> None:
    """Of transformers itself, which came in from a folder of its, and our own."""
    from transformers import AutoImageProcessor, AutoModel, ViTConfig, ViTImageProcessor

    if options is None:
        AutoModel.from_config(ViTConfig(**VIT)).save_pretrained(tmp_path / "in")
        said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 16, "width": 16}}
        ViTImageProcessor(**said).save_pretrained(tmp_path / "in")
    name = "vit" if options else f"transformers:{tmp_path / 'in'}"
    with torch.enable_grad():
        encoder = trained(name, **(options or {}))
    export(encoder, tmp_path / "out", format="transformers")
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    shown = processor(pictures(), return_tensors="pt")["pixel_values"]
    batch = encoder.preprocess.collate([encoder.preprocess(picture) for picture in pictures()])
    front = getattr(encoder, "front", None) or encoder.normalize
    assert (front(batch) - shown).abs().max() < 2.5 / 255 / front.std.min(), (
        "scaling rounds to bytes, by Pillow or torch"
    )
    close(encoder(batch).pooled, model(front(batch)).last_hidden_state[:, 0])
    again = create_encoder(f"transformers:{tmp_path / 'out'}").eval()
    close(encoder(batch).tokens, again(batch).tokens)


@torch.no_grad()
def test_transformers_opens_bert(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer, BertConfig, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "a", "red", "ball", "blue", "cube", "that", "is", "long"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=6)
    fast.save_pretrained(tmp_path / "in")
    AutoModel.from_config(BertConfig(**BERT)).save_pretrained(tmp_path / "in")
    with torch.enable_grad():
        encoder = trained(f"transformers:{tmp_path / 'in'}")
    export(encoder, tmp_path / "out", format="transformers")
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModel, AutoTokenizer))
    texts = ["a red ball", "a blue cube that is long a a a"]
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    mask = inputs["attention_mask"]
    assert mask.sum(1).tolist() == [3, 6]
    hidden = model.eval()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
    close(encoder.encode(texts), (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))


@torch.no_grad()
def test_onnxruntime_opens_pictures(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    image = create_encoder("vit", **{**SMALL, "depth": 1}).eval()
    export(image, tmp_path / "out", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(7, 3, 16, 16)
    pooled, tokens = session.run(None, {"x": x.numpy()})
    close(image(x).pooled, pooled), close(image(x).tokens, tokens)
    assert [output.name for output in session.get_outputs()] == ["pooled", "tokens"]
    said = json.loads((tmp_path / "out" / "preprocess.json").read_text())
    assert said["normalized_inside"] is True and said["mean"] == [0.485, 0.456, 0.406] and said["inputs"] == ["x"]


@torch.no_grad()
def test_onnxruntime_opens_the_joint_embedding_of_texts(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    text = create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=300).eval()
    text.spaces["clip"] = Projection(16, out=4).eval()
    export(text, tmp_path / "out", format="onnx", space="clip")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    words = text.preprocess.collate(["a", "a red ball and a blue cube"])
    given = {"values": words.values.numpy(), "lengths": words.lengths.numpy()}
    close(text.embed(words, space="clip"), session.run(["joint_embedding"], given)[0])
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    with pytest.raises(UserError, match="transformers has no place for the space 'clip'"):
        export(text, tmp_path / "other", format="transformers", space="clip")
    with pytest.raises(UserError, match="encoder has no space 'clap'; did you mean 'clip'"):
        export(text, tmp_path / "other", format="onnx", space="clap")


@torch.no_grad()
def test_a_program_of_torch_export_runs(tmp_path: Path) -> None:
    encoder = create_encoder("convnet", widths=[8, 8], depths=[1, 1], image_size=16).eval()
    assert export(encoder, tmp_path / "out", format="torch") == 0
    opened = torch.export.load(tmp_path / "out" / "model.pt2").module()
    x = torch.rand(9, 3, 16, 16)
    for ours, theirs in zip(Plain(encoder, None)(x), opened(x), strict=True):
        close(ours, theirs)


def test_features_are_a_pytree() -> None:
    features = Features(torch.ones(2, 3), torch.ones(2, 4, 3), (2, 2))
    doubled = pytree.tree_map(lambda value: 2 * value, features)
    assert isinstance(doubled, Features) and doubled.grid == (2, 2) and doubled.lengths is None
    assert doubled.pooled.unique().item() == doubled.tokens.unique().item() == 2
    encoder = create_encoder("convnet", widths=[8], depths=[1], image_size=8).eval()
    program = torch.export.export(encoder, (torch.rand(2, 3, 8, 8),))
    x = torch.rand(2, 3, 8, 8)
    found = program.module()(x)
    assert isinstance(found, Features) and found.grid == encoder(x).grid
    close(encoder(x).pooled, found.pooled)


def test_texts_of_a_random_batch_have_lengths_of_their_own() -> None:
    encoder = create_encoder("transformer", width=16, depth=1, heads=2, vocab_size=300)
    batch = random_batch(encoder, 4)
    assert isinstance(batch, Ragged) and batch.padded and batch.lengths.unique().numel() > 1
    assert not torch.equal(random_batch(encoder, 4, seed=1).values, batch.values)


def test_what_differs_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmssl.exports.torch as program

    encoder, real = create_encoder("convnet", widths=[8], depths=[1], image_size=8), program.write

    def wrong(plain: Plain, folder: Path) -> Any:
        run = real(plain, folder)
        return lambda x: [run(x)[0] + 1e-3]

    monkeypatch.setattr(program, "write", wrong)
    with pytest.raises(UserError, match=r"opened as torch its outputs differ by 0\.001; expected at most 1e-05 of"):
        export(encoder, tmp_path / "out", format="torch")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name, options, format, message",
    [
        (
            "convnet",
            {},
            "timm",
            "convnet is no model of timm, which opens those of timm:VARIANT only; export it as onnx",
        ),
        ("timm:test_vit", {}, "torchvision", "torchvision has no model of the name and weights of timm:test_vit"),
        ("convnet", {}, "transformers", "convnet has no place in transformers"),
        ("vit", {**SMALL, "pool": "mean"}, "transformers", "a vit without a class token has no place in transformers"),
        ("convnet", {}, "onnyx", "there is no format 'onnyx'; did you mean 'onnx'?"),
        ("pointnet", {}, "torch", "torch.export cannot trace pointnet"),
    ],
)
def test_what_a_format_has_no_place_for(
    name: str, options: dict[str, Any], format: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        export(create_encoder(name, **options), tmp_path / "out", format=format)
    assert not [*tmp_path.iterdir()]


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnx needs the package 'onnxruntime': pip install 'mmssl\[export\]'"):
        export(create_encoder("convnet"), tmp_path / "out", format="onnx")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already; name a new folder"):
        export(create_encoder("convnet"), tmp_path / "there", format="torch")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("image", "image_teacher"):
        save_encoder(create_encoder("vit", **SMALL), tmp_path / "run" / "encoders" / key)
    folder, out = tmp_path / "run" / "encoders" / "image", str(tmp_path / "out")
    assert cli.main(["export", str(folder), out, "--format", "transformers"]) == 0
    assert "opened as transformers, its outputs differ by" in capsys.readouterr().out
    x = torch.rand(1, 3, 16, 16)
    close(load_encoder(folder)(x).pooled, create_encoder(f"transformers:{out}").eval()(x).pooled)
    assert cli.main(["export", str(tmp_path / "run"), out, "--format", "torch"]) == 2
    assert (
        "is a run with the encoders image (of image), image_teacher (of image); say which: " in capsys.readouterr().err
    )
    assert checked.FORMATS == ("timm", "torchvision", "transformers", "onnx", "torch")
