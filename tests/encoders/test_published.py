"""Checkpoints as authors write them, made here with their names, give encoders their backbone and nothing else."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from mmssl import create_encoder
from mmssl.encoders.published import BESIDE, backbone_of, load_published, read_state
from mmssl.errors import UserError

State = dict[str, Tensor]
ROW = torch.ones(4)


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def children(state: State) -> State:
    """A ResNet's weights as nn.Sequential(*resnet.children()) names them."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "fc": 9}
    return {re.sub(r"^\w+", lambda found: str(places[found[0]]), key): value for key, value in state.items()}


def without_fc(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


# Of a backbone's state dict, and of another's that must not be taken.
RESNETS: dict[str, Callable[[State, State], Any]] = {
    "MoCo v1": lambda own, other: {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": under("module.encoder_k.", other) | under("module.encoder_q.", own) | {"module.queue": ROW},
        "optimizer": {"state": {0: {"momentum_buffer": ROW}}, "param_groups": []},
    },
    "MoCo v2": lambda own, other: {
        "state_dict": under("module.encoder_q.", without_fc(own))
        | {"module.encoder_q.fc.0.weight": ROW, "module.encoder_q.fc.2.bias": ROW, "module.queue_ptr": ROW.long()}
        | under("module.encoder_k.", other),
        "best_acc": np.float64(67.5),
    },
    "MoCo v3": lambda own, other: {
        "state_dict": under("module.base_encoder.", own)
        | under("module.momentum_encoder.", other)
        | {"module.predictor.0.weight": ROW}
    },
    "SimSiam": lambda own, other: {"state_dict": under("module.encoder.", own) | {"module.predictor.0.weight": ROW}},
    "SwAV": lambda own, other: (
        under("module.", without_fc(own))
        | {
            "module.projection_head.0.weight": ROW,
            "module.prototypes.weight": ROW,
            "module.projection_head.1.bias": ROW,
        }
    ),
    "DeepCluster v2": lambda own, other: {
        "epoch": 1,
        "state_dict": under("module.", without_fc(own)) | {"module.prototypes.prototypes0.weight": ROW},
    },
    "Barlow Twins": lambda own, other: {"model": under("module.backbone.", own) | {"module.projector.0.weight": ROW}},
    "VICReg": lambda own, other: own,
    "DINO": lambda own, other: {
        "student": under("module.backbone.", other) | {"module.head.mlp.0.weight": ROW},
        "teacher": under("backbone.", without_fc(own)) | {"head.mlp.0.weight": ROW, "head.last_layer.weight_g": ROW},
        "epoch": 3,
        "args": argparse.Namespace(arch="resnet50", lr=0.3),
        "dino_loss": {"center": ROW},
    },
    "BYOL of byol-pytorch": lambda own, other: (
        under("online_encoder.net.", own)
        | under("target_encoder.net.", other)
        | {"online_encoder.projector.0.weight": ROW, "online_predictor.0.weight": ROW}
    ),
    "BYOL of children": lambda own, other: {
        "online_network_state_dict": under("encoder.", children(own)) | {"projection.net.0.weight": ROW},
        "target_network_state_dict": under("encoder.", children(other)),
    },
    "lightly": lambda own, other: {
        "state_dict": under("backbone.", children(without_fc(own)))
        | under("backbone_momentum.", children(other))
        | {"projection_head.layers.0.weight": ROW}
    },
    "solo-learn": lambda own, other: {
        "state_dict": under("backbone.", own) | under("momentum_backbone.", other) | {"classifier.weight": ROW}
    },
    "compiled": lambda own, other: {"model_state_dict": under("_orig_mod.backbone.", own)},
}
BESIDE_VIT = {"head.0.weight": ROW, "head.weight": ROW}
DECODER = {
    "mask_token": ROW,
    "decoder_pos_embed": ROW,
    "decoder_embed.weight": ROW,
    "decoder_blocks.0.norm1.bias": ROW,
    "decoder_norm.weight": ROW,
    "decoder_pred.bias": ROW,
}
VITS: dict[str, Callable[[State, State], Any]] = {
    "MAE": lambda own, other: {"model": own | DECODER},
    "DINO, student": lambda own, other: {"student": under("module.backbone.", own) | {"module.head.mlp.0.bias": ROW}},
    "DINO, teacher": lambda own, other: {
        "student": under("module.backbone.", other),
        "teacher": under("module.backbone.", own) | {"module.head.last_layer.weight_v": ROW},
    },
    "DINO, backbone alone": lambda own, other: own,
    "iBOT": lambda own, other: {"state_dict": own | {"masked_embed": ROW}},
    "MoCo v3": lambda own, other: {
        "state_dict": under("module.base_encoder.", own | BESIDE_VIT) | under("module.momentum_encoder.", other)
    },
    "BYOL": lambda own, other: {"model": under("online_net.backbone.", own) | under("target_net.backbone.", other)},
}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def resnets() -> list[nn.Module]:
    made = [torchvision.models.resnet18() for _ in range(2)]
    for module in made[0].modules():
        if isinstance(module, nn.BatchNorm2d):  # or weights and running statistics of all are alike
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.uniform_(0.5, 1.5)
    return made


@pytest.mark.parametrize("name", RESNETS)
def test_the_backbone_of(name: str, resnets: list[nn.Module], tmp_path: Path) -> None:
    own, other = ({key: torch.randn(1) for key in model.state_dict()} for model in resnets)
    found = backbone_of(read_state(saved(tmp_path / "authors.pth.tar", RESNETS[name](own, other))))
    needed = without_fc(own)
    assert {key: found[key].item() for key in needed} == {key: value.item() for key, value in needed.items()}
    assert all(BESIDE.match(key) for key in found.keys() - needed.keys())


@pytest.mark.parametrize("name", ["MoCo v2", "SwAV", "BYOL of children"])
@torch.inference_mode()
def test_a_resnet_of(name: str, resnets: list[nn.Module], tmp_path: Path) -> None:
    own, other = (dict(model.state_dict()) for model in resnets)
    encoder = create_encoder("timm:resnet18", image_size=32).eval()
    load_published(encoder, saved(tmp_path / "authors.pth.tar", RESNETS[name](own, other)))
    theirs, x = torchvision.models.resnet18().eval(), torch.rand(2, 3, 32, 32)
    theirs.load_state_dict(own)
    theirs.fc = nn.Identity()
    torch.testing.assert_close(encoder(x).pooled, theirs(encoder.normalize(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VITS)
@torch.inference_mode()
def test_a_vision_transformer_of(name: str, tmp_path: Path) -> None:
    own, other = (timm.create_model("test_vit", num_classes=0).eval() for _ in range(2))
    content = VITS[name](dict(own.state_dict()), dict(other.state_dict()))
    encoder = create_encoder("timm:test_vit").eval()
    load_published(encoder, saved(tmp_path / "authors.pth", content))
    x = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(encoder(x).pooled, own(encoder.normalize(x)))


@torch.inference_mode()
def test_places_of_another_grid_are_interpolated(tmp_path: Path) -> None:
    own = timm.create_model("test_vit", num_classes=0)
    encoder = create_encoder("timm:test_vit", image_size=96)
    load_published(encoder, saved(tmp_path / "a.pth", own.state_dict()))
    own.set_input_size(img_size=96)
    torch.testing.assert_close(encoder.model.pos_embed, own.pos_embed)


@pytest.mark.parametrize("name, stem", [("r3d_18", "stem.0.weight"), ("s3d", "features.0.0.0.weight")])
def test_a_video_network_of_torchvision(name: str, stem: str, tmp_path: Path) -> None:
    own = torchvision.models.get_model(name)
    encoder = create_encoder(f"torchvision:{name}")
    load_published(encoder, saved(tmp_path / "a.pth", {"state_dict": own.state_dict()}))
    values = [*own.state_dict().values()][: len(encoder.state_dict())]
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), values, strict=True))
    assert torch.equal(next(iter(encoder.state_dict().values())), own.state_dict()[stem])


def test_whatever_timm_calls_a_classifier_is_beside_the_backbone() -> None:
    told = [getattr(timm.get_pretrained_cfg(name), "classifier", None) for name in timm.list_models()]
    every = {name for one in told for name in ((one,) if isinstance(one, str) else one or ())}
    assert len(every) > 9
    assert not [name for name in every if not BESIDE.match(f"{name}.weight")]


def test_a_classifier_of_timm_is_left_out(tmp_path: Path) -> None:
    own = timm.create_model("test_efficientnet")
    assert any(key.startswith("classifier.") for key in own.state_dict())
    encoder = create_encoder("timm:test_efficientnet")
    load_published(encoder, saved(tmp_path / "a.pth", own.state_dict()))
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in encoder.model.state_dict().items())


@pytest.mark.parametrize("positions, side", [("learned", 32), ("learned", 48), ("sincos", 32)])
@torch.inference_mode()
def test_our_own_vit_takes_timms_names(positions: str, side: int, tmp_path: Path) -> None:
    """LayerNorm's epsilon is 1e-5 here and 1e-6 in timm, so that of timm is set to ours."""
    own = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, class_token=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    ).eval()  # fmt: skip
    small = {"width": 32, "depth": 2, "heads": 2, "patch_size": 8, "positions": positions}
    encoder = create_encoder("vit", image_size=side, **small).eval()
    learned = saved(tmp_path / "a.pth", {"model": own.state_dict() | DECODER})
    if positions == "sincos":
        with pytest.raises(UserError, match="say positions: learned"):
            load_published(encoder, learned)
        own.pos_embed[:, 1:] = encoder.positions.flatten(2).mT  # as MAE's are fixed
        learned = saved(tmp_path / "b.pth", {"model": own.state_dict()})
    load_published(encoder, learned)
    if side != 32:
        own.set_input_size(img_size=side)
        own.pos_embed[:, 1:] = encoder.positions.flatten(2).mT
    x = torch.rand(2, 3, side, side)
    torch.testing.assert_close(encoder(x).pooled, own(encoder.normalize(x)), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_one_line(resnets: list[nn.Module], tmp_path: Path) -> None:
    encoder, own = create_encoder("timm:resnet18"), OrderedDict(resnets[0].state_dict())
    del own["conv1.weight"], own["bn1.weight"], own["bn1.bias"], own["bn1.running_mean"]
    own["layer1.0.conv1.weight"] = own["layer1.0.conv1.weight"][:, :3]
    own["layer9.weight"] = ROW
    with pytest.raises(UserError) as caught:
        load_published(encoder, saved(tmp_path / "a.pth", {"state_dict": under("module.", own)}))
    assert str(caught.value) == (
        f"{tmp_path / 'a.pth'} does not fit timm:resnet18: missing: model.conv1.weight, model.bn1.weight, "
        "model.bn1.bias and 1 more; unexpected: model.layer9.weight; of another shape: "
        "model.layer1.0.conv1.weight (64, 3, 3, 3), not (64, 64, 3, 3)"
    )


def test_old_files_lack_the_count_of_batches(resnets: list[nn.Module], tmp_path: Path) -> None:
    own = {k: v for k, v in resnets[0].state_dict().items() if "num_batches" not in k and not k.startswith("fc")}
    save_file(own, tmp_path / "a.safetensors")
    encoder = create_encoder("timm:resnet18")
    load_published(encoder, tmp_path / "a.safetensors")
    assert torch.equal(encoder.model.layer4[1].bn2.running_var, own["layer4.1.bn2.running_var"])


class Opaque:
    """Stands for a pickled object of an author's own class."""


def test_files_that_hold_no_weights(tmp_path: Path, resnets: list[nn.Module]) -> None:
    encoder, path = create_encoder("timm:resnet18"), tmp_path / "a.pth"
    for content, message in (
        ({"epoch": 3, "lr": 0.1}, "holds a mapping of epoch, lr; expected a state dict, alone or under 'state_dict'"),
        ([1, 2], r"holds \[1, 2\]; expected a state dict"),
        ({"state_dict": {"a": ROW}, "cfg": Opaque()}, r"holds an object of [\w.]*Opaque; expected a file of tensors"),
        ({"bn1.weight": ROW * torch.nan}, "does not fit"),
        (resnets[0].state_dict() | {"bn1.weight": torch.full((64,), torch.nan)}, "model.bn1.weight holds what is no"),
    ):
        with pytest.raises(UserError, match=message):
            load_published(encoder, saved(path, content))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="does not load"):
        load_published(encoder, path)
