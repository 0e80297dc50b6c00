"""Cells of images and videos: cosines to a chosen one, principal components as colours, and what is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given import Given, give
from PIL import Image
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evals.parts.source import open_source
from mmssl.modalities.video import Frames
from mmssl.plots import pca, similarity
from mmssl.plots.canvas import blend, heat, scaled
from mmssl.plots.pca import in_front, principal_colors
from mmssl.plots.samples import Seen, in_picture, reader_of
from mmssl.plots.similarity import similar
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Encoder, Features, Head, Trained


class Colors(Encoder):
    """Its cells are the mean colours of squares of 4 pixels, of every frame."""

    def __init__(self, modality: str = "image", size: int = 16) -> None:
        super().__init__()
        self.modality, self.dim, self.options, self.name = modality, 3, {}, "colors"
        self.preprocess = ImagePreprocess(size=size) if modality == "image" else VideoPreprocess(size=size, frames=6)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Features:
        assert not self.training
        frames = x if x.ndim == 5 else x[:, :, None]
        cells = torch.nn.functional.avg_pool3d(frames.float(), (1, 4, 4)).permute(0, 2, 3, 4, 1)  # (B, T, H, W, 3)
        grid = tuple(cells.shape[1:4] if x.ndim == 5 else cells.shape[2:4])
        tokens = cells.flatten(1, 3)
        return Features(tokens.mean(1), tokens, grid=grid)


class Flipped(Head):
    """Embeds pooled features by their last number first, so that each cell has to be taken for an image."""

    def forward(self, features: Features) -> Tensor:
        return features.pooled.flip(1)


def noise(*shape: int) -> np.ndarray:
    return np.random.randint(1, 256, shape, dtype=np.uint8)


def means(picture: np.ndarray) -> np.ndarray:
    """The mean colour of every square of 4 pixels, (H, W, 3)."""
    height, width = (side // 4 for side in picture.shape[:2])
    return picture.reshape(height, 4, width, 4, 3).astype(float).mean(axis=(1, 3))


@pytest.mark.parametrize(("point", "place"), [((0.0, 0.0), (0, 0)), ((0.99, 0.3), (0, 3)), ((0.4, 1.0), (2, 1))])
def test_cosines_to_the_cell_at_a_point(point: tuple[float, float], place: tuple[int, int]) -> None:
    cells = torch.randn(3, 4, 5)
    found, at = similar(cells, point)
    assert at == place
    for row in range(3):
        for column in range(4):
            a, b = cells[row, column], cells[place]
            assert float(found[row, column]) == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)


def test_maps_lie_over_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = [noise(16, 16, 3) for _ in range(2)]
    give(
        monkeypatch,
        "mmssl.plots.similarity",
        [{"__key__": f"{n}", "image": Image.fromarray(p)} for n, p in enumerate(pixels)],
    )
    drawn: list[Any] = []
    monkeypatch.setattr(similarity, "tiles", lambda rows, titles: drawn.append((rows, titles)))
    encoder = Colors().train()
    [(name, _)] = similarity.plot(Trained({"image": encoder}), data={}, count=2, at=[(0.6, 0.3)])
    [(rows, titles)] = drawn
    assert name == "similarity" and encoder.training and [row[0] for row in titles] == ["0", "1"]
    for row, title, picture in zip(rows, titles, pixels, strict=True):
        unit = means(picture) / np.linalg.norm(means(picture), axis=2, keepdims=True)
        cosines = unit @ unit[1, 2]
        assert title[1] == f"cosine {cosines.min():.2f} to 1.00"
        large = scaled(picture, 160)
        over = blend(large, heat(cosines.astype(np.float32), shape=(160, 160)), opacity=0.7).astype(int)
        assert (row[0] == large).all()
        differs = np.abs(row[1] - over).max(2) > 4
        frame = np.zeros((160, 160), bool)
        frame[39:81, 79:121] = True
        frame[41:79, 81:119] = False
        assert not differs[~frame].any() and differs[frame].any(), "but for the frame about the chosen cell"
    for at in ([], [(1.1, 0)], [(0, -0.1)]):
        with pytest.raises(UserError, match="expected points of x and y from 0 to 1"):
            list(similarity.plot(Trained({"image": encoder}), data={}, at=at))


def test_of_a_video_the_middle_is_drawn() -> None:
    values = torch.arange(24.0)
    assert torch.equal(in_picture(values, (6, 2, 2)), torch.arange(12.0, 16.0).view(2, 2))
    assert torch.equal(in_picture(values[:6], (2, 3)), torch.arange(6.0).view(2, 3))
    x = torch.arange(8, dtype=torch.uint8)[:, None, None].expand(3, 8, 4, 4)
    shown = [int(Seen("", x).picture((moments, 2, 2))[0, 0, 0]) for moments in (8, 4, 2, 1)]
    assert shown == [4, 5, 6, 4], "the frame in the middle of the moment in the middle"
    assert Seen("", torch.full((3, 4, 4), 7, dtype=torch.uint8)).picture((2, 2)).tolist() == [[[7] * 3] * 4] * 4


def principal(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(0)
    return x @ np.linalg.svd(x, full_matrices=False)[2][:3].T


@pytest.mark.parametrize("space", [None, "flip"])
@pytest.mark.parametrize("modality", ["image", "video"])
def test_cells_have_the_colours_of_all_images_together(
    modality: str, space: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Colors(modality)
    encoder.spaces["flip"] = Flipped()
    films = [noise(6, 16, 16, 3) for _ in range(3)]
    raws: Sequence[Any] = [Frames(film, 6.0) if modality == "video" else Image.fromarray(film[3]) for film in films]
    give(monkeypatch, "mmssl.plots.pca", [{modality: raw} for raw in raws])
    drawn: list[Any] = []
    monkeypatch.setattr(pca, "tiles", lambda rows, titles: drawn.append((rows, titles)))
    list(pca.plot(Trained({"seen": encoder}), data={}, count=3, space=space, side=8))
    [((pictures, cells), titles)] = drawn
    every = np.concatenate([means(film[3]).reshape(-1, 3) for film in films])
    every = every if space is None else every[:, ::-1].copy()
    colors = principal_colors(torch.from_numpy(every).float()).reshape(3, 4, 4, 3)
    assert titles == [["0", "1", "2"], ["its cells"] * 3]
    for picture, cell, film, color in zip(pictures, cells, films, colors, strict=True):
        assert (picture == scaled(film[3], 8)).all()
        assert np.abs(cell.astype(int) - color.repeat(2, axis=0).repeat(2, axis=1)).max() <= 1


def test_the_foreground_is_parted_by_the_first_component_and_touches_the_border_less() -> None:
    cells = torch.randn(2, 6, 6, 4) * 0.1
    thing = torch.zeros(2, 6, 6, dtype=torch.bool)
    thing[0, 2:5, 1:4] = thing[1, 3:6, 2:4] = True
    for sign in (1, -1):
        cells[thing] += torch.tensor([5.0 * sign, 0, 0, 0])
        assert torch.equal(in_front(cells), thing)
        cells[thing] -= torch.tensor([5.0 * sign, 0, 0, 0])


def test_what_is_behind_is_black_and_the_rest_is_parted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((16, 16, 3), 10, np.uint8)
    inner = noise(2, 2, 3) // 4 + 180
    pixels[4:12, 4:12] = inner.repeat(4, axis=0).repeat(4, axis=1)
    give(monkeypatch, "mmssl.plots.pca", [{"image": Image.fromarray(pixels)}])
    drawn: list[Any] = []
    monkeypatch.setattr(pca, "tiles", lambda rows, titles: drawn.append(rows))
    list(pca.plot(Trained({"seen": Colors()}), data={}, foreground=True, side=4))
    cells = drawn[0][1][0]
    assert not cells[0].any() and not cells[:, 0].any()
    alone = principal_colors(torch.from_numpy(inner.reshape(4, 3)).float()).reshape(2, 2, 3)
    assert (cells[1:3, 1:3] == alone).all()


def test_fewer_features_than_colours() -> None:
    assert principal_colors(torch.randn(9, 2))[:, 2].max() == 0


def trained(**encoders: str) -> Trained:
    return Trained({key: Colors(modality) for key, modality in encoders.items()})


def test_the_encoder_that_reads_the_data_is_taken() -> None:
    class Renamed(Given):
        def check(self, wanted: Any) -> None:
            super().check({"video" if key in self.fields else key for key in wanted})

    both = trained(image="image", video="video")
    films, stills = Renamed([{"video": 1}]), Given([{"image": 1}])
    assert reader_of(both, None, stills) is both.encoders["image"]
    assert reader_of(trained(one="image"), None, films).preprocess.field == "image" and "image" in films.fields
    with pytest.raises(UserError, match=r"the run has the encoders image \(of image\), video \(of video\); say which"):
        reader_of(both, None, Given([{"video": 1}]))
    with pytest.raises(UserError, match="expected points"):
        reader_of(both, "image", stills, modalities=("points",))
    with pytest.raises(UserError, match=r"this needs an encoder of points; there is image \(of image\), video"):
        reader_of(both, None, stills, modalities=("points",))
    with pytest.raises(UserError, match="no sample of given.tar has 'image'"):
        reader_of(trained(image="image"), None, Given([{"text": 1}]))


def test_a_folder_of_own_files(tmp_path: Path) -> None:
    for kind, color in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (16, 16), color).save(tmp_path / kind / "a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source({"shards": str(tmp_path)})
    reader_of(trained(image="image"), None, source)
    found = [(sample["__key__"], sample["label"]) for sample in source.samples({"image", "label"})]
    assert found == [("blue/a.png", "blue"), ("red/a.png", "red")]
    [(_, picture)] = pca.plot(trained(image="image"), data={"shards": str(tmp_path)})
    assert picture.width == 2 * 160 + 3 * 4
