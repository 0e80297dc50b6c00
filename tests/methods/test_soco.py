"""SoCo against its formula in plain torch (Wei et al., NeurIPS 2021), box by box; its teacher after a step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.encoders import create_encoder
from mmssl.methods import soco
from mmssl.numerics.boxes import jittered
from mmssl.numerics.seeded_random import draws
from mmssl.transforms.color import Blur, Solarize
from mmssl.transforms.image import Crop
from mmssl.transforms.proposals import Proposals
from mmssl.types import Batch, Encoder, Ragged

sys.path.insert(0, str(Path(__file__).parent))
from picture_cells import defaults
from two_views import follows, outline, same, stir, weights_of

PRESENT = torch.tensor([True, False, True, True])
LENGTHS = torch.tensor([3, 2, 1, 2])


def started() -> tuple[soco.SoCo, dict[str, Encoder], Batch]:
    """A run whose teacher lags behind, on two levels; the last sample's boxes are all outside of the second view."""
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[4, 6, 8], depths=[1, 1, 1], stem_stride=2)
    options = {"embed_dim": 4, "hidden": (9,), "width": 5, "features": 6, "boxes": 2, "jitter": 0.2, "jitter_p": 0.6}
    objective = soco.SoCo({"image": encoder}, **options, sizes=(6.0,), momentum=0.8)
    stir(objective.detector, objective.head, objective.predictor, encoder)
    images = [torch.rand(4, 3, side, side) for side in (16, 16, 8)]
    corner = torch.rand(8, 2) * 7
    whole = torch.cat([corner, corner + 3 + 6 * torch.rand(8, 2)], dim=1)
    part, small = (whole - 2).clamp(0, 16), (whole / 2 - 1).clamp(0, 8)
    part[0, 2:] = part[0, :2] + torch.tensor([5.0, 0.5])  # too thin to be shown
    part[6:] = 0.0
    boxes = [Ragged(each, LENGTHS) for each in (whole, part, small)]
    extra = {"image_present": PRESENT, "seed": torch.arange(4) * 3}
    return objective, {"image": encoder}, Batch({"image": images}, None, extra, fields={"image": {"boxes": boxes}})


def rows_of(batch: Batch, other: int, count: int = 2) -> list[list[int]]:
    """The rows of each sample in the packed boxes that are drawn: those shown by both views, by hashed numbers."""
    values, found, start = [batch.fields["image"]["boxes"][v].values for v in (0, other)], [], 0
    for b, length in enumerate(LENGTHS.tolist()):
        there = [
            row
            for row in range(start, start + length)
            if all(min(float(x[row, 2] - x[row, 0]), float(x[row, 3] - x[row, 1])) >= 1 for x in values)
        ]
        seed = int(batch.extra["seed"][b]) + other
        there.sort(key=lambda row, s=seed, first=start: float(draws(torch.tensor([s * 4099 + row - first]), 1)))
        found.append([there[k % len(there)] for k in range(count)] if there else [])
        start += length
    return found


def one(parts: tuple[Encoder, object, object], image: Tensor, box: Tensor) -> Tensor:
    """The projection of one box of one image, of the level of its size."""
    encoder, network, head = parts
    level = int(((box[2] - box[0]) * (box[3] - box[1])).sqrt() > 6)
    levels = network.levels(encoder, image[None])
    return head.layers(network(levels, level, box[None], torch.zeros(1).long()))


def test_boxes_predict_the_teachers_of_the_same_object() -> None:
    objective, encoders, batch = started()
    for module in (objective, encoders["image"]):
        module.eval()  # or a box alone would not be normalised as among the others
    online, taught = (encoders["image"], objective.detector, objective.head), tuple(objective.teacher)
    views, total = batch.views["image"], torch.zeros(())
    for other in (1, 2):
        terms, rows = [], rows_of(batch, other)
        for b in (0, 2, 3):
            if not rows[b]:
                continue
            chances = draws(batch.extra["seed"][b : b + 1] + other, 2, 5)[0]
            costs = []
            for k, row in enumerate(rows[b]):
                box = batch.fields["image"]["boxes"][0].values[row]
                if chances[k, 4] < 0.6:
                    moved = 0.2 * (2 * chances[k] - 1)
                    w, h = float(box[2] - box[0]), float(box[3] - box[1])
                    left, top = box[0] + moved[0] * w, box[1] + moved[1] * h
                    right, bottom = left + w * (1 + moved[2]), top + h * (1 + moved[3])
                    box = torch.stack([left, top, right, bottom]).clamp(0, 16)
                theirs = batch.fields["image"]["boxes"][other].values[row]
                for (v, mine), (w, known) in (((0, box), (other, theirs)), ((other, theirs), (0, box))):
                    asked = objective.predictor(one(online, views[v][b], mine))
                    target = one(taught, views[w][b], known).detach()
                    costs.append(2 - 2 * F.cosine_similarity(asked, target)[0])
            terms.append(sum(costs) / len(rows[b]))
        assert len(terms) == (2 if other == 1 else 3), "one sample shares no box with the second view"
        total = total + sum(terms) / len(terms)
    loss = objective(encoders, batch)
    same(loss.total, total, objective.detector, objective.head, objective.predictor, encoders["image"])
    assert loss.embeddings["image"].shape == (4, 4) and not loss.embeddings["image"].requires_grad


def test_a_batch_without_any_box_costs_nothing() -> None:
    objective, encoders, batch = started()
    none = Ragged(torch.zeros(0, 4), torch.zeros(4).long())
    batch.fields["image"]["boxes"] = [none] * 3
    loss = objective(encoders, batch)
    loss.total.backward()
    assert loss.total == 0 and all(p.grad.isfinite().all() for p in objective.detector.parameters())


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.8), (1 / 3, 0.85), (1.0, 1.0)])
def test_the_teacher_follows_ever_slower(progress: float, decay: float) -> None:
    objective, encoders, _ = started()
    was = [weights_of(part) for part in objective.teacher]
    objective.after_step(encoders, progress)
    for slow, old, fast in zip(objective.teacher, was, objective.parts(encoders), strict=True):
        follows(slow, old, fast, decay)


def test_boxes_move_by_a_share_of_their_sides_and_stay_inside() -> None:
    box = torch.tensor([[[10.0, 20, 20, 60]]])
    chances = torch.tensor([[[1.0, 0.5, 0.0, 0.75, 0.2]]])
    torch.testing.assert_close(
        jittered(box, chances, ratio=0.1, p=0.3, side=64)[0, 0], torch.tensor([11.0, 20, 20, 62])
    )
    assert jittered(box, chances, ratio=0.1, p=0.2, side=64).equal(box), "not with that probability"
    assert jittered(box, chances, ratio=0.1, p=0.3, side=61)[0, 0].tolist() == [11, 20, 20, 61]


def test_views_heads_and_defaults_are_the_papers() -> None:
    """The whole image, a crop and one of half the side; boxes of 0.3 to 0.8, up to 1:3; BYOL's heads, momentum 0.99."""
    view = soco.method.view
    image, part, small = (
        view.modalities["image"],
        *(view.groups[name].modalities["image"] for name in ("part", "small")),
    )
    assert image[:2] == [Proposals(ratio=3.0, size=(0.3, 0.8), min_side=32.0), Crop(scale=(1, 1), ratio=(0.1, 10.0))]
    assert (part[0], small[0]) == (Crop(scale=(0.5, 1.0)), Crop(scale=(0.5, 1.0), size=0.5))
    assert image[-1] == Blur(p=1.0) and part[-2:] == small[-2:] == [Blur(p=0.1), Solarize(p=0.2)]
    objective, _, _ = started()
    assert outline(objective.head.layers) == ["6-9", "norm", "relu", "9-4 +bias"]
    assert outline(objective.predictor) == ["4-9", "norm", "relu", "9-4 +bias"]
    assert [type(each).__name__ for each in objective.detector.head][-2:] == ["Linear", "ReLU"]
    assert defaults(soco.SoCo) == {
        "embed_dim": 256, "hidden": (4096,), "width": 256, "features": 1024, "boxes": 4, "jitter": 0.1, "jitter_p": 0.5,
        "sizes": (48.0, 96.0, 192.0), "momentum": 0.99, "encoder": None,
    }  # fmt: skip
