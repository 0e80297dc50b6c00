"""Weights as authors publish them: a file's state dict, without what stands around the backbone's names.

Known are the files of MoCo (v1 to v3), SimSiam, BYOL, SwAV, DeepCluster v2, Barlow Twins, VICReg, DINO, iBOT, MAE, and
those that lightly and solo-learn write. What they call a backbone's weights are torchvision's names of ResNets and
timm's of vision transformers; `Encoder.published` puts those into an encoder's own.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn.misfit import misfit
from mmssl.schema import shortened
from mmssl.types import Encoder

# Under which key a checkpoint holds its weights; of a teacher and a student the teacher, as DINO is evaluated.
HOLDERS = (
    *("teacher", "state_dict", "model_state_dict", "model", "online_network_state_dict", "online_network", "student"),
    *("encoder", "backbone", "net"),
)
# What stands before a backbone's names; of several the first is taken, and what stands under the others is left.
PREFIXES = (
    *("module.", "_orig_mod.", "encoder_q.", "base_encoder.", "online_encoder.", "online_network.", "online_net."),
    *("backbone.", "encoder.", "net.", "model."),
)
# What pretraining puts behind and beside a backbone.
BESIDE = re.compile(
    r"(model\.)?((fc|last_linear|classif|classifier|instance_classifier|(aux_)?heads?(_dist)?|projection_head|projector"
    r"|prototypes|predictor)\b|decoder_\w+|mask_token$|masked_embed$|queue$|queue_ptr$)"
)
# of a ResNet, in their order
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
# Plain values that authors save beside tensors: options, and figures of NumPy's under its old and new path.
PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def load_published(encoder: Encoder, path: Path) -> None:
    """Gives an encoder the weights of a file that authors published; UserError where they do not fit."""
    own = encoder.state_dict()
    found = encoder.published(backbone_of(read_state(path)))
    found = {key: value for key, value in found.items() if key in own or not BESIDE.match(key)}
    for key, value in own.items():  # files older than this count of batches lack it
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, value)
    if difference := misfit(encoder, found):
        raise UserError(f"{path} does not fit {encoder.name}: {difference}")
    for key, value in found.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path}: {key} holds what is no number; take another checkpoint")
    encoder.load_state_dict(found)


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a .safetensors file or of one of torch's, of which no code is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(PLAIN):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a truncated or foreign file raises a dozen kinds of errors
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds an object of {unsafe[1]}" if unsafe else f"does not load ({_line(error)})"
        raise UserError(f"{path} {what}; expected a file of tensors and plain values: save its state dict alone") from (
            error
        )
    return _tensors(found, path)


def _tensors(found: Any, path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint: its own, or those under the key that holds weights."""
    if isinstance(found, Mapping):
        for key in HOLDERS:
            if isinstance(found.get(key), Mapping):
                return _tensors(found[key], path)
        if tensors := {str(key): value for key, value in found.items() if isinstance(value, Tensor)}:
            return tensors
    inside = f"a mapping of {', '.join(map(str, [*found][:8])) or 'nothing'}" if isinstance(found, Mapping) else ""
    raise UserError(f"{path} holds {inside or shortened(found)}; expected a state dict, alone or under {HOLDERS[1]!r}")


def backbone_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a backbone's weights under torchvision's or timm's names, whatever was trained around it."""
    found = dict(weights)
    while prefix := next((p for p in PREFIXES if any(key.startswith(p) for key in found)), ""):
        found = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    if "0.weight" not in found or "4.0.conv1.weight" not in found:
        return found
    parts = ((key.partition("."), value) for key, value in found.items())  # a Sequential of a ResNet's children
    return {f"{CHILDREN.get(first, first)}.{rest}": value for (first, _, rest), value in parts}


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
