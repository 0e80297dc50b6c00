"""BEiT: which codes it is asked for, and where its tokenizer comes from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import load_encoder, train
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.beit import BEiT, TwoSizes
from mmssl.nn.masking import blockwise_mask
from mmssl.types import Batch, Encoder

VIT = {"image_size": 32, "patch_size": 4, "width": 32, "depth": 2, "heads": 2}
CODES = {"image_size": 16, "codes": 12, "width": 8, "groups": 2, "depth": 1}


def pair() -> dict[str, Encoder]:
    return {"image": create_encoder("vit", **VIT), "image_tokenizer": create_encoder("codes", **CODES)}


def shown(rows: int, encoders: dict[str, Encoder]) -> Batch:
    view = TwoSizes({key: encoder.preprocess for key, encoder in encoders.items()}, color_jitter=0.0)
    x = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8)
    present = torch.tensor([True] * (rows - 1) + [False])
    return view.on_device(Batch({"image": [x]}, extra={"image_present": present}))


def test_both_encoders_see_one_crop() -> None:
    batch = shown(4, pair())
    (large,), (small,) = batch.views["image"], batch.views["image_tokenizer"]
    assert small.shape == (4, 3, 16, 16) and small.min() >= 0 and small.max() <= 1
    assert (F.avg_pool2d(large / 255, 2) - small).abs().mean() < 0.06
    assert batch.present("image_tokenizer").tolist() == [True, True, True, False]


def test_the_cost_is_the_cross_entropy_of_hidden_codes() -> None:
    encoders = pair()
    objective = BEiT(encoders, block=4)
    caught: list[Tensor] = []
    objective.head.register_forward_hook(lambda _, inputs, out: caught.append(out))
    batch = shown(5, encoders)
    found = objective(encoders, batch)
    mask = blockwise_mask(batch.extra["seed"], (8, 8), ratio=0.4, least=4)
    codes = encoders["image_tokenizer"](batch.views["image_tokenizer"][0]).tokens.argmax(2)
    rows, places = mask.nonzero(as_tuple=True)
    assert len(caught[0]) == len(rows)
    losses = [
        -F.log_softmax(logits, dim=0)[codes[row, place]]
        for logits, row, place in zip(caught[0], rows.tolist(), places.tolist(), strict=True)
        if row < 4
    ]
    torch.testing.assert_close(found.total, torch.stack(losses).mean())
    right = [caught[0][rows == row].argmax(1).eq(codes[row][mask[row]]).float().mean() for row in range(4)]
    torch.testing.assert_close(found.answers["correct"][:4], torch.stack(right))
    assert found.answers["correct"][4].isnan()

    hidden = mask.view(5, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    batch.views["image"] = [torch.where(hidden, 7, batch.views["image"][0]).byte()]
    objective(encoders, batch)
    torch.testing.assert_close(caught[0], caught[1])


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
