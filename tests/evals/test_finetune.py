"""Fine-tuning: on a copy, from a seed, layer by layer, and with few labels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from probing import sides

from mmssl.data.shards import Source
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.finetune import Finetune, finetuned
from mmssl.evals.parts.labelled import Labelled
from mmssl.evals.semi_supervised import SemiSupervised, few, picked
from mmssl.optim.groups import layer_groups, layers
from mmssl.types import Encoder, Trained, evaluating

FEW = {"epochs": 3, "batch": 8, "workers": 0, "flip": 0.0, "lr": 0.01, "crop_scale": (0.9, 1.0)}


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return sides(tmp_path, train=40, test=20)


def small() -> Encoder:
    torch.manual_seed(0)
    return create_encoder("convnet", image_size=16, widths=[8, 16], depths=[1, 1], stem_stride=1).eval()


def test_it_learns_and_leaves_the_encoder_as_it_is(shards: dict[str, dict[str, Any]]) -> None:
    encoder = small().requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    with evaluating(encoder):
        found = dict(Finetune(**shards, **FEW).run(Trained({"image": encoder})))
    assert list(found) == ["raw/top1", "random_init/top1", "top1"]
    assert found["top1"].value > 0.6 and found["top1"].chance == 0.5
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_the_same_seed_gives_the_same_weights(shards: dict[str, dict[str, Any]]) -> None:
    sets = Labelled(**shards, label="label")
    labels = sets.labels()
    assert list(labels.values()) == [number % 2 for number in range(40)]
    small()
    global_state = torch.get_rng_state()
    one, two, other = (
        finetuned(small(), sets.train, labels, Finetune(**shards, **FEW, seed=seed), epochs=3) for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.linear.weight, other.linear.weight)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_the_first_layers_move_least(shards: dict[str, dict[str, Any]]) -> None:
    encoder = small()
    groups = layer_groups(encoder, lr=1.0, decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in encoder.named_parameters()}
    assert named["stem.0.weight"] == named["stem.1.bias"] == 0.125
    assert named["blocks.0.branch.0.weight"] == 0.25 and named["blocks.1.short.1.weight"] == 0.5
    assert all(group.get("weight_decay") == 0 for group in groups if group["params"][0].ndim < 2)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("vit", {"image_size": 32, "width": 12, "heads": 1, "depth": 5}, 6),
        ("timm:resnet18", {}, 9),
        ("transformer", {"width": 16, "heads": 2, "depth": 3, "vocab_size": 280}, 4),
        ("raw:image", {}, 1),
    ],
)
def test_layers_are_found_in_any_encoder(name: str, options: dict[str, Any], count: int) -> None:
    encoder = create_encoder(name, **options)
    found = layers(encoder)
    assert len(found) == count
    assert sorted(id(p) for layer in found for p in layer) == sorted(map(id, encoder.parameters()))


def test_the_source_may_be_part_of_a_set(shards: dict[str, dict[str, Any]]) -> None:
    found = dict(Finetune(**shards, **FEW, limit=10, baselines=False).run(Trained({"image": small()})))
    assert found["top1"].n == 10
    assert Source(**shards["train"]).count == 40


def test_few_labels_are_of_every_class() -> None:
    labels = {number: number % 3 if number < 90 else 3 for number in range(91)}
    found = few(labels, 0.1, seed=0)
    assert [list(found.values()).count(name) for name in range(4)] == [3, 3, 3, 1]
    assert found == few(labels, 0.1, seed=0) != few(labels, 0.1, seed=1)
    assert all(labels[number] == name for number, name in found.items())


def test_semi_supervised(shards: dict[str, dict[str, Any]]) -> None:
    options = {**FEW, "fractions": (0.1, 0.5), "epochs": (2, 2)}
    found = dict(SemiSupervised(**shards, **options).run(Trained({"image": small()})))
    names = [f"{share}%/{how}/top1" for share in (10, 50) for how in ("linear", "finetune")]
    assert list(found) == [f"{prefix}{name}" for prefix in ("raw/", "random_init/", "") for name in names]
    assert found["raw/50%/linear/top1"].value == 1.0
    with pytest.raises(UserError, match="as many epochs"):
        SemiSupervised(**shards, fractions=(0.1,))


def test_picked_rows_are_those_of_the_samples(shards: dict[str, dict[str, Any]]) -> None:
    sets = Labelled(**shards, label="label")
    known = sets.rows(create_encoder("raw:image"))[0]
    some = {3: 1, 8: 0, 21: 1}
    found = picked(known, some)
    assert found.number.tolist() == [3, 8, 21] and found.y.tolist() == [1, 0, 1]
    assert torch.equal(found.x, known.x[[3, 8, 21]])


def test_wrong_choices(shards: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="layer_decay 2"):
        Finetune(**shards, layer_decay=2.0)
