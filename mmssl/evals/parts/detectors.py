"""Detectors of torchvision on an encoder's maps: Faster and Mask R-CNN, on a pyramid or on the last but one map."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from mmssl.errors import UserError
from mmssl.evals.parts.transfer import Network
from mmssl.nn.pyramid import pyramid
from mmssl.nn.stages import Stages
from mmssl.types import Batch, Encoder

Parts = Literal["fpn", "c4"]
RATIOS = (0.5, 1.0, 2.0)  # of anchors' height to width
MASK = 0.5  # from this probability on a pixel is the object's


class Detector(Network):
    """Faster R-CNN (Ren et al., NeurIPS 2015), or with masks Mask R-CNN (He et al., ICCV 2017), around an encoder.

    kind: "fpn" looks at the levels of a pyramid, 256 wide there (Lin et al., CVPR 2017; Li et al., ECCV 2022, of a
        ViT); "c4" at the last but one map, and the encoder's last stage looks at each proposal.
    classes: without the background.
    size: side of the images in pixels.
    width: channels of the levels; the heads' own follow from it.
    proposals: of each image that the heads learn from in a step; twice as many, at most 1,000, are judged.
    """

    def __init__(
        self,
        encoder: Encoder,
        kind: Parts,
        classes: int,
        *,
        size: int,
        masks: bool = False,
        width: int = 256,
        proposals: int = 512,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.masks = encoder, masks
        stages = Stages(encoder)
        options = (_on_last_stage if kind == "c4" else _on_levels)(encoder, stages, classes + 1, width, frozen)
        if not masks:
            options = {name: part for name, part in options.items() if not name.startswith("mask_")}
        self.model = (MaskRCNN if masks else FasterRCNN)(
            **options,
            min_size=size,
            max_size=size,
            image_mean=(0.0, 0.0, 0.0),  # the encoder normalises
            image_std=(1.0, 1.0, 1.0),
            box_batch_size_per_image=proposals,
            rpn_post_nms_top_n_test=min(1000, 2 * proposals),
            size_divisible=1,
            _skip_resize=True,
        )

    def loss(self, batch: Batch) -> Tensor:
        """Returns the sum of the detector's losses; crowds take no part."""
        rows = {name: values[0].split() for name, values in batch.fields["image"].items()}
        targets = []
        for number, crowd in enumerate(rows.pop("crowd")):
            targets.append({name: values[number][~crowd] for name, values in rows.items()})
        return torch.stack([*self.model(_images(batch), targets).values()]).sum()

    def answers(self, batch: Batch) -> list[Any]:
        """Returns of each image what is told and what is true, with masks as run lengths."""
        truth = {name: values[0].split() for name, values in batch.fields["image"].items()}
        found = []
        for number, told in enumerate(self.model(_images(batch))):
            if self.masks:
                told["masks"] = told["masks"][:, 0] >= MASK
            true = {name: values[number] for name, values in truth.items()}
            found.append((_plain(told), _plain(true)))
        return found


def _images(batch: Batch) -> list[Tensor]:
    return [*(batch.views["image"][0].float() / 255)]


def _plain(rows: dict[str, Tensor]) -> dict[str, Any]:
    """Returns arrays, and of masks (n, H, W) the run lengths."""
    found: dict[str, Any] = {name: values.cpu().numpy() for name, values in rows.items()}
    if "masks" in found:
        from pycocotools import mask as coco

        found["masks"] = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in found["masks"]]
    return found


class _Levels(nn.Module):
    """The levels of a pyramid on an encoder's maps, and one more, half as fine as the coarsest, for proposals."""

    def __init__(self, encoder: Encoder, stages: Stages, width: int, frozen: bool) -> None:
        super().__init__()
        self.encoder, self.stages, self.frozen, self.out_channels = encoder, stages, frozen, width
        self.pyramid, strides = pyramid(stages, out=width)
        self.strides = [*strides, 2 * strides[-1]]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            _, maps = self.stages(self.encoder, x)
        levels = self.pyramid(maps)
        return OrderedDict(
            (str(number), level) for number, level in enumerate([*levels, nn.functional.max_pool2d(levels[-1], 1, 2)])
        )


class _BeforeLast(nn.Module):
    """The last but one of an encoder's maps."""

    def __init__(self, encoder: Encoder, stages: Stages, frozen: bool) -> None:
        super().__init__()
        self.encoder, self.stages, self.frozen, self.out_channels = encoder, stages, frozen, stages.channels[-2]

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.stages.before_last(self.encoder, x)


class _LastStage(nn.Module):
    """What an encoder's last stage makes of proposals (N, C, h, w): a map, or its mean."""

    def __init__(self, encoder: Encoder, stages: Stages, *, pool: bool) -> None:
        super().__init__()
        self.encoder, self.stages, self.pool = encoder, stages, pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages.finish(self.encoder, x)
        return x.mean(dim=(2, 3)) if self.pool else x


def _on_levels(encoder: Encoder, stages: Stages, classes: int, width: int, frozen: bool) -> dict[str, Any]:
    backbone = _Levels(encoder, stages, width, frozen)
    levels = [str(number) for number in range(len(backbone.strides) - 1)]
    return {
        "backbone": backbone,
        "rpn_anchor_generator": _anchors([(8.0 * stride,) for stride in backbone.strides]),
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
        "box_head": TwoMLPHead(width * 7 * 7, 4 * width),
        "box_predictor": FastRCNNPredictor(4 * width, classes),
        "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 2),
        "mask_head": MaskRCNNHeads(width, (width,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(width, width, classes),
    }


def _on_last_stage(encoder: Encoder, stages: Stages, classes: int, width: int, frozen: bool) -> dict[str, Any]:
    if not stages.last or len(stages.channels) < 2:
        raise UserError("c4 needs an encoder of several stages, such as a ResNet; choose detector: fpn")
    stride = float(stages.strides[-2])
    return {
        "backbone": _BeforeLast(encoder, stages, frozen),
        "rpn_anchor_generator": _anchors([tuple(factor * stride for factor in (2, 4, 8, 16, 32))]),
        "box_roi_pool": MultiScaleRoIAlign(["0"], 14, 2),
        "box_head": _LastStage(encoder, stages, pool=True),
        "box_predictor": FastRCNNPredictor(stages.channels[-1], classes),
        "mask_roi_pool": MultiScaleRoIAlign(["0"], 14, 2),
        "mask_head": _LastStage(encoder, stages, pool=False),
        "mask_predictor": MaskRCNNPredictor(stages.channels[-1], width, classes),
    }


def _anchors(sizes: list[tuple[float, ...]]) -> AnchorGenerator:
    return AnchorGenerator(tuple(sizes), (RATIOS,) * len(sizes))
