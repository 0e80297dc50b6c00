"""Fine-tuning against a plain loop of AdamW: rates of each layer, what decays, which labels, and on a copy."""

from __future__ import annotations

import copy
import inspect
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from probing import sides
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.evals import finetune
from mmssl.evals.finetune import Classifier, Finetune, finetuned
from mmssl.evals.parts.labelled import Embedded, Labelled
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.training import _tell_damaged
from mmssl.nn.head import Middle, Projection
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Encoder, Features, Preprocess, Trained

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened
STILL = {"crop_scale": (1.0, 1.0), "flip": 0.0, "workers": 0}  # the whole image, as it is


@pytest.fixture
def sets(tmp_path: Path) -> Labelled:
    return Labelled(**sides(tmp_path, train=20, test=9), label="label")


def small() -> Encoder:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8, 16], depths=[1, 1], stem_stride=2).eval()
    encoder.spaces["clip"] = Projection(16, out=4)
    return encoder


def expected(encoder: Encoder, x: Tensor, y: Tensor, classes: int, tuning: Finetune) -> tuple[Encoder, nn.Linear]:
    """AdamW written with torch's own optimizer, one group for each weight; the batch is all there is."""
    mine = copy.deepcopy(encoder).requires_grad_(True).train()
    linear = nn.Linear(16, classes)
    for weight in linear.parameters():
        weight.detach().zero_()
    groups = []
    for name, weight in mine.named_parameters():
        distance = 3 if name.startswith("stem") else 2 if name.startswith("blocks.0") else 1
        decay = tuning.weight_decay if weight.ndim >= 2 else 0.0
        groups.append({"params": [weight], "lr": tuning.lr * tuning.layer_decay**distance, "weight_decay": decay})
    groups.append({"params": list(linear.parameters()), "lr": tuning.lr, "weight_decay": tuning.weight_decay})
    optimizer, peaks = torch.optim.AdamW(groups), [group["lr"] for group in groups]
    warm = tuning.epochs // 10
    for step in range(tuning.epochs):
        done = (step - warm) / (tuning.epochs - warm)
        factor = (step + 1) / (warm + 1) if step < warm else (1 + math.cos(math.pi * done)) / 2
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        pooled = mine(x).pooled
        normal = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        optimizer.zero_grad()
        F.cross_entropy(linear(normal), y).backward()
        optimizer.step()
    return mine.eval(), linear


def test_it_is_adamw_with_rates_by_layer_on_the_samples_that_have_a_label(sets: Labelled) -> None:
    encoder = small().requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    labels = {2: 1, 3: 0, 7: 2, 11: 1, 16: 0, 19: 2}
    tuning = Finetune(**SETS, epochs=20, batch=6, lr=0.02, weight_decay=0.5, layer_decay=0.6, **STILL)
    with torch.no_grad():  # as evaluations are
        found = finetuned(encoder, sets.train, labels, tuning, epochs=tuning.epochs)
    pictures = [sample["image"] for sample in sets.train.samples({"image"})]
    x = torch.stack([encoder.preprocess(pictures[number]) for number in labels])
    mine, linear = expected(encoder, x, torch.tensor(list(labels.values())), 3, tuning)
    for (name, one), other in zip(found.encoder.state_dict().items(), mine.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3, msg=name)
    torch.testing.assert_close(found.linear.weight, linear.weight, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.linear.bias, linear.bias, atol=2e-3, rtol=0)
    assert not found.training and not found.encoder.training and found.encoder is not encoder
    assert found.encoder.spaces == {} and list(encoder.spaces) == ["clip"]
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    asked = Embedded(mine(x).pooled.detach(), torch.tensor([0, 1, 2, 3, 1, 1]))
    scores = linear(F.layer_norm(asked.x, (16,)))
    for row, rank in enumerate(found.ranks(asked).tolist()):
        mark = int(asked.y[row])
        assert rank == (3 if mark == 3 else int((scores[row] > scores[row, mark]).sum()))


class Shown(list[dict[str, Any]]):
    """Stands in for the loader: records its options, and shows numbered blanks."""

    def __call__(self, source: Any, view: Any, **options: Any) -> Any:
        self.append({"source": source, "view": view, **options})
        return self

    def report(self) -> dict[str, Any]:
        return {}


def test_options_reach_the_loader_the_view_and_the_steps(sets: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, steps = Shown(), []
    monkeypatch.setattr(finetune, "Loader", shown)
    monkeypatch.setattr(finetune, "descend", lambda *given, **options: steps.append((*given, options)))
    encoder = small()
    tuning = Finetune(
        **SETS, epochs=3, batch=4, crop_scale=(0.3, 0.4), flip=0.2, workers=2, seed=8, weight_decay=0.3, lr=0.5
    )
    finetuned(encoder, sets.train, {4: 1, 9: 0, 5: 1, 6: 1, 7: 0}, tuning, epochs=tuning.epochs)
    (given,) = shown
    assert given["source"].numbers == {4, 5, 6, 7, 9} and given["source"].source is sets.train
    view = given["view"]
    assert view.steps["image"] == [[Crop(scale=(0.3, 0.4), ratio=(3 / 4, 4 / 3)), Flip(p=0.2)]]
    assert view.preprocess == {"image": encoder.preprocess}
    names = ("batch", "seed", "workers", "max_damaged", "rank", "world")
    assert tuple(given[name] for name in names) == (4, 8, 2, 1.0, 0, 1)
    ((model, loader, optimizer, loss, options),) = steps
    assert loader is shown and options == {"epochs": 3, "what": "fine-tuning"}
    assert inspect.getclosurevars(loss).nonlocals["numbers"].tolist() == [-1, -1, -1, -1, 1, 1, 1, 0, -1, 0]
    assert optimizer.param_groups[-1]["weight_decay"] == 0.3 and optimizer.param_groups[-1]["lr"] == 0.5
    assert model.linear.out_features == 2
    finetuned(encoder, sets.train, {4: 1, 9: 0}, tuning, epochs=tuning.epochs)
    assert shown[1]["batch"] == 2  # no more than there are
    monkeypatch.setattr("mmssl.dist.world", lambda: 4)
    monkeypatch.setattr("mmssl.dist.rank", lambda: 3)
    monkeypatch.setattr("mmssl.dist.total", lambda x: 4 * x)
    finetuned(encoder, sets.train, {4: 1, 9: 0}, tuning, epochs=tuning.epochs)
    assert (shown[2]["batch"], shown[2]["rank"], shown[2]["world"]) == (1, 3, 4)
    finetuned(encoder, sets.train, dict.fromkeys(range(20), 0), Finetune(**SETS, batch=13, workers=0), epochs=5)
    assert shown[3]["batch"] == 3  # of 13, for each of four processes


def test_processes_average_gradients_and_what_they_counted(sets: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that see the same: the mean of two equal shares is each share, and so are the weights."""
    labels = {number: number % 2 for number in range(6)}
    tuning = Finetune(**SETS, epochs=2, batch=6, lr=0.02, **STILL)
    alone = finetuned(small(), sets.train, labels, tuning, epochs=tuning.epochs)
    summed: list[int] = []
    monkeypatch.setattr("mmssl.dist.world", lambda: 2)
    monkeypatch.setattr("mmssl.dist.total", lambda x: (summed.append(x.numel()), 2 * x)[1])
    monkeypatch.setattr("mmssl.dist.gather_objects", lambda value: [value])
    real = finetune.Loader
    monkeypatch.setattr(finetune, "Loader", lambda *a, **o: real(*a, **{**o, "rank": 0, "world": 1, "batch": 6}))
    both = finetuned(small(), sets.train, labels, tuning, epochs=tuning.epochs)
    for (name, one), other in zip(both.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    whole = sum(weight.numel() for weight in alone.parameters())
    means = [buffer.numel() for buffer in alone.buffers() if buffer.is_floating_point()]
    assert sorted(summed) == sorted([whole, whole, *means])


def test_processes_draw_apart(sets: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(finetune, "descend", lambda *_, **__: seen.append(torch.rand(1)))
    for seed, rank in ((3, 0), (3, 1), (4, 0), (3, 0)):
        monkeypatch.setattr("mmssl.dist.rank", lambda rank=rank: rank)
        finetuned(small(), sets.train, {0: 0, 1: 1}, Finetune(**SETS, seed=seed, **STILL), epochs=5)
    torch.manual_seed(4)
    nn.Linear(16, 2)  # what the classifier draws first
    assert torch.equal(seen[0], seen[3]) and torch.equal(seen[1], seen[2]) and not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], torch.rand(1))


class Plain(Encoder):
    """Features are what is shown."""

    modality, dim = "plain", 3
    preprocess = Preprocess()

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Features:
        return Features(self.scale * x)


def test_the_classifier_starts_from_zero_on_normalised_features() -> None:
    model = Classifier(Plain(), 4)
    assert not model.linear.weight.any() and not model.linear.bias.any() and model.linear.weight.shape == (4, 3)
    assert [name for name, _ in model.named_parameters()] == ["encoder.scale", "linear.weight", "linear.bias"]
    nn.init.normal_(model.linear.weight)
    x = torch.tensor([[1.0, 2.0, 6.0]])
    normal = (x - 3) / math.sqrt((4 + 1 + 9) / 3 + 1e-5)
    torch.testing.assert_close(model(x), normal @ model.linear.weight.T)


def test_the_classifier_stands_on_a_head_that_learns_too(sets: Labelled) -> None:
    encoder, labels = small(), {number: number % 2 for number in range(20)}
    head = encoder.spaces["mid"] = Middle(encoder.dim, out=5)
    before = copy.deepcopy(head.state_dict())
    tuning = Finetune(**SETS, **STILL, batch=10, space="mid")
    found = finetuned(encoder, sets.train, labels, tuning, epochs=2, place="mid")
    assert found.linear.weight.shape == (2, 5) and not found.encoder.spaces
    moved = {name: not value.equal(before[name]) for name, value in found.head.state_dict().items()}
    assert all(moved.values()), "weights, and statistics of what was shown"
    assert all(value.equal(before[name]) for name, value in head.state_dict().items()), "it is a copy"
    x = torch.rand(6, encoder.dim)
    with torch.no_grad():
        seen = F.layer_norm(found.head(Features(x)), (5,))
        torch.testing.assert_close(found.classify(x), seen @ found.linear.weight.T + found.linear.bias)
    assert tuning.needs(Trained({"image": encoder})).encoders[None].space == "mid"


def test_judging_uses_all_labels_and_the_copy(sets: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Finetune(**sides(tmp_path, train=20, test=9), epochs=3, baselines=False)
    seen: list[Any] = []

    class Tuned:
        encoder = "the copy"

        def ranks(self, rows: Any) -> Tensor:
            assert rows.of == "the copy"
            return torch.tensor([0, 1, 5, 4, 0])

    monkeypatch.setattr(
        finetune, "finetuned", lambda *given, epochs, place: (seen.append((*given, epochs, place)), Tuned())[1]
    )
    rows = SimpleNamespace(of="the copy", per_class=lambda right: {"a": 1.0})
    monkeypatch.setattr(probe.sets, "test_rows", lambda encoder: rows if encoder == "the copy" else None)
    encoder = small()
    found = dict(probe.run(Trained({"image": encoder})))
    assert seen == [(encoder, probe.sets.train, {number: number % 2 for number in range(20)}, probe, 3, "pooled")]
    assert list(found) == ["top1"] and found["top1"].value == pytest.approx(2 / 5)
    assert found["top1"].chance == pytest.approx(3 / 5 / 2)  # of two classes ranks 4 and 5 are those of strangers
    monkeypatch.setattr(probe.sets, "labels", lambda: {number: number % 8 for number in range(20)})
    found = dict(probe.judge(encoder, probe.places))
    assert found["top5"].value == pytest.approx(4 / 5) and found["top5"].chance == 5 / 8
    assert seen[1][2] == {number: number % 8 for number in range(20)}


def test_damaged_draws_of_all_processes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.data.report import Report

    class Told:
        def __init__(self, damaged: int) -> None:
            self.damaged = damaged

        def report(self) -> dict[str, Any]:
            tally = Report()
            tally.drawn = 10
            tally.damaged = Counter({("cut off", "a.tar"): self.damaged} if self.damaged else {})
            return tally.plain()

    monkeypatch.setattr("mmssl.dist.gather_objects", lambda plain: [plain, Told(2).report()])
    with reporting() as report:
        _tell_damaged(Told(1), "fine-tuning")  # type: ignore[arg-type]
    (told,) = report.warnings
    assert told.startswith("3 of 20 draws of fine-tuning were left out: ")
    monkeypatch.setattr("mmssl.dist.gather_objects", lambda plain: [plain])
    with reporting() as report:
        _tell_damaged(Told(0), "fine-tuning")  # type: ignore[arg-type]
    assert not report.warnings
