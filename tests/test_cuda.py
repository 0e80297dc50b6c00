"""What a CUDA device must do as a CPU does, and without making the host wait."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.loop import train
from mmssl.losses.cosine import negative_cosine
from mmssl.recipe import check
from mmssl.trainer import Trainer
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.resample import resampled
from mmssl.types import Batch
from mmssl.views.byol import view as byol_view

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "methods"))
from settings import SETTINGS, batch, build
from waits import WAITS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
METHODS = sorted(SETTINGS)
# noise is drawn on the device that computes
DRAWS = {"dvae", "npid", "cmc", "pirl"}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", sorted(set(METHODS) - DRAWS))
def test_loss_gradients_and_state_are_those_of_a_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = build(name).to(device)
        total, _ = model({name: batch(name).map(lambda x, device=device: x.to(device))})
        total.backward()
        model.objectives[name].after_step(model.encoders, 0.5)
        gradients = {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}
        state = {key: x.cpu() for key, x in model.objectives[name].state_dict().items()}
        found.append((total.detach().cpu(), gradients, state))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", sorted(set(METHODS) - set(WAITS)))
def test_a_step_never_waits_for_the_device(name: str) -> None:
    model = build(name).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    shown = batch(name).map(lambda x: x.cuda())
    for quiet in (False, True):  # the first step may set things up
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")
        try:
            total, _ = model({name: copy.copy(shown)})
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            model.objectives[name].after_step(model.encoders, 0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_training_step_never_waits_for_the_device(color_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = copy.deepcopy(color_recipe)
    recipe["evals"] = {}
    recipe["train"] |= {"ema": 0.9, "clip_grad": 1.0, "precision": "bf16"}
    trainer = Trainer(check(recipe), tmp_path / "run", device=torch.device("cuda:0"), state=None)
    trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        trainer.close()
    assert trainer.bad_steps.item() == 0


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_views_of_images_held_in_memory_are_made_without_waiting_for_the_device() -> None:
    view = byol_view({"image": ImagePreprocess(24)})
    pixels = torch.randint(0, 256, (8, 3, 30, 40), dtype=torch.uint8).pin_memory()
    view.cut(Batch({"image": [pixels]}).to("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = view.cut(Batch({"image": [pixels]}).to("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    place = found.places["image"][1]
    expected = resampled(pixels, place.cpu(), 24, interpolation="bicubic", within=True)
    assert (found.views["image"][1].cpu().int() - expected.int()).abs().max() <= 1


def test_a_step_with_gradients_that_are_not_finite_leaves_weights_and_optimizer(
    color_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = copy.deepcopy(color_recipe)
    recipe["evals"] = {}
    trainer = Trainer(check(recipe), tmp_path / "run", device=torch.device("cuda:0"), state=None)
    trainer.train_step()
    before = {key: p.clone() for key, p in trainer.model.named_parameters()}
    moments = copy.deepcopy(trainer.optimizer.state_dict()["state"])
    hook = trainer.weights[0].register_hook(lambda gradient: gradient * torch.nan)
    trainer.train_step()
    hook.remove()
    trainer.close()
    assert trainer.bad_steps.item() == 1
    torch.testing.assert_close(dict(trainer.model.named_parameters()), before, rtol=0, atol=0)
    torch.testing.assert_close(trainer.optimizer.state_dict()["state"], moments, rtol=0, atol=0)


def test_a_deterministic_run_is_the_same_bit_by_bit_and_goes_on_alike(
    color_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = copy.deepcopy(color_recipe)
    recipe["evals"] = {}
    recipe["encoders"]["text"]["drop_path"] = 0.2
    train(recipe, out=tmp_path / "whole", progress=False)
    train(recipe, out=tmp_path / "again", progress=False)
    real = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self: real(self) if self.step < 14 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(recipe, out=tmp_path / "resumed", progress=False)
    monkeypatch.undo()
    train(recipe, out=tmp_path / "resumed", progress=False, resume=True)
    whole, again, resumed = (
        torch.load(tmp_path / name / "checkpoints/step_20/state.pt", weights_only=True)["model"]
        for name in ("whole", "again", "resumed")
    )
    assert not [key for key, value in whole.items() if not torch.equal(value, again[key])]
    assert not [key for key, value in whole.items() if not torch.equal(value, resumed[key])]


def test_autocast_takes_cosines_in_full_precision() -> None:
    one, other = torch.randn(2, 32, 64, device="cuda").unbind(0)
    with torch.autocast("cuda", torch.bfloat16):
        found = negative_cosine(one, other)
    expected = -(one * other).sum(dim=1) / one.norm(dim=1) / other.norm(dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_colours_are_changed_without_waiting_for_the_device() -> None:
    preprocess = ImagePreprocess(24)
    view = byol_view({"image": preprocess}, image={"blur": {"p": 0.5}, "solarize": {"p": 0.2}})
    shown = Batch({"image": [torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8).cuda() for _ in range(2)]})
    view.on_device(copy.copy(shown))
    torch.cuda.set_sync_debug_mode("error")
    try:
        view.on_device(shown)
    finally:
        torch.cuda.set_sync_debug_mode("default")
