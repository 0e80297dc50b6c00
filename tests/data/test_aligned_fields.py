"""What moves with an image goes from shards through workers and collate to a batch, and resumes exactly."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numbered import Numbers, write_tar
from PIL import Image
from torch import Tensor

from mmssl.assembly import TaskStream
from mmssl.data.collate import collate
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.errors import DamagedError, UserError
from mmssl.numerics.geometry import apply, inverse
from mmssl.transforms.geometry import Rotate
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch, Ragged, Sample
from mmssl.views.template import Views

WIDTH, HEIGHT, SIZE = 40, 30, 16
COUNT = 24
STEPS = [Crop(scale=(0.3, 1.0)), Flip()]
VIEW = Views(2, image=STEPS, fields={"boxes": "boxes", "mask": "mask", "depth": "depth", "far": "depth"})


class Pulse(Numbers):
    """A number of another modality than an image, which every sample has."""

    modality: ClassVar[str] = "pulse"


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def png(array: np.ndarray, *, palette: bool = False) -> bytes:
    stream, image = io.BytesIO(), Image.fromarray(array)
    if palette:
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(stream, "PNG")
    return stream.getvalue()


def boxes_of(number: int) -> list[list[float]]:
    return [[i, 2 * i, i + number + 1, 2 * i + 9] for i in range(number % 3)]


def sample_of(number: int) -> dict[str, Any]:
    """Every fifth has no image; masks hold the sample's number, and depth how far right a pixel lies."""
    pulse = {"__key__": f"n{number:03d}", "pulse.npy": npy(float(number))}
    if number % 5 == 4:
        return pulse
    right = np.tile(np.arange(WIDTH) + 0.5, (HEIGHT, 1))
    return pulse | {
        "png": png(np.full((HEIGHT, WIDTH, 3), number, np.uint8)),
        "mask.png": png(np.full((HEIGHT, WIDTH), number, np.uint8), palette=True),
        "depth.npy": npy(right.astype(np.float32)),
        "far.png": png((right * 100).astype(np.uint16)),
        "json": json.dumps({"objects": {"boxes": boxes_of(number)}}).encode(),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("fields")
    for shard in range(2):
        numbers = range(shard * COUNT // 2, (shard + 1) * COUNT // 2)
        write_tar(folder / f"{shard}.tar", map(sample_of, numbers))
    return Source(shards=str(folder), fields={"boxes": "json.objects.boxes"})


def view_of(template: Views = VIEW) -> Any:
    return template({"image": ImagePreprocess(SIZE), "pulse": Pulse()})


def tensors(batch: Batch) -> Iterator[Tensor]:
    """Yields everything in a batch."""
    found: list[Any] = []
    batch.map(found.append)
    for value in found:
        yield from (value.values, value.lengths) if isinstance(value, Ragged) else (value,)


def same(one: Batch, other: Batch) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def batches(source: Source) -> list[Batch]:
    return list(Loader(source, view_of(), batch=6, workers=0).epoch(0))


def test_fields_lie_where_their_images_lie(batches: list[Batch]) -> None:
    seen = 0
    for batch in batches:
        present = batch.present("image")
        for v in range(2):
            image, place = batch.views["image"][v], batch.places["image"][v]
            found = {name: values[v] for name, values in batch.fields["image"].items()}
            assert set(found) == {"boxes", "mask", "depth", "far"}
            assert found["mask"].equal(image[:, 0].long()), "an index, not a colour of its palette"
            middle = (torch.arange(SIZE) + 0.5) / SIZE
            right = apply(place, torch.stack([middle, middle], dim=1))[..., 0]  # (B, S)
            inner = slice(2, -2)
            for row, expected in zip(found["depth"][present][..., inner], right[present][:, inner], strict=True):
                torch.testing.assert_close(row, expected.expand_as(row), atol=0.1, rtol=0)
            torch.testing.assert_close(found["far"], 100 * found["depth"], atol=1.0, rtol=0)
            for number, there, box, one in zip(image[:, 0, 0, 0], present, found["boxes"].split(), place, strict=True):
                expected = boxes_of(int(number)) if there else []
                assert len(box) == len(expected)
                seen += len(box)
                if expected:
                    ends = apply(inverse(one[None]), torch.tensor(expected).view(-1, 2).float())[0].view(-1, 2, 2)
                    ends = (torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1) * SIZE).clamp(0, SIZE)
                    torch.testing.assert_close(box, ends, atol=1e-3, rtol=0)
    assert seen > 20


def test_samples_without_an_image_have_blanks(batches: list[Batch]) -> None:
    absent = 0
    for batch in batches:
        for row in (~batch.present("image")).nonzero()[:, 0].tolist():
            absent += 1
            for v in range(2):
                assert batch.places["image"][v][row].equal(torch.eye(2, 3))
                assert not batch.fields["image"]["mask"][v][row].any()
                assert batch.fields["image"]["boxes"][v].lengths[row] == 0
    assert absent >= 4


def test_batches_without_any_image_have_the_same_fields() -> None:
    """A task whose other modality is there finds every place and field, as in any other batch."""
    view = view_of()
    full = {"image": Image.new("RGB", (8, 8)), "pulse": 1, "boxes": [], "mask": np.zeros((8, 8), int)}
    full |= {"depth": np.zeros((8, 8)), "far": np.zeros((8, 8))}
    without, whole = collate([view({"pulse": 3})] * 2, view), collate([view(full)] * 2, view)
    assert not without.present("image").any()
    assert [t.shape for t in tensors(without)] == [t.shape for t in tensors(whole)]
    assert [t.dtype for t in tensors(without)] == [t.dtype for t in tensors(whole)]


def test_workers_hand_over_the_same(source: Source, batches: list[Batch]) -> None:
    found = list(Loader(source, view_of(), batch=6, workers=1).epoch(0))
    assert all(map(same, batches, found)) and len(found) == len(batches) == COUNT // 6


def test_every_tensor_moves_with_its_batch(batches: list[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    assert {tensor.device.type for tensor in tensors(batches[0].to("meta"))} == {"meta"}
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    assert same(batches[0].pin_memory(), batches[0])
    assert {id(t) for t in pinned} == {id(t) for t in tensors(batches[0])}


def test_streams_resume_with_their_fields(source: Source) -> None:
    """Also those that the device turns with their images."""

    def stream(resume: dict[str, Any] | None) -> TaskStream:
        view = view_of(VIEW.changed({"image": {"rotate": {"degrees": 30.0}}}))
        assert any(isinstance(step, Rotate) for step in view.steps["image"][0])
        return TaskStream(Loader(source, view, batch=4, workers=0), view, resume)

    through = stream(None)
    whole = [through.next(torch.device("cpu")) for _ in range(10)]
    for done in (1, 5, 8):
        first = stream(None)
        for _ in range(done):
            first.next(torch.device("cpu"))
        again = stream(first.loader.state())
        assert all(same(batch, again.next(torch.device("cpu"))) for batch in whole[done:])
    turned = [row for batch in whole for row in batch.places["image"][0][batch.present("image")]]
    assert all(row[0, 1] != 0 for row in turned)


@pytest.mark.parametrize("name", ["mask", "boxes"])
def test_a_sample_without_a_field_is_damaged(name: str) -> None:
    sample: Sample = {"image": Image.new("RGB", (8, 8)), "boxes": [], "mask": np.zeros((8, 8), int)}
    view = Views(2, image=STEPS, fields={"boxes": "boxes", "mask": "mask"})({"image": ImagePreprocess(SIZE)})
    view(sample)
    with pytest.raises(DamagedError, match=f"a sample without {name}"):
        view({key: value for key, value in sample.items() if key != name})


def test_sets_without_a_field_are_refused(source: Source) -> None:
    view = view_of(VIEW.changed({"fields": {"flow": "flow"}}))
    with pytest.raises(UserError, match="flow"):
        Loader(source, view, batch=6, workers=0)
