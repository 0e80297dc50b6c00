"""Every file in encoders/ keeps the contract: a new one fails here until it has small options in CASES."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.encoders import create_encoder
from mmssl.names import list_names
from mmssl.types import Encoder, Features, Ragged, TokenEncoder

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
BERT = {"model_type": "bert", "vocab_size": 300, "max_position_embeddings": 40, **TINY}
CLIP = {
    "model_type": "clip",
    "projection_dim": 16,
    "text_config": {**TINY, "vocab_size": 300, "max_position_embeddings": 24, "eos_token_id": 1, "bos_token_id": 2},
    "vision_config": {**TINY, "image_size": 32, "patch_size": 16},
}
AST = {"model_type": "audio-spectrogram-transformer", "num_mel_bins": 32, "max_length": 48, **TINY}
VIDEOMAE = {"model_type": "videomae", "image_size": 32, "num_frames": 4, **TINY}
DINOV2 = {"model_type": "dinov2", "image_size": 28, "patch_size": 14, **TINY}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 300,
        "width": 24,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": "x",
    },
}
CONVNET = {"name": "convnet", "widths": [8, 16], "depths": [1, 1], "image_size": 32}

CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "convnet": [("", {"image_size": 32}), ("", {"widths": [8, 16], "depths": [2, 1], "stem_stride": 2, "pool": "max"})],
    "vit": [
        ("", {"image_size": 32, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.1}),
        (":small", {"image_size": 32, "depth": 1, "pool": "mean", "positions": "learned"}),
    ],
    "video_vit": [
        ("", {"image_size": 32, "frames": 4, "width": 32, "depth": 1, "heads": 2}),
        (
            "",
            {
                "image_size": 32,
                "frames": 4,
                "patch_size": 8,
                "width": 32,
                "depth": 1,
                "heads": 2,
                "pool": "class",
                "positions": "learned",
            },
        ),
    ],
    "codes": [("", {"image_size": 16, "codes": 10, "width": 8, "groups": 3, "depth": 1})],
    "timm": [
        (":resnet18", {"image_size": 32}),
        (":vit_tiny_patch16_224", {"image_size": 32}),
        (":mobilenetv3_small_050", {"image_size": 64}),
    ],
    "torchvision": [(":r3d_18", {"image_size": 16, "frames": 2})],
    "raw": [(":image", {"size": 32}), (":video", {"size": 32}), (":audio", {}), (":points", {})],
    "l3": [("", {"image_size": 32, "widths": [8, 16]}), ("", {"image_size": 32, "widths": [4, 8, 8, 16], "stride": 2})],
    "lab": [("", {"part": part, "image": CONVNET}) for part in ("lightness", "color")],
    "frames": [("", {"image": CONVNET, "frames": 3}), ("", {"image": CONVNET, "frames": 3, "temporal": 2})],
    "flow": [("", {"frames": 3, "fps": 10.0}), ("", {"backbone": CONVNET, "frames": 2, "centre": False})],
    "spectrogram": [
        ("", {"seconds": 0.5}),
        ("", {"backbone": {**CONVNET, "in_channels": 1}, "normalize": "fixed", "seconds": 0.5, "mels": 32}),
        ("", {"backbone": {"name": "l3", "widths": [4, 8], "in_channels": 1}, "mels": None, "seconds": 0.5}),
        ("", {"backbone": {**CONVNET, "in_channels": 1}, "mels": 40, "fft": 1024, "seconds": 0.5, "temporal": 1}),
    ],
    "sound_texture": [("", {"seconds": 0.5, "bands": 6, "modulations": 3})],
    "pointnet": [("", {"widths": [16, 32]}), ("", {"widths": [16, 32], "align": True})],
    "sparse_unet": [
        (":tiny", {"voxel": 0.5}),
        ("", {"planes": [4, 8, 8, 6], "voxel": 0.5, "coordinates": True, "stem_kernel": 5, "pool": "max"}),
    ],
    "transformer": [
        ("", {"width": 32, "depth": 2, "heads": 2, "vocab_size": 300}),
        ("", {"width": 32, "depth": 2, "heads": 2, "vocab_size": 300, "pool": "last", "causal": True}),
    ],
    "transformers": [
        ("", {"architecture": BERT}),
        ("", {"architecture": BERT, "pool": "cls"}),
        ("", {"architecture": CLIP, "modality": "image"}),
        ("", {"architecture": CLIP, "modality": "text"}),
        ("", {"architecture": AST}),
        ("", {"architecture": VIDEOMAE}),
        ("", {"architecture": DINOV2}),
    ],
    "open_clip": [
        ("", {"architecture": OPEN_CLIP, "modality": "image"}),
        ("", {"architecture": OPEN_CLIP, "modality": "text"}),
    ],
}
NAMES = list_names("encoders")
RUNS = [(name + variant, options) for name, cases in CASES.items() for variant, options in cases]
every = pytest.mark.parametrize("name, options", RUNS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(RUNS)])


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_tried(name: str) -> None:
    assert CASES.get(name), f"encoders/{name}.py is new: give CASES small options for it"


def raws(modality: str, n: int = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    if modality == "image":
        return [Image.fromarray(rng.integers(0, 256, (70, 50 + i, 3), dtype=np.uint8)) for i in range(n)]
    if modality in ("video", "flow"):
        return [rng.integers(0, 256, (6, 48, 40, 3), dtype=np.uint8) for _ in range(n)]
    if modality == "audio":
        return [rng.standard_normal(9000 + 100 * i).astype(np.float32) for i in range(n)]
    if modality == "points":
        return [rng.standard_normal((20 + i, 3)).astype(np.float32) for i in range(n)]
    return ["a red ball bounces", "an old blue cube rolls over the floor", "Ünïcödé"][:n]


def made(name: str, options: dict[str, Any]) -> tuple[Encoder, torch.Tensor]:
    """Returns the encoder, moved a little off its start so that layers that start at zero count, and a batch."""
    if name == "flow":
        pytest.importorskip("cv2")
    torch.manual_seed(0)
    encoder = create_encoder(name, **options)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    preprocess = encoder.preprocess
    return encoder, preprocess.collate([preprocess(raw) for raw in raws(encoder.modality)])


def check(features: Features, encoder: Encoder, x: torch.Tensor) -> None:
    clouds = 3
    assert features.pooled.shape == (clouds, encoder.dim)
    assert features.pooled.isfinite().all()
    if features.tokens is None:
        assert features.grid is None
        return
    assert features.tokens.shape[-1] == encoder.dim
    if features.grid is not None:
        assert features.tokens.shape[:2] == (clouds, prod(features.grid))
    if features.lengths is not None:
        packed = features.tokens.ndim == 2
        assert features.lengths.shape == (clouds,)
        assert features.lengths.sum() == len(x.values) if packed else features.lengths.max() == x.values.shape[1]


@every
def test_features_have_the_promised_shapes_and_reach_every_parameter(name: str, options: dict[str, Any]) -> None:
    encoder, x = made(name, options)
    assert encoder.preprocess.modality == encoder.modality
    features = encoder(x)
    check(features, encoder, x)
    if name.startswith(("raw", "sound_texture")):  # it has nothing that could learn
        return
    (features.pooled * torch.randn_like(features.pooled)).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, f"{key} does not take part"
        assert parameter.grad.isfinite().all() and parameter.grad.any(), f"{key} has no gradient"


@every
def test_runs_under_bfloat16(name: str, options: dict[str, Any]) -> None:
    encoder, x = made(name, options)
    with torch.autocast("cpu", torch.bfloat16):
        check(encoder(x), encoder, x)


@every
def test_is_built_again_from_its_config(name: str, options: dict[str, Any], tmp_path: Any) -> None:
    encoder, x = made(name, options)
    encoder.save_files(tmp_path)
    config = json.loads(json.dumps(encoder.config()))
    again = create_encoder(config["name"], trust_code=False, **config["options"])
    again.load_files(tmp_path)
    again.load_state_dict(encoder.state_dict(), strict=True)
    assert again.preprocess.config() == encoder.preprocess.config()
    inputs = raws(encoder.modality)
    torch.testing.assert_close(again.encode(inputs), encoder.encode(inputs))
    torch.testing.assert_close(encoder.eval()(x).pooled, encoder.encode(inputs))


VIT = {"name": "vit", "width": 32, "depth": 1, "heads": 2, "in_channels": 1, "image_size": 32, "patch_size": 8}
MASKABLE = [
    *[(name, options) for name in ("vit", "video_vit") for _, options in CASES[name]],
    ("spectrogram", {"backbone": VIT, "mels": 32, "seconds": 0.32}),
]


@pytest.mark.parametrize("name, options", MASKABLE)
def test_token_encoders_take_any_subset(name: str, options: dict[str, Any]) -> None:
    encoder, x = made(name, options)
    assert isinstance(encoder.eval(), TokenEncoder)
    patches = encoder.patches(x)
    tokens, features = encoder.tokenize(patches), encoder(x)
    assert patches.grid == features.grid and patches.values.shape == (*tokens.shape[:2], encoder.patch_dim)
    torch.testing.assert_close(encoder.encode_tokens(tokens).pooled, features.pooled)
    some = encoder.encode_tokens(tokens[:, [2, 0]])
    assert some.tokens is not None and some.tokens.shape == (3, 2, encoder.dim)
    order = encoder.encode_tokens(tokens[:, [0, 2]])
    torch.testing.assert_close(some.pooled, order.pooled)  # positions are in the tokens, not in their order


@pytest.mark.parametrize("name, options", MASKABLE)
def test_a_masked_token_tells_its_place_only(name: str, options: dict[str, Any]) -> None:
    encoder, x = made(name, options)
    assert isinstance(encoder, TokenEncoder)
    patches = encoder.patches(x)
    mask, token = torch.zeros(patches.values.shape[:2], dtype=torch.bool), torch.randn(encoder.dim)
    mask[:, 1] = True
    plain, masked = encoder.tokenize(patches), encoder.tokenize(patches, mask=mask, mask_token=token)
    torch.testing.assert_close(masked[~mask], plain[~mask])
    patches.values[:] = 0
    empty = encoder.tokenize(patches, mask=~mask, mask_token=token)
    torch.testing.assert_close(masked[0, 1] - masked[1, 1], torch.zeros(encoder.dim))
    assert not torch.allclose(empty[0, 0], empty[0, 2])


def test_patches_are_what_the_convolution_sees() -> None:
    for name, options in MASKABLE[:3]:
        encoder, x = made(name, options)
        assert isinstance(encoder, TokenEncoder)
        patches = encoder.patches(x)
        found = torch.nn.functional.linear(patches.values, encoder.patch.weight.flatten(1), encoder.patch.bias)
        torch.testing.assert_close(found, encoder.patch(encoder.normalize(x)).flatten(2).mT, rtol=1e-4, atol=1e-4)
        values = patches.values.unflatten(1, patches.grid).unflatten(-1, (3, *encoder.cell))
        cell = encoder.cell
        corner = (slice(None), slice(None), *(slice(side) for side in cell))
        first = values[(slice(None), *(0 for _ in cell))]
        torch.testing.assert_close(first, encoder.normalize(x)[corner])


def test_raw_describes_what_it_says() -> None:
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(create_encoder("raw:image", size=32)(pixels).pooled, pixels.flatten(1))
    box = torch.tensor([[x, y, z] for x in (0, 8.0) for y in (0, 4.0) for z in (0, 2.0)])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    clouds = Ragged.pack([box @ turn + 5, torch.ones(1, 3)])
    expected = torch.tensor([[4.0, 2.0, 1.0], [0, 0, 0]])
    torch.testing.assert_close(create_encoder("raw:points")(clouds).pooled, expected)
    still = torch.rand(1, 3, 1, 16, 16).expand(-1, -1, 4, -1, -1)
    film = create_encoder("raw:video")(still).pooled
    torch.testing.assert_close(film[:, :768], still[:, :, 0].flatten(1))
    assert not film[:, 768:].any()
    tone = torch.sin(torch.arange(16000) * 0.3)[None]
    heard = create_encoder("raw:audio")(torch.cat([tone, tone * 0.1])).pooled
    assert heard[0, :64].argmax() == heard[1, :64].argmax()
