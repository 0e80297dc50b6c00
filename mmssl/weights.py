"""Which weights of a run train, by which options and from when: `optim.groups` and `train.freeze`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.multitask import MultiTask
from mmssl.nn.named_parts import parts_of, weights_of
from mmssl.optim.groups import HEADS, GroupOptions, layer_scales
from mmssl.types import Encoder


def group_options(model: MultiTask, groups: Mapping[str, GroupOptions]) -> dict[int, dict[str, Any]]:
    """Returns the options of parameters by their id: those of the part they lie in, on those of the parts around it.

    A name is `image` or `image.blocks.0-5` of an encoder, `heads`, `heads.TASK` or `heads.TASK.predictor` of what the
    objectives own. `part` in the options is the name. Raises UserError for a name that matches nothing.
    """
    roots: dict[str, nn.Module] = {HEADS: model.objectives, **model.named_encoders}
    found: dict[int, dict[str, Any]] = {}
    for name in sorted(groups, key=_depth):
        where = f"optim.groups.{name}"
        parts = parts_of(roots, name, where="optim.groups")
        given = {field.name: getattr(groups[name], field.name) for field in fields(GroupOptions)}
        said = {key: value for key, value in given.items() if value is not None and key != "layer_decay"}
        if "lr" in said:
            said["lr_scale"] = 1.0
        for weight in weights_of(parts):
            found[id(weight)] = {**found.get(id(weight), {}), **said, "part": name}
        if (decay := groups[name].layer_decay) is not None:
            for scale, weights in layer_scales(_whole(parts, where), decay=decay):
                for weight in weights:
                    found[id(weight)]["lr_scale"] = scale
    return found


def _depth(name: str) -> int:
    return name.count(".")


def _whole(parts: list[Any], where: str) -> Encoder:
    if not isinstance(parts[0], Encoder):
        raise UserError(f"{where}.layer_decay counts the layers of an encoder, and this is none; say it of an encoder")
    return parts[0]


MARK = "frozen_until"  # on a frozen module: the share of training after which it trains; its copies have it, too


def still(encoders: Mapping[str, Encoder], until: Mapping[str, float]) -> None:
    """Puts the parts that do not train, or not yet, in evaluation mode, before an objective copies them.

    So running statistics stay as they are, nothing is dropped, and a teacher's copy of a part is in the part's mode.
    until: a part's name -> the share of training after which it trains, 1 for never. A part within another goes by
        its own. Raises UserError for a name that matches nothing.
    """
    for name in sorted(until, key=_depth):
        for part in parts_of(encoders, name, where="train.freeze"):
            for each in part.modules() if isinstance(part, nn.Module) else ():
                setattr(each, MARK, until[name])
    for encoder in encoders.values():
        _set_modes(encoder)


def _set_modes(model: nn.Module, done: float = 0.0) -> None:
    """Puts marked modules in evaluation mode, or back in training mode and unmarks them where their time has come."""
    for part in model.modules():
        mark = getattr(part, MARK, None)
        if mark is not None:
            part.training = mark <= done
            if part.training:
                delattr(part, MARK)


def weights_until(encoders: Mapping[str, Encoder], until: Mapping[str, float]) -> dict[Tensor, float]:
    """Returns the share of training after which each weight of frozen parts trains."""
    found: dict[Tensor, float] = {}
    for name in sorted(until, key=_depth):
        found |= dict.fromkeys(weights_of(parts_of(encoders, name, where="train.freeze")), until[name])
    return found


class Frozen:
    """The weights that train from later on; it depends on how far training is alone, so that a run can be resumed.

    They have a place in the optimizer, which passes them over while they have no gradient.
    """

    def __init__(self, model: MultiTask, until: Mapping[str, float]) -> None:
        shares = weights_until(model.named_encoders, until)
        self.model, self.until = model, until
        self.waiting = {weight: share for weight, share in shares.items() if weight.requires_grad}
        for weight in self.waiting:
            weight.requires_grad_(False)

    def release(self, done: float) -> list[str]:
        """Lets train whose time has come when the share `done` of training is over; returns the names of those."""
        due = {weight: share for weight, share in self.waiting.items() if share <= done}
        for weight in due:
            del self.waiting[weight.requires_grad_(True)]
        if due:
            _set_modes(self.model, done)
        return [name for name, share in self.until.items() if share in due.values()]
