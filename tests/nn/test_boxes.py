"""Features of boxes against torchvision's own detector, on the same weights."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.ops import FeaturePyramidNetwork, roi_align

from mmssl.encoders import create_encoder
from mmssl.nn.boxes import BoxNetwork


def test_boxes_are_cut_of_a_level_and_go_through_a_detectors_head() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=32, widths=[4, 6, 8], depths=[1, 1, 1], stem_stride=4)
    network = BoxNetwork(encoder, width=5, convs=2, hidden=(7, 9), size=3)
    pyramid = FeaturePyramidNetwork([4, 6, 8], 5, norm_layer=nn.BatchNorm2d)
    pyramid.load_state_dict(network.pyramid.layers.state_dict())
    head = FastRCNNConvFCHead((5, 3, 3), [5, 5], [7, 9], norm_layer=nn.BatchNorm2d)
    head.load_state_dict(network.head.state_dict())
    assert network.strides == [4, 8, 16]
    images = torch.rand(2, 3, 32, 32)
    x = encoder.stem(encoder.normalize(images))
    maps = {}
    for number, block in enumerate(encoder.blocks):
        maps[str(number)] = x = block(x)
    levels = list(pyramid(maps).values())
    boxes, sample = torch.tensor([[2.0, 3, 30, 20], [8, 8, 31, 32], [0, 0, 9, 5]]), torch.tensor([1, 0, 1])
    for number, stride in enumerate((4, 8, 16)):
        rows = torch.cat([sample[:, None].float(), boxes], dim=1)
        cut = roi_align(levels[number], rows, 3, spatial_scale=1 / stride, aligned=True)
        found = network(network.levels(encoder, images), number, boxes, sample)
        torch.testing.assert_close(found, head(cut), rtol=1e-4, atol=1e-5)
        assert found.shape == (3, 9)
    network.eval()
    each = network(network.levels(encoder, images), torch.tensor([2, 0, 1]), boxes, sample)
    for row, number in enumerate((2, 0, 1)):
        alone = network(network.levels(encoder, images), number, boxes[row : row + 1], sample[row : row + 1])
        torch.testing.assert_close(each[row : row + 1], alone, rtol=1e-4, atol=1e-5)
