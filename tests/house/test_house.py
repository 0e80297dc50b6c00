"""Dense and object-level methods, a modality and an evaluation, each a file of its own that touches nothing else."""

from __future__ import annotations

import ast
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmssl import load_encoder, train
from mmssl.data.collate import collate
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.judge import load_run
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.geometry import Rotate
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch, Encoder, Features, Ragged
from mmssl.views.template import Views

sys.path.insert(0, str(Path(__file__).parents[1]))
from house import depth, objects, pixpro, scenes

HERE = Path(__file__).parent
IMAGE = {"name": "convnet", "image_size": 32, "widths": [16, 32], "depths": [1, 1], "stem_stride": 2}
SMALL: dict[str, dict[str, Any]] = {  # options of the objective and the view, and the data's fields
    "pixpro": {"objective": {"embed_dim": 32, "hidden": [64], "momentum": 0.9}},
    "objects": {"objective": {"embed_dim": 32, "momentum": 0.9}, "fields": {"boxes": "json.boxes"}},
}


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write(tmp_path_factory.mktemp("scenes") / "0.tar", 64)


def recipe(shards: Path, name: str, *, steps: int, **method: Any) -> dict[str, Any]:
    """A run of one of the methods here."""
    data = {"shards": str(shards), "workers": 0, "fields": SMALL[name].get("fields", {})}
    options = {key: SMALL[name][key] for key in ("objective", "view") if key in SMALL[name]} | method
    return {
        "encoders": {"image": IMAGE},
        "tasks": {name: {"data": data, "method": {"name": f"house.{name}:method", **options}, "batch": 16}},
        "optim": {"name": "adamw", "lr": 0.003},
        "train": {"samples": 16 * steps, "log_every": 1, "warmup": 2, "precision": "fp32"},
    }


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("name", SMALL)
def test_each_method_learns_through_a_recipe_that_names_it(name: str, shards: Path, tmp_path: Path) -> None:
    run = train(recipe(shards, name, steps=24), out=tmp_path / "run", progress=False)
    found = losses(run)
    assert np.mean(found[-4:]) < np.mean(found[:4]) - 0.1 * abs(np.mean(found[:4])), found
    report = json.loads((run / "data_report.json").read_text())
    assert not report[name]["damaged"]
    assert load_run(run, trust_code=True).task(name).show({"image": load_encoder(run / "encoders" / "image")})


@pytest.mark.parametrize("name", [*SMALL, "depth", "spread"])
def test_each_is_one_short_file_that_sees_contracts_and_shared_rooms(name: str) -> None:
    text = (HERE / f"{name}.py").read_text()
    assert text.count("\n") <= 120
    imported = [node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in imported if module.startswith(("house", "mmssl.methods", "mmssl.encoders"))]


class Cells(Encoder):
    """Cells that are averages of pixels, taken by a matrix; it has no state."""

    modality, dim = "image", 5

    def __init__(self, side: int = 4) -> None:
        super().__init__()
        self.side, self.preprocess = side, ImagePreprocess(16)
        self.layer = torch.nn.Linear(3, self.dim)

    def forward(self, x: Tensor) -> Features:
        cells = self.layer(F.adaptive_avg_pool2d(x.float(), self.side).flatten(2).mT)
        return Features(cells.mean(1), cells, grid=(self.side, self.side))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def by_formula(task: pixpro.PixPro, student: Encoder, batch: Batch) -> Tensor:
    """Xie et al., eqs. 1 to 4, a pair of cells at a time."""
    images = []
    for row in batch.extra["image_present"].nonzero()[:, 0].tolist():
        sides = [one_side(task, student, batch, row, mine) for mine in (0, 1)]
        images += [sum(sides)] if None not in sides else []
    return torch.stack(images).mean()


def one_side(task: pixpro.PixPro, student: Encoder, batch: Batch, row: int, mine: int) -> Tensor | None:
    """Returns what a view's cells cost against the other's, None where none match."""
    views, other, teacher = batch.views["image"], 1 - mine, task.teacher
    x = task.head.layers(student(views[mine]).tokens[row])
    y = teacher.head.layers(teacher.encoder(views[other]).tokens[row]).detach()
    cosines = []
    for i in range(16):
        alike = [(unit(x[i]) @ unit(x[j])).clamp(min=0) ** task.propagation.sharpness for j in range(16)]
        smooth = sum(weight * task.propagation.transform(x[j]) for j, weight in enumerate(alike))
        near = [j for j in range(16) if distance(batch, row, mine, i, other, j) <= task.radius]
        cosines += [unit(smooth) @ unit(y[j]) for j in near]
    return -torch.stack(cosines).mean() if cosines else None


def distance(batch: Batch, row: int, mine: int, i: int, other: int, j: int) -> float:
    """Returns how far apart two cells' centres lie in the source, in diagonals of the larger."""
    centres, diagonals = [], []
    for view, cell in ((mine, i), (other, j)):
        (a, _, left), (_, d, top) = batch.places["image"][view][row].tolist()
        centres.append((left + a * (cell % 4 + 0.5) / 4, top + d * (cell // 4 + 0.5) / 4))
        diagonals.append(math.hypot(a / 4, d / 4))
    return math.dist(*centres) / max(diagonals)


def crops() -> Batch:
    """Two views of four images: of one the two share nothing, another is absent, a third is mirrored."""
    places = torch.tensor([
        [[[32.0, 0, 0], [0, 32, 0]], [[16.0, 0, 8], [0, 24, 4]]],
        [[[16.0, 0, 0], [0, 16, 0]], [[12.0, 0, 40], [0, 12, 40]]],
        [[[32.0, 0, 0], [0, 32, 0]], [[32.0, 0, 0], [0, 32, 0]]],
        [[[-20.0, 0, 30], [0, 20, 5]], [[24.0, 0, 6], [0, 16, 3]]],
    ])  # fmt: skip
    extra = {"image_present": torch.tensor([True, True, False, True])}
    views = [torch.randn(4, 3, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3) for _ in range(2)]
    return Batch({"image": views}, extra=extra, places={"image": list(places.unbind(1))})


@pytest.mark.parametrize("options", [{}, {"sharpness": 1.0, "radius": 1.3}])
def test_pixpro_is_its_formula(options: dict[str, Any]) -> None:
    student = Cells()
    task = pixpro.PixPro({"image": student}, embed_dim=6, hidden=(7,), **options).eval()
    with torch.no_grad():
        for weight in (*task.head.parameters(), *student.parameters()):
            weight.add_(torch.randn_like(weight))
    batch = crops()
    found = task({"image": student}, batch).total
    expected = by_formula(task, student, batch)
    torch.testing.assert_close(found, expected)
    found.backward()
    mine = student.layer.weight.grad.clone()
    student.layer.weight.grad = None
    expected.backward()
    torch.testing.assert_close(mine, student.layer.weight.grad)
    assert not [p for p in task.teacher.parameters() if p.requires_grad]


def test_pixpro_needs_places_and_a_grid() -> None:
    student = Cells()
    task = pixpro.PixPro({"image": student}, embed_dim=6, hidden=(7,))
    batch = crops()
    batch.places.clear()
    with pytest.raises(UserError, match="compares places, and its view does not say where its views of image lie"):
        task({"image": student}, batch)
    with pytest.raises(UserError, match="radius is 0"):
        pixpro.PixPro({"image": student}, radius=0.0)


def test_pixpro_teachers_cells_follow() -> None:
    student = Cells()
    task = pixpro.PixPro({"image": student}, embed_dim=6, hidden=(7,), momentum=0.8)
    before = [p.clone() for p in task.teacher.parameters()]
    with torch.no_grad():
        for weight in (*student.parameters(), *task.head.parameters()):
            weight.add_(torch.randn_like(weight))
    task.after_step({"image": student}, progress=0.5)
    network = [*student.parameters(), *task.head.parameters()]
    for old, now, goal in zip(before, task.teacher.parameters(), network, strict=True):
        torch.testing.assert_close(now, old.lerp(goal.detach(), 0.1))  # halfway from 0.8 to 1 by a cosine


def shown(view: Any, count: int, *names: str) -> Batch:
    made = [scenes.scene(number) for number in range(count)]
    keys = ("image", *names)
    samples = [{key: Image.fromarray(s[key]) if key == "image" else s[key] for key in keys} for s in made]
    return view.on_device(collate([view(sample) for sample in samples], view))


def test_objects_pool_the_pixels_of_their_boxes() -> None:
    """Blocks are of one colour, so that what is pooled in a box is its block's, wherever a crop put it."""
    view = objects.method.view({"image": ImagePreprocess(32)}, image={"color_jitter": None})
    batch = shown(view, 12, "boxes")
    told = 0
    for x, boxes in zip(batch.views["image"], batch.fields["image"]["boxes"], strict=True):
        assert boxes.lengths.tolist() == [2] * 12
        features = Features(x.float().mean((2, 3)), x.float().flatten(2).mT, grid=(32, 32))
        pooled = objects.pooled_boxes(features, boxes, 32)
        for number, (row, box) in enumerate(zip(pooled, boxes.values, strict=True)):
            made = scenes.scene(number // 2)
            left, top, right, bottom = made["boxes"][number % 2]
            alone = (made["mask"][top:bottom, left:right] == number % 2 + 1).all()
            if alone and bool(objects.shown(Ragged(box[None], torch.tensor([1])))):
                expected = torch.from_numpy(made["image"][top:bottom, left:right].astype(np.float32).mean((0, 1)))
                assert float((row - expected).abs().max()) < 15, (number, row, expected)
                told += 1
    assert told > 10


# A modality of its own.


def depth_recipe(shards: Path) -> dict[str, Any]:
    made = recipe(shards, "pixpro", steps=24)
    view = {"image": {"crop": {"scale": [0.4, 0.9]}, "rotate": {"degrees": 20.0}}, "fields": {"depth": "depth"}}
    method = {"name": "clip", "objective": {"embed_dim": 16}, "view": view}
    made["encoders"]["depth"] = {"name": "house.depth:encoder"}
    made["tasks"] = {"clip": {**made["tasks"]["pixpro"], "method": method}}
    return made


def test_depth_is_cropped_and_turned_with_its_picture() -> None:
    """Depth that is the image's own brightness stays so, in several views of several sizes."""
    steps = [Crop(scale=(0.3, 0.8)), Flip(), Rotate(degrees=30.0)]
    small = Views(2, image=[Crop(scale=(0.1, 0.3), size=0.5), Flip()])
    template = Views(2, image=steps, small=small, fields={"depth": "depth"})
    view = template({"image": ImagePreprocess(32), "depth": depth.DepthPreprocess(32)})
    down, across = np.mgrid[0 : scenes.HEIGHT, 0 : scenes.WIDTH]
    smooth = (2 * across + 3 * down).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(np.repeat(smooth[..., None], 3, axis=2))
    sample = {"image": picture, "depth": smooth / 255.0}
    batch = view.on_device(collate([view(sample) for _ in range(8)], view))
    assert [x.shape for x in batch.views["depth"]] == [(8, 1, 32, 32)] * 4
    middle = np.s_[:, 8:24, 8:24]  # corners of turned depth are missing, those of images mirrored
    for x, mine in zip(batch.views["image"], batch.views["depth"], strict=True):
        seen = F.interpolate(x[:, :1].float() / (1 if x.is_floating_point() else 255), (32, 32))[:, 0]
        assert float((seen[middle] - mine[:, 0][middle]).abs().max()) < 0.05
    assert batch.extra["depth_present"].all() and "depth" not in batch.places


def test_a_sample_without_a_picture_lacks_its_depth_too() -> None:
    text = create_encoder("transformer", width=8, depth=1, heads=2, vocab_size=270)
    text.learn_preprocess(["one", "two"])
    template = Views(2, image=[Crop()], small=Views(3, image=[Crop(size=0.5)]), fields={"depth": "depth"})
    view = template({"image": ImagePreprocess(16), "depth": depth.DepthPreprocess(16), "text": text.preprocess})
    whole = scenes.scene(0)
    made = {"image": Image.fromarray(whole["image"]), "depth": whole["depth"], "text": ["one", "two"]}
    batch = collate([view(made), view({"text": ["one", "two"]})], view)
    assert len(batch.views["depth"]) == len(batch.views["image"]) == 5
    assert batch.present("depth").tolist() == batch.present("image").tolist() == [True, False]
    assert not batch.views["depth"][4][1].any()


@pytest.fixture(scope="module")
def depth_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = depth_recipe(shards)
    data = {"data": {"shards": str(shards)}}
    made["evals"] = {"spread": {"name": "house.spread:evaluation", **data}}
    made["evals"]["of_depth"] = {"name": "house.spread:evaluation", "encoder": "depth", "limit": 32, **data}
    yield train(made, out=tmp_path_factory.mktemp("depth") / "run", progress=False)


def test_pictures_find_their_depth(depth_run: Path) -> None:
    found = losses(depth_run)
    assert np.mean(found[-4:]) < np.mean(found[:4]) - 0.2
    encoder = load_encoder(depth_run / "encoders" / "depth", trust_code=True)
    assert encoder.encode([scenes.scene(0)["depth"]]).shape == (1, 32)


def test_an_evaluation_of_ones_own_is_judged_by_its_name(depth_run: Path) -> None:
    lines = [json.loads(line) for line in (depth_run / "metrics.jsonl").read_text().splitlines()]
    figures = {key: value for line in lines for key, value in line.items() if "uniformity" in key}
    assert len(figures) >= 2 and all(-4 <= value < 0 for value in figures.values() if isinstance(value, float))


def test_an_evaluation_is_refused_before_a_run_starts(shards: Path, tmp_path: Path) -> None:
    made = recipe(shards, "pixpro", steps=2)
    made["evals"] = {"spread": {"name": "house.spread:evaluation", "encoder": "depth", "data": {"shards": str(shards)}}}
    with pytest.raises(UserError, match="spread needs an encoder 'depth'; the run has image"):
        train(made, out=tmp_path / "run", progress=False)


def test_features_of_several_views_come_one_by_one() -> None:
    """Cells and packed points, together or apart."""
    image = create_encoder(**IMAGE).eval()
    batch = Batch({"image": [torch.rand(3, 3, size, size) for size in (32, 32, 16)]})
    found = MultiView({"image": image}).features({"image": image}, batch)
    for view, features in zip(batch.views["image"], found, strict=True):
        alone = image(view)
        torch.testing.assert_close(features.tokens, alone.tokens)
        torch.testing.assert_close(features.pooled, alone.pooled)
        assert features.grid == alone.grid and features.lengths is None
