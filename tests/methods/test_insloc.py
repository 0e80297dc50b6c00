"""InsLoc against its formula (Yang et al., CVPR 2021, and the authors' code), its queues and teacher after a step."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.methods import insloc
from mmssl.numerics.boxes import near_anchors
from mmssl.numerics.seeded_random import draws
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.paste import Paste
from mmssl.types import Batch, Encoder, Ragged
from mmssl.views.mae import Seed

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import compare, defaults
from two_views import follows, stir, weights_of

PRESENT = torch.tensor([True, False, True, True])


def started() -> tuple[insloc.InsLoc, dict[str, Encoder], Batch]:
    """A run whose teacher lags behind, on two levels."""
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[4, 6, 8], depths=[1, 1, 1], stem_stride=2)
    options = {
        "embed_dim": 4,
        "width": 5,
        "hidden": 6,
        "temperature": 0.5,
        "queue": 9,
        "momentum": 0.75,
        "overlap": 0.3,
    }
    objective = insloc.InsLoc({"image": encoder}, **options)
    stir(objective.detector, objective.head, encoder)
    images = torch.rand(2, 4, 3, 16, 16)
    corner = torch.rand(2, 4, 2) * 6
    boxes = [Ragged(each, torch.ones(4).long()) for each in torch.cat([corner, corner + 9], dim=2)]
    extra = {"image_present": PRESENT, "seed": torch.arange(4)}
    return (
        objective,
        {"image": encoder},
        Batch({"image": list(images)}, None, extra, fields={"image": {"boxes": boxes}}),
    )


def embedded(parts: tuple[Encoder, object, object], images: Tensor, boxes: list[Tensor]) -> list[Tensor]:
    encoder, network, head = parts
    levels = network.levels(encoder, images)
    seen = [network(levels, n, box, torch.arange(4)) for n, box in enumerate(boxes)]
    return [F.normalize(head.layers(x), dim=1) for x in seen]


def test_a_box_finds_its_key_among_it_and_a_queue_of_each_level() -> None:
    objective, encoders, batch = started()
    first, second = (each.values for each in batch.fields["image"]["boxes"])
    anchored = near_anchors(first, draws(torch.arange(4), 5120), side=16, iou=0.3)
    assert not anchored.isclose(first).all(dim=1).any()
    queries = embedded(
        (encoders["image"], objective.detector, objective.head), batch.views["image"][0], [first, anchored]
    )
    keys = [x.detach() for x in embedded(tuple(objective.teacher), batch.views["image"][1], [second, second])]
    before = [queue.rows.clone() for queue in objective.queues]
    expected = queries[0].new_zeros(())
    for query, key, rows in zip(queries, keys, before, strict=True):
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ rows.T], dim=1) / 0.5
        expected = expected + F.cross_entropy(logits[PRESENT], torch.zeros(3).long())
    loss = objective(encoders, batch)
    compare(loss.total, expected, objective.detector, objective.head, encoders["image"])
    torch.testing.assert_close(loss.embeddings["image"], queries[1].detach())
    was = [weights_of(part) for part in objective.teacher]
    objective.after_step(encoders, 0.5)
    for slow, old, fast in zip(
        objective.teacher, was, (encoders["image"], objective.detector, objective.head), strict=True
    ):
        follows(slow, old, fast, 0.75)
    for queue, rows, key in zip(objective.queues, before, keys, strict=True):
        kept = queue.rows[:3]
        torch.testing.assert_close(kept, key[PRESENT])
        assert queue.rows[3:].equal(rows[3:])


def test_the_teacher_is_a_copy_that_learns_nothing() -> None:
    objective, encoders, batch = started()
    teacher = copy.deepcopy(objective.teacher.state_dict())
    objective(encoders, batch).total.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert all(value.equal(teacher[key]) for key, value in objective.teacher.named_parameters())


def test_views_and_defaults_are_the_authors() -> None:
    """Foregrounds of shapes from 1:2 to 2:1, 128 to 256 pixels of 256, MoCo v2's colours behind pasting."""
    view = insloc.method.view
    assert view.modalities["image"] == [Crop(scale=(0.2, 1.0), ratio=(0.5, 2.0)), Flip()]
    jitter = ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    assert view.after == [Paste(size=(0.5, 1.0)), jitter, Grayscale(p=0.2), Blur(p=0.5), Seed()]
    assert (view.views, view.groups["background"].views) == (2, 2)
    assert defaults(insloc.InsLoc) == {
        "embed_dim": 128, "width": 256, "hidden": 1024, "temperature": 0.2, "queue": 65536, "momentum": 0.999,
        "overlap": 0.5, "encoder": None,
    }  # fmt: skip
