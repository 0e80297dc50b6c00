"""A training step never makes the host wait for the device, on a pretended one; tests/test_cuda.py asks a real one."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch import Tensor

from mmssl.losses.proto_nce import proto_nce
from mmssl.methods.autoencoder import Damage
from mmssl.methods.colorization import Lightness
from mmssl.methods.cpc import Patches
from mmssl.methods.inpainting import Holes
from mmssl.methods.jigsaw import Puzzle
from mmssl.methods.pirl import ShuffledPatches
from mmssl.methods.relative_position import Neighbors
from mmssl.methods.rotation import QuarterTurns
from mmssl.methods.split_brain import Halves
from mmssl.methods.super_resolution import Shrink
from mmssl.nn.ema import ema_update
from mmssl.numerics.geometry import compose, inverse
from mmssl.recipe import check
from mmssl.trainer import Trainer
from mmssl.transforms import fields
from mmssl.transforms.base import OnBatch, OnDevice
from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize
from mmssl.transforms.geometry import Rotate
from mmssl.transforms.rand_augment import RandAugment
from mmssl.transforms.style import Contour, FewTones, Pixelate, RandomAffine, Shading, ToneCurves
from mmssl.types import Batch, Ragged
from mmssl.views.mae import Seed

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "methods"))
from settings import SETTINGS, batch, build
from waits import DEVICE, WAITS, pretended


def asked(call: Callable[[Tensor], Any]) -> list[str]:
    """Returns which operations of a call the host would wait for, given two rows of three that lie on the device."""
    with pretended() as waits:
        x = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]).to(DEVICE, non_blocking=True)
        del waits[:]
        call(x)
    return [wait.split(" at ")[0].removeprefix("aten.") for wait in waits]


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda x: x.sum().item(), ["_local_scalar_dense"]),
        (lambda x: 1 if x.sum() > 0 else 0, ["_local_scalar_dense"]),
        (lambda x: x.tolist(), ["tolist"]),
        (lambda x: x.cpu(), ["_to_copy"]),
        (lambda x: x.to("cpu", non_blocking=True), ["_to_copy"]),
        (lambda x: x[x > 0], ["index"]),
        (lambda x: x[[1, 0]], ["index"]),
        (lambda x: x[torch.tensor([1])], ["index"]),
        (lambda x: x.nonzero(), ["nonzero"]),
        (lambda x: x.unique(), ["_unique2"]),
        (lambda x: x.long().abs().flatten().bincount(minlength=9), ["bincount"]),
        (lambda x: x.repeat_interleave(torch.ones_like(x[:, 0]).long(), dim=0), ["repeat_interleave"]),
        (lambda x: x[:, :2].inverse(), ["_linalg_check_errors"]),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), ["_to_copy"]),
        (lambda x: x.new_tensor(1.0), ["_to_copy"]),
        (lambda x: torch.tensor([1.0, 2.0]).to(x.device, non_blocking=True), ["_to_copy"]),  # of pageable memory
        (lambda x: torch.zeros(3).copy_(x[0]), ["copy_"]),
        (lambda x: x.clone().masked_fill_(x > 0, 1.0), []),
        (lambda x: x.clone().__setitem__(x > 0, 1.0), []),
        (lambda x: x.clone().__setitem__((x > 0).any(dim=1), x[0]), ["index_put_"]),
        (lambda x: x[torch.arange(2, device=x.device)], []),
        (lambda x: torch.zeros(2, device=x.device) + x.sum(dim=1) * torch.tensor(2.0), []),
        (lambda x: torch.rand(4, device=x.device).argsort(), []),
    ],
)
def test_what_makes_the_host_wait_is_noticed(call: Callable[[Tensor], Any], found: list[str]) -> None:
    assert asked(call) == found


def test_values_and_gradients_are_those_of_a_cpu() -> None:
    found = []
    for device in (torch.device("cpu"), DEVICE):
        with pretended() as waits:
            model = build("simclr").to(device)
            total, _ = model({"simclr": batch("simclr").to(device)})
            total.backward()
            found.append([total.detach().cpu(), *(p.grad.cpu() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0])
    assert len(waits) == len(found[1]), "and only the test reads them"


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_step_waits_for_nothing(name: str) -> None:
    model = build(name)
    averaged = copy.deepcopy(model).requires_grad_(False)
    with pretended() as waits:
        model.to(DEVICE)
        averaged.to(DEVICE)
        shown = batch(name).to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):  # the first step may set things up
            del waits[:]
            total, _ = model({name: copy.copy(shown)})
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            model.objectives[name].after_step(model.encoders, 0.5)
            ema_update(averaged, model, decay=0.9)
    assert bool(waits) == (name in WAITS), waits


PICTURE = {"name": "convnet", "image_size": 28, "widths": [4, 8], "depths": [1, 1]}
TEXT = {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "vocab_size": 280, "pool": "last", "causal": True}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 8},
    "simclr": {"embed_dim": 8},
    "moco": {"embed_dim": 8, "queue": 12},
    "byol": {"embed_dim": 8, "hidden": [8]},
    "dino": {"prototypes": 8, "hidden": [8], "bottleneck": 4},
    "swav": {"embed_dim": 8, "hidden": [8], "prototypes": 6, "queue": 12, "queue_from": 0.0},
    "mae": {"width": 8, "depth": 1, "heads": 2},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("pictures") / "a.tar"
    with webdataset.TarWriter(str(file)) as writer:
        for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)):
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "PNG")
            writer.write({"__key__": str(number), "png": picture.getvalue(), "txt": f"number {number}"})
    return str(file)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_runs_step_waits_for_nothing(name: str, pictures: str, tmp_path: Path) -> None:
    """With the method's own view, so also what is changed on the device."""
    vit = {"name": "vit", "image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2}
    encoders = {"image": vit if name == "mae" else PICTURE} | ({"text": TEXT} if name == "clip" else {})
    method = {"name": name, "objective": OBJECTIVES[name]}
    recipe = {
        "name": name,
        "encoders": encoders,
        "tasks": {name: {"data": {"shards": pictures, "workers": 0}, "method": method, "batch": 4}},
        "train": {"samples": 64, "precision": "bf16", "ema": 0.9, "clip_grad": 1.0},
    }
    with pretended() as waits:
        trainer = Trainer(check(recipe), tmp_path / "run", device=DEVICE, state=None)
        trainer.train_step()
        del waits[:]
        losses, _ = trainer.train_step()
        assert not waits
        assert losses[name].total.isfinite() and trainer.bad_steps == 0
        trainer.close()


STEPS: list[OnDevice | OnBatch] = [
    *(ColorJitter(p=0.7), Grayscale(p=0.5), Blur(p=0.5), Solarize(p=0.5), Rotate(), RandAugment(operations=3)),
    *(RandomAffine(), ToneCurves(), FewTones(), Shading(), Contour(), Pixelate()),
    *(
        ShuffledPatches(),
        Patches(grid=2, cell=12, stride=12, patch=9),
        Damage(),
        Lightness(),
        Puzzle(patch=4, gap=2, shift=1),
        Neighbors(patch=6, gap=2, jitter=1),
        Holes(),
    ),
    *(QuarterTurns(), Halves(), Shrink(), Seed()),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_what_changes_views_waits_for_nothing(step: OnDevice | OnBatch) -> None:
    shown = Batch({"image": [torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8)]})
    shown.places["image"] = [torch.tensor([[20.0, 0, 3], [0, 20.0, 5]]).repeat(6, 1, 1)]
    shown.views |= {"other": shown.views["image"]} if isinstance(step, Halves) else {}
    with pretended() as waits:
        for _ in range(2):
            del waits[:]
            moved = shown.to(DEVICE)
            if isinstance(step, OnDevice):
                step.on_device(moved.views["image"][0])
            else:
                step.on_batch(moved)
    assert not waits


def test_what_moves_with_views_waits_for_nothing() -> None:
    rows = Ragged.pack([torch.rand(3, 4) * 10, torch.rand(2, 4) * 10])
    planes = torch.rand(2, 3, 8, 8)
    change = torch.tensor([[0.8, 0.1, 0.05], [-0.1, 0.9, 0.0]]).repeat(2, 1, 1)
    kinds: Sequence[tuple[fields.Kind, Any]] = [("boxes", rows), ("normals", planes), ("flow", planes[:, :2])]
    with pretended() as waits:
        there = change.to(DEVICE)
        for _ in range(2):
            del waits[:]
            for kind, value in kinds:
                fields.warped(kind, Batch({"x": [value]}).to(DEVICE).views["x"][0], there, (8, 8))
            compose(there, inverse(there))
    assert not waits


def test_drawn_prototypes_are_compared_without_waiting() -> None:
    queries, prototypes, labels = torch.randn(4, 3), torch.randn(9, 3), torch.tensor([3, 1, 3, 8])
    with pretended() as waits:
        there = [x.to(DEVICE) for x in (queries, prototypes, torch.ones(9), labels)]
        del waits[:]
        proto_nce(*there, negatives=4)
    assert not waits
