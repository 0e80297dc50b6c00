"""BEiT: which codes it is asked for, and where its tokenizer comes from."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import load_encoder, train
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import beit
from mmssl.methods.beit import BEiT
from mmssl.objectives.masking import blockwise_mask
from mmssl.transforms.color import ColorJitter
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch, Encoder
from mmssl.views.mae import Seed

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, gradients, same, shake

VIT = {"image_size": 32, "patch_size": 4, "width": 32, "depth": 2, "heads": 2}
STILL = {"color_jitter": None}
CODES = {"image_size": 16, "codes": 12, "width": 8, "groups": 2, "depth": 1}


def pair() -> dict[str, Encoder]:
    return {"image": create_encoder("vit", **VIT), "image_tokenizer": create_encoder("codes", **CODES)}


def shown(rows: int, encoders: dict[str, Encoder]) -> Batch:
    view = beit.method.view({key: encoder.preprocess for key, encoder in encoders.items()}, image=STILL)
    x = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8)
    present = torch.tensor([True] * (rows - 1) + [False])
    return view.on_device(Batch({"image": [x]}, extra={"image_present": present}))


def test_both_encoders_see_one_crop() -> None:
    batch = shown(4, pair())
    (large,), (small,) = batch.views["image"], batch.views["image_tokenizer"]
    expected = F.interpolate(large / 255, (16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(small, expected.clamp(min=0, max=1))
    assert batch.present("image_tokenizer").tolist() == [True, True, True, False]
    assert batch.extra["seed"].shape == (4,)


def test_a_crop_of_the_tokenizers_size_is_shown_as_it_is() -> None:
    sizes = {"image": ImagePreprocess(size=16), "image_tokenizer": ImagePreprocess(size=16)}
    view = beit.method.view(sizes, image=STILL)
    assert list(view.preprocess) == ["image"] and view.reads == ("image",)
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    seen = view.on_device(Batch({"image": [x]})).views
    assert seen["image_tokenizer"][0].equal(x) and seen["image"][0].equal(x)
    contrast = torch.zeros(1, 3, 32, 32)
    contrast[..., ::4, :] = 1
    for size in (15, 16):
        sizes["image_tokenizer"] = ImagePreprocess(size=size)
        small = (
            beit.method.view(sizes, image={"color_jitter": {"p": 0.0}})
            .on_device(Batch({"image": [contrast]}))
            .views["image_tokenizer"][0]
        )
        resized = F.interpolate(contrast, (size, size), mode="bicubic", antialias=True)
        assert resized.min() < 0
        torch.testing.assert_close(small, resized.clamp(0, 1))


def test_the_loss_is_the_papers_in_value_and_gradient() -> None:
    encoders = pair()
    objective = BEiT(encoders, ratio=0.3, block=3)
    tokenizer: Any = encoders["image_tokenizer"]
    shake(encoders["image"], by=0.1)
    shake(tokenizer, objective, by=0.7)
    assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())
    encoder: Any = encoders["image"]
    batch = shown(5, encoders)
    batch.extra["image_tokenizer_present"] = torch.tensor([True, False, True, True, True])  # and the last has no image
    found = objective(encoders, batch)

    mask = blockwise_mask(batch.extra["seed"], (8, 8), ratio=0.3, least=3)
    codes = tokenizer(batch.views["image_tokenizer"][0]).tokens.argmax(dim=2)
    patches = encoder.patches(batch.views["image"][0])
    features = encoder.encode_tokens(encoder.tokenize(patches, mask=mask, mask_token=objective.mask_token))
    losses, right, asked = [], [], []
    for row in (0, 2, 3):
        told = []
        for place in mask[row].nonzero()[:, 0].tolist():
            logits = features.tokens[row, place] @ objective.head.weight.T + objective.head.bias
            code = int(codes[row, place])
            losses.append(logits.logsumexp(dim=0) - logits[code])
            told.append(float(logits.argmax() == code))
            asked.append(code)
        right.append(sum(told) / len(told))
    same(found.total, torch.stack(losses).mean(), encoder, objective)
    nan = float("nan")
    expected = torch.tensor([right[0], nan, right[1], right[2], nan])
    assert 0 < sum(right) < 3 and len(set(asked)) > 1
    torch.testing.assert_close(found.answers["correct"], expected, equal_nan=True)
    torch.testing.assert_close(found.logs["correct"], torch.tensor(sum(right) / 3))
    commonest = max(asked.count(code) for code in set(asked)) / len(asked)
    torch.testing.assert_close(found.logs["commonest"], torch.tensor(commonest))
    torch.testing.assert_close(found.embeddings["image"], features.pooled.detach())
    assert not found.embeddings["image"].requires_grad
    gradients(objective(encoders, batch).total, tokenizer)
    assert all(p.grad is None for p in tokenizer.parameters())


def test_what_is_hidden_is_not_seen() -> None:
    encoders = pair()
    objective = BEiT(encoders, block=4)
    caught: list[Tensor] = []
    objective.head.register_forward_hook(lambda _, inputs, out: caught.append(out))
    batch = shown(5, encoders)
    objective(encoders, batch)
    mask = blockwise_mask(batch.extra["seed"], (8, 8), ratio=0.4, least=4)
    hidden = mask.view(5, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    batch.views["image"] = [torch.where(hidden, 7, batch.views["image"][0]).byte()]
    objective(encoders, batch)
    torch.testing.assert_close(caught[0], caught[1])


def test_without_any_sample_it_is_zero() -> None:
    encoders = pair()
    objective, batch = BEiT(encoders, block=4), shown(3, encoders)
    batch.extra["image_present"] = torch.zeros(3, dtype=torch.bool)
    found = objective(encoders, batch)
    assert found.total == 0 and found.logs["commonest"] == 0 and found.logs["correct"].isnan()


def test_defaults_are_the_papers() -> None:
    """masking_generator.py: min_num_patches 16; 75 of 196 patches, about 0.4; datasets.py: ColorJitter(0.4, 0.4, 0.4),
    RandomResizedCropAndInterpolationWithTwoPic from 0.08.
    """
    assert defaults(BEiT) == {"ratio": 0.4, "block": 16}
    assert beit.method.objective is BEiT
    sizes = {"image": ImagePreprocess(size=32), "image_tokenizer": ImagePreprocess(size=16)}
    view = beit.method.view(sizes)
    jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)
    assert view.steps["image"] == [[Crop(scale=(0.08, 1.0)), Flip(p=0.5), jitter]] and view.after == [Seed()]
    wide = {"image": create_encoder("vit", **VIT | {"width": 400}), "image_tokenizer": create_encoder("codes", **CODES)}
    objective = BEiT(wide)
    assert objective.mask_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert objective.uses == ("image", "image_tokenizer")
    assert not any(p.requires_grad for p in wide["image_tokenizer"].parameters())
    assert (objective.ratio, objective.block, objective.modalities) == (0.4, 16, ("image",))


def test_what_does_not_fit_is_told() -> None:
    encoders = pair()
    with pytest.raises(UserError, match="list image_tokenizer: {name: codes} among its encoders"):
        BEiT({"image": encoders["image"]})
    with pytest.raises(UserError, match=r"the encoder has \(8, 8\) patches and the tokenizer \(4, 4\) cells"):
        BEiT(encoders | {"image_tokenizer": create_encoder("codes", **CODES | {"groups": 3})})


@pytest.fixture
def recipes(color_recipe: dict[str, Any], tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs of dvae, and of beit that begins with its encoder."""
    data = color_recipe["tasks"]["clip"]["data"]
    small = {"image_size": 16, "width": 4, "codes": 6, "groups": 2, "depth": 1}
    first = {
        "encoders": {"image": {"name": "codes", **small}},
        "tasks": {
            "dvae": {"data": data, "batch": 16, "method": {"objective": {"width": 4, "first": 4, "depth": 1}}},
        },
        "optim": {"lr": 0.01},
        "train": {"samples": 64, "precision": "fp32", "save_every": 32},
    }
    vit = {"name": "vit", "image_size": 16, "patch_size": 2, "width": 16, "depth": 1, "heads": 2}
    second = copy.deepcopy(first)
    second["encoders"] = {"image": vit, "image_tokenizer": {"name": "codes", **small}}
    second["tasks"] = {"beit": {"data": data, "batch": 16, "method": {"objective": {"block": 4}}}}
    second["train"]["start"] = {"image_tokenizer": str(tmp_path / "dvae" / "encoders" / "image")}
    return first, second


def test_a_tokenizer_is_trained_then_taken_and_stays(recipes: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    train(recipes[0], out=tmp_path / "dvae", progress=False)
    train(recipes[1], out=tmp_path / "beit", progress=False)
    trained = load_encoder(tmp_path / "dvae" / "encoders" / "image").state_dict()
    kept = load_encoder(tmp_path / "beit" / "encoders" / "image_tokenizer").state_dict()
    for key, value in trained.items():
        torch.testing.assert_close(kept[key], value, rtol=0, atol=0)
    longer = copy.deepcopy(recipes[1])
    longer["train"]["samples"] = 96
    longer["train"]["start"] = {"image_tokenizer": str(tmp_path / "gone")}  # a run that goes on needs it no more
    train(longer, out=tmp_path / "beit", resume=True, progress=False)


def test_a_start_that_is_not_there_is_told(recipes: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train.start.image_tokenizer: there are no weights at"):
        train(recipes[1], out=tmp_path / "beit", progress=False)
    del recipes[1]["train"]["start"]
    with pytest.raises(UserError, match=r"set train\.start\.image_tokenizer"):
        train(recipes[1], out=tmp_path / "beit", progress=False)
