"""MoCo's versions, SimCLR's second, and DirectCLR: their losses by formula, and what they keep."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmssl import checkpoint
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import directclr, moco, simclr
from mmssl.types import Features

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build


def test_moco_asks_for_the_key_among_it_and_the_queue() -> None:
    model = build("moco")
    objective, shown = model.objectives["moco"], batch("moco", missing=False)
    with torch.no_grad():
        for p in model.encoders.parameters():
            p.add_(0.01 * torch.randn_like(p))  # the teacher stays behind
    query = F.normalize(objective.head.project(model.encoders["image"](shown.views["image"][0]).pooled), dim=1)
    teacher = objective.teacher
    key = F.normalize(teacher.head.project(teacher.encoder(shown.views["image"][1]).pooled), dim=1)
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ objective.queue.rows.T], dim=1) / 0.07
    total, losses = model({"moco": shown})
    torch.testing.assert_close(total, F.cross_entropy(logits, torch.zeros(8).long()))
    torch.testing.assert_close(losses["moco"].answers["correct"], (logits.argmax(1) == 0).float())
    objective.after_step(model.encoders, 0.1)
    torch.testing.assert_close(objective.queue.rows[:8], key)
    assert objective.queue.place == 8
    weight, slow = model.encoders["image"].norm.weight, teacher.encoder.norm.weight
    torch.testing.assert_close(slow, 0.9 * torch.ones(16) + 0.1 * weight)


def test_moco_v2_has_a_hidden_layer_and_v3_a_predictor_of_both_views() -> None:
    heads = [build(name).objectives[name].head.layers for name in ("moco", "moco:v2")]
    assert [len(layers) for layers in heads] == [1, 3]
    model = build("moco:v3")
    objective, shown = model.objectives["moco:v3"], batch("moco:v3", missing=False)
    teacher, image = objective.teacher, model.encoders["image"]
    queries, keys = [], []
    for view in shown.views["image"]:
        queries.append(F.normalize(objective.predictor(objective.head.project(image(view).pooled)), dim=1))
        keys.append(F.normalize(teacher.head.project(teacher.encoder(view).pooled), dim=1))
    labels = torch.arange(8)
    ways = [F.cross_entropy(q @ k.T / 0.2, labels) for q, k in zip(queries, reversed(keys), strict=True)]
    torch.testing.assert_close(model({"moco:v3": shown})[0], 2 * 0.2 * (ways[0] + ways[1]))


def test_moco_v3_follows_ever_slower_and_may_freeze_the_patches() -> None:
    image = create_encoder("vit", image_size=16, patch_size=8, width=16, depth=1, heads=2)
    objective = moco.MoCoV3({"image": image}, embed_dim=8, hidden=[16], momentum=0.9, freeze="patch")
    assert not any(p.requires_grad for p in image.patch.parameters())
    assert image.norm.weight.requires_grad
    for done, moved in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        slow = objective.teacher.encoder.norm.weight
        before = slow.clone()
        with torch.no_grad():
            image.norm.weight.copy_(before + 1)
        objective.after_step({"image": image}, done)
        torch.testing.assert_close(slow, before + moved)
    with pytest.raises(UserError, match="freeze is 'patches'.*it has .*patch"):
        moco.MoCoV3({"image": image}, freeze="patches")


def test_views_are_the_papers() -> None:
    preprocess = {"image": create_encoder("convnet", image_size=16).preprocess}
    first, second, third = (m.view(preprocess) for m in (moco.method, moco.v2, moco.v3))
    assert [v.chances[0]["color_jitter"] for v in (first, second, third)] == [1.0, 0.8, 0.8]
    assert [[c["blur"] for c in v.chances] for v in (first, second, third)] == [[0, 0], [0.5, 0.5], [1.0, 0.1]]
    assert [v.jitter["hue"] for v in (first, second, third)] == [0.4, 0.1, 0.1]


def test_simclr_v2_keeps_the_middle_of_its_head_as_a_space(tmp_path: Path) -> None:
    model = build("simclr:v2")
    head = model.objectives["simclr:v2"].head
    assert [layer.out_features for layer in head.layers if hasattr(layer, "out_features")] == [16, 16, 8]
    image = model.encoders["image"].eval()
    assert set(image.spaces) == {"simclr:v2", "simclr:v2_middle"}
    x = batch("simclr:v2").views["image"][0]
    with torch.no_grad():
        expected = F.normalize(head.layers[:3](image(x).pooled), dim=1)
        torch.testing.assert_close(image.embed(x, space="simclr:v2_middle"), expected)
        checkpoint.save_encoder(image, tmp_path)
        again = checkpoint.load_encoder(tmp_path)
        torch.testing.assert_close(again.embed(x, space="simclr:v2_middle"), expected)
    flat = simclr.SimCLRv2({"image": image}, hidden=())
    with pytest.raises(UserError, match="has no middle"):
        flat.spaces()


def test_directclr_compares_the_leading_features_alone() -> None:
    model = build("directclr")
    shown = batch("directclr", missing=False)
    one, other = (model.encoders["image"](view).pooled for view in shown.views["image"])
    leading = [F.normalize(x[:, :6], dim=1) for x in (one, other)]
    logits = leading[0] @ leading[1].T / 0.1
    expected = (F.cross_entropy(logits, torch.arange(8)) + F.cross_entropy(logits.T, torch.arange(8))) / 2
    total, _ = model({"directclr": shown})
    torch.testing.assert_close(total, expected)
    with pytest.raises(UserError, match="takes 20 of 16"):
        directclr.DirectCLR(model.named_encoders, dims=20)
    head = model.objectives["directclr"].head
    torch.testing.assert_close(head(Features(one)), leading[0])
