"""Rotation, relative position and jigsaw: what is shown, what is asked, and that shortcuts can be looked for."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.shortcut import Shortcut, labelled
from mmssl.methods import jigsaw, relative_position, rotation
from mmssl.methods.jigsaw import Jigsaw
from mmssl.methods.relative_position import RelativePosition, drop_colors, project_colors
from mmssl.methods.rotation import Rotation
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.permutations import far_apart
from mmssl.types import Batch, Encoder, Pretext, Trained, View

sys.path.insert(0, str(Path(__file__).parent))
from settings import batch, build

IMAGE = {"image": ImagePreprocess()}
CONVNET = {"image_size": 16, "widths": (8,), "depths": (1,), "stem_stride": 2}


def shown(view: View, pictures: Tensor) -> Batch:
    return view.on_device(Batch({"image": [pictures]}))


def ramps(size: int, rows: int = 4) -> Tensor:
    """Images whose channels hold, at each place, its row, its column, and 0, in parts of 255."""
    line = torch.arange(size, dtype=torch.uint8)
    picture = torch.stack([line[:, None].expand(size, size), line.expand(size, size), torch.zeros(size, size).byte()])
    return picture.expand(rows, -1, -1, -1).contiguous()


def test_all_four_turns_of_every_picture_are_shown() -> None:
    picture = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    made = shown(rotation.method.view({"image": ImagePreprocess(size=8)}), picture)
    assert made.target is not None and made.target.tolist() == [[0, 1, 2, 3]] * 3
    for turn, view in enumerate(made.views["image"]):
        assert torch.equal(view, torch.from_numpy(np.rot90(picture.numpy(), turn, (2, 3)).copy()))


def test_rotation_is_the_mean_cross_entropy_of_the_four_turns() -> None:
    model, full = build("rotation"), batch("rotation", missing=False)
    objective = model.objectives["rotation"]
    found = objective(model.encoders, full)
    losses, right = [], []
    for turn, view in enumerate(full.views["image"]):
        scores = objective.answer(model.encoders["image"](view).pooled)
        losses.append(-scores.log_softmax(dim=1)[:, turn])
        right.append((scores.argmax(dim=1) == turn).float())
    torch.testing.assert_close(found.total, torch.stack(losses).mean())
    torch.testing.assert_close(found.answers["correct"], torch.stack(right).mean(dim=0))


def test_neighbours_lie_where_the_target_says() -> None:
    torch.manual_seed(0)
    view = relative_position.method.view(IMAGE, neighbors={"patch": 6, "gap": 3, "jitter": 1, "color": "keep"})
    size = view.blanks("image")[0].shape[1]
    assert size == 3 * 6 + 2 * 3 + 2 * 1
    made = shown(view, ramps(size, rows=400))
    middle, other = made.views["image"]
    assert middle.shape == other.shape == (400, 3, 6, 6) and made.target is not None
    off = other[:, :2, 0, 0].int() - middle[:, :2, 0, 0].int()  # rows and columns between the corners
    places = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])[made.target]  # all but the middle, row by row
    wanted = torch.stack([places // 3 - 1, places % 3 - 1], dim=1) * (6 + 3)
    assert (off - wanted).abs().max() == 2 and (off - wanted).unique().tolist() == [-2, -1, 0, 1, 2]
    assert made.target.unique().tolist() == list(range(8))
    view = relative_position.method.view(IMAGE, neighbors={"patch": 6, "gap": 0, "jitter": 0, "color": "keep"})
    still = shown(view, ramps(18))
    assert (still.views["image"][0][:, 0, 0, 0] == 6).all()


def test_the_defaults_are_the_papers() -> None:
    assert relative_position.method.view(IMAGE).blanks("image")[0].shape[1:] == (3 * 96 + 2 * 48 + 2 * 7,) * 2
    assert jigsaw.method.view(IMAGE).blanks("image")[0].shape[1:] == (225, 225)


def test_colours_are_dropped_or_projected() -> None:
    torch.manual_seed(0)
    x = torch.rand(300, 3, 6, 6)
    dropped = drop_colors(x)
    kept = (dropped == x).all(dim=(2, 3))
    assert (kept.sum(dim=1) == 1).all() and kept.sum(dim=0).min() > 60
    noise = dropped[:, 0][~kept[:, 0]]
    assert (noise.mean() - 0.485).abs() < 1e-3
    assert 0.5 < noise.std() / (x.std((2, 3)).mean() / 100) < 1.5
    projected = project_colors(x)
    assert (2 * projected[:, 1] - projected[:, 0] - projected[:, 2]).abs().max() < 1e-6
    gray = x[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(project_colors(gray), gray)
    torch.testing.assert_close(project_colors(projected), projected)


def test_relative_position_reads_both_patches_in_order() -> None:
    model, full = build("relative_position"), batch("relative_position", missing=False)
    objective = model.objectives["relative_position"]
    features = [model.encoders["image"](view).pooled for view in full.views["image"]]
    scores = objective.answer(torch.cat(features, dim=1))
    assert full.target is not None
    torch.testing.assert_close(objective(model.encoders, full).total, F.cross_entropy(scores, full.target))


def test_patches_stand_in_the_order_of_the_target() -> None:
    torch.manual_seed(0)
    options = {"permutations": 20, "patch": 5, "gap": 2, "shift": 0, "level": False}
    view = jigsaw.method.view(IMAGE, puzzle=options, image={"grayscale": None})
    made = shown(view, ramps(21, rows=50))
    assert made.target is not None
    orders = far_apart(20)[made.target]
    for place, patch in enumerate(made.views["image"]):
        corner = patch[:, :2, 0, 0].int()
        from_ = torch.stack([orders[:, place] // 3, orders[:, place] % 3], dim=1) * 7
        assert ((corner - from_) >= 0).all() and ((corner - from_) <= 2).all()
        assert patch.shape == (50, 3, 5, 5)


def test_channels_are_shifted_apart_and_patches_leveled() -> None:
    torch.manual_seed(0)
    line = torch.arange(27, dtype=torch.uint8)
    same = line.expand(200, 3, 27, 27).contiguous()  # every channel holds the column
    apart = {"permutations": 4, "patch": 5, "gap": 0, "shift": 2, "level": False}
    view = jigsaw.method.view(IMAGE, puzzle=apart, image={"grayscale": None})
    patch = shown(view, same).views["image"][0][:, :, 0, 0].int()
    assert (patch[:, 0] - patch[:, 1]).unique().tolist() == list(range(-4, 5))
    level = jigsaw.method.view(IMAGE, puzzle={"permutations": 4, "patch": 5, "gap": 2, "shift": 1})
    for patch in shown(level, torch.randint(0, 256, (8, 3, 27, 27), dtype=torch.uint8)).views["image"]:
        torch.testing.assert_close(patch.mean((2, 3)), torch.full((8, 3), 0.45))


def test_jigsaw_puts_the_patches_features_in_a_row() -> None:
    model, full = build("jigsaw"), batch("jigsaw", missing=False)
    objective = model.objectives["jigsaw"]
    rows = [F.relu(objective.patch[0](model.encoders["image"](view).pooled)) for view in full.views["image"]]
    assert full.target is not None and len(rows) == 9
    expected = F.cross_entropy(objective.answer(torch.cat(rows, dim=1)), full.target)
    torch.testing.assert_close(objective(model.encoders, full).total, expected)
    full.views["image"].pop()
    with pytest.raises(UserError, match="sorts 9 patches, but 8 are shown"):
        objective(model.encoders, full)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Coloured noise on a ramp, as PNG."""
    import webdataset

    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    with webdataset.TarWriter(str(folder / "0.tar")) as writer:
        for index in range(12):
            ramp = np.linspace(0, 150, 24)[:, None, None] + draw.integers(0, 100, (24, 24, 3))
            stream = io.BytesIO()
            Image.fromarray(ramp.astype(np.uint8)).save(stream, "PNG")
            writer.write({"__key__": f"{index:02d}", "png": stream.getvalue()})
    return {"shards": str(folder / "0.tar")}


TASKS = {
    "rotation": ({}, {}),
    "relative_position": ({"neighbors": {"patch": 8, "gap": 2, "jitter": 1}}, {"hidden": (8,)}),
    "jigsaw": (
        {"puzzle": {"patch": 6, "gap": 1, "shift": 1}},
        {"permutations": 6, "width": 8, "hidden": (8,)},
    ),
    "colorization": ({"lightness": {"cell": 2}}, {"widths": (8,)}),
    "split_brain": ({"halves": {"cell": 2}}, {"widths": (8,)}),
    "autoencoder": ({}, {"code": 8, "start": 4, "widths": (8, 8)}),
}


def trained(name: str) -> Trained:
    """Makes an untrained run of a method with its own view."""
    torch.manual_seed(0)
    method, _ = names.resolve("methods", name)
    view, objective = TASKS[name]
    keys = ("image", "image_ab") if name == "split_brain" else ("image",)
    encoders: dict[str, Encoder] = {key: create_encoder("convnet", **CONVNET) for key in keys}
    return Trained(encoders, {"task": Pretext(method.objective(encoders, **objective), method.view, view)})


@pytest.mark.parametrize("name", ["rotation", "relative_position", "jigsaw", "colorization", "split_brain"])
def test_shortcuts_can_be_looked_for_with_each_guard_down(name: str, pictures: dict[str, Any]) -> None:
    made = trained(name)
    scores = dict(Shortcut(data=pictures, task="task", rounds=2, batch=5).run(made))
    guards = ["on", *(f"without_{guard}" for guard in made.task("task").view.guards)]
    classes = {"rotation": 4, "relative_position": 8, "jigsaw": 6}
    for guard in guards:
        score = scores[f"{guard}/accuracy"]
        assert score.n == 12 and 0 <= score.value <= 1
        assert (f"{guard}/explained" in scores) == (name in classes)
        assert name not in classes or (score.chance == 1 / classes[name] and score.trivial is not None)
    assert len(scores) == len(guards) * (1 + (name in classes))


def test_a_class_of_each_view_is_a_question_about_that_view() -> None:
    pictures = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    made = shown(rotation.method.view({"image": ImagePreprocess(size=8)}), pictures)
    rows = labelled(Rotation({"image": create_encoder("convnet", **CONVNET)}), made)
    assert rows["features"].shape == (5, 4, 5) and rows["label"].tolist() == [[0, 1, 2, 3]] * 5
    torch.testing.assert_close(rows["features"][:, 0], rows["features"][:, 3])  # a turn changes no statistic


def test_a_task_without_a_right_answer_has_no_shortcut(pictures: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no right answer to take a shortcut to"):
        dict(Shortcut(data=pictures, task="task").run(trained("autoencoder")))


def test_objectives_have_the_papers_sizes() -> None:
    encoders = {"image": create_encoder("convnet", **CONVNET)}
    sizes = {
        name: [m.out_features for m in made.modules() if isinstance(m, torch.nn.Linear)]
        for name, made in {"p": RelativePosition(encoders), "j": Jigsaw(encoders), "r": Rotation(encoders)}.items()
    }
    assert sizes == {"p": [4096, 4096, 8], "j": [1024, 4096, 1000], "r": [4]}
