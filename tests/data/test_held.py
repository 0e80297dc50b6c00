"""Images that are held in memory: each opened once, in an order of their own each epoch, resumed exactly."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered import write_tar
from PIL import Image

from mmssl.assembly import TaskStream
from mmssl.data.loader import Loader
from mmssl.data.mixture import MixedSource, Mixture
from mmssl.data.shards import Source
from mmssl.errors import UserError
from mmssl.transforms.color import Solarize
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.types import Batch
from mmssl.views.template import Views

CPU = torch.device("cpu")
SIDE = 6


def png(number: int, *, side: int = SIDE) -> bytes:
    """An image of one colour, which is its number."""
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def image_set(
    folder: Path, counts: Iterable[int] = (7, 5, 8), changed: dict[int, dict[str, bytes]] | None = None
) -> str:
    """Shards of images of consecutive numbers; changed: what stands in place of some."""
    folder.mkdir()
    first = 0
    for shard, count in enumerate(counts):
        rows = ({"__key__": f"n{n}", **(changed or {}).get(n, {"png": png(n)})} for n in range(first, first + count))
        write_tar(folder / f"{shard}.tar", rows)
        first += count
    return str(folder)


def loader(shards: str | Source, **options: Any) -> Loader:
    source = shards if isinstance(shards, Source) else Source(shards=shards)
    view = Views(2, image=[Crop(scale=(0.2, 1.0)), Flip(), Solarize(p=0.5)])({"image": ImagePreprocess(4)})
    return Loader(source, view, **{"batch": 4, "workers": 0, "in_memory": True, "seed": 3, **options})


def numbers(batches: Iterable[Batch]) -> list[int]:
    """What whole images show, which is also what their `index` says."""
    found: list[int] = []
    for batch in batches:
        (shown,) = batch.views["image"]
        assert shown.shape[1:] == (3, SIDE, SIDE) and shown.dtype == torch.uint8
        assert (shown == batch.extra["index"][:, None, None, None]).all()
        assert batch.present("image").all()
        found += batch.extra["index"].tolist()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_is_another_permutation_of_the_whole_set(tmp_path: Path, workers: int) -> None:
    shards = image_set(tmp_path / "set")
    own = loader(shards, workers=workers)
    first, second = (numbers(own.epoch(number)) for number in range(2))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != sorted(first)
    assert len({n // 7 for n in first[:4]} | {n // 7 for n in first[4:8]}) > 1, "across shards"
    assert numbers(loader(shards).epoch(1)) == second, "of whatever number of workers, and whatever came before"
    assert numbers(loader(shards, seed=4).epoch(0)) != first
    assert own.report()["drawn"] == 20, "each was opened once"


def test_each_image_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, opened = loader(image_set(tmp_path / "set")), list[int]()
    real = Source.open
    monkeypatch.setattr(
        Source, "open", lambda self, entry, wanted: (opened.append(entry.number), real(self, entry, wanted))[1]
    )
    for number in range(3):
        assert len(list(own.epoch(number))) == len(own) == 5
    assert sorted(opened) == list(range(20))


@pytest.mark.parametrize("samples", [8, 50])
def test_an_epoch_shorter_or_longer_than_the_set(tmp_path: Path, samples: int) -> None:
    own = loader(image_set(tmp_path / "set"), batch=2, epoch_samples=samples)
    found = [numbers(own.epoch(number)) for number in range(20)]
    for epoch in found:
        assert len(epoch) == samples
        for start in range(0, samples, 20):
            assert max(Counter(epoch[start : start + 20]).values()) == 1, "no image again before all have come"
    assert {n for epoch in found for n in epoch} == set(range(20))
    if samples == 50:
        assert found[0][:20] != found[0][20:40], "each pass has an order of its own"


def test_two_ranks_share_out_what_one_has(tmp_path: Path) -> None:
    shards = image_set(tmp_path / "set")
    one = list(loader(shards, batch=4).epoch(2))
    halves = [list(loader(shards, batch=2, rank=rank, world=2).epoch(2)) for rank in range(2)]
    assert len(halves[0]) == len(halves[1]) == len(one)
    for whole, *parts in zip(one, *halves, strict=True):
        assert numbers([whole]) == numbers(parts)
    with pytest.raises(UserError, match="fewer than one batch"):
        loader(shards, batch=11, world=2)


def stream(shards: str, resume: dict[str, Any] | None = None, **options: Any) -> TaskStream:
    own = loader(shards, **options)
    return TaskStream(own, own.view, resume)


@pytest.mark.parametrize("done", [1, 4, 5, 6])
def test_a_resumed_run_is_shown_the_same(tmp_path: Path, done: int) -> None:
    shards = image_set(tmp_path / "set", changed={9: {"png": b"damaged"}})
    whole = stream(shards, max_damaged=0.5)
    shown = [whole.next(CPU) for _ in range(8)]
    part = stream(shards, max_damaged=0.5)
    for _ in range(done):
        part.next(CPU)
    torch.manual_seed(99)
    rest = stream(shards, part.loader.state(), max_damaged=0.5, workers=2 * (done == 6))  # which open, and no more
    for expected in shown[done:]:
        found = rest.next(CPU)
        assert found.extra["index"].equal(expected.extra["index"])
        for one, other in zip(found.views["image"], expected.views["image"], strict=True):
            assert one.equal(other)
        for one, other in zip(found.places["image"], expected.places["image"], strict=True):
            assert one.equal(other)
    assert rest.loader.report() == whole.loader.report(), "and nothing is counted twice"
    assert not shown[0].views["image"][0].equal(shown[5].views["image"][0])


@pytest.mark.parametrize(("batch", "world"), [(5, 1), (2, 2), (8, 1)])
def test_a_run_goes_on_behind_what_came_with_another_batch(tmp_path: Path, batch: int, world: int) -> None:
    """Unlike a stream of shards, which shuffles anew, an order that is known is gone on with."""
    shards = image_set(tmp_path / "set")
    whole = loader(shards)
    batches = whole.epoch(1)
    seen = numbers([next(batches) for _ in range(2)])
    rest = [loader(shards, batch=batch, rank=rank, world=world) for rank in range(world)]
    found = [numbers(each.epoch(1, resume=whole.state())) for each in rest]
    left = [n for several in found for n in several]
    assert len(left) == 12 // (batch * world) * batch * world
    assert not {*left} & {*seen} and len({*left}) == len(left)
    assert numbers(rest[0].epoch(2)) == numbers(loader(shards, batch=batch, world=world).epoch(2))


def test_a_streamed_run_goes_on_in_memory_and_back(tmp_path: Path) -> None:
    shards = image_set(tmp_path / "set")
    streamed = loader(shards, in_memory=False)
    epoch = streamed.epoch(0)
    next(epoch), next(epoch)
    held = loader(shards)
    assert len(numbers(held.epoch(0, resume=streamed.state()))) == 12
    assert held.place == (0, 8, 3)
    again = loader(shards)
    epoch = again.epoch(0)
    next(epoch)
    back = loader(shards, in_memory=False)
    assert sum(len(batch.views["image"][0]) for batch in back.epoch(0, resume=again.state())) == 16
    assert back.place == (0, 4, 4)


def test_damaged_images_are_left_out_and_counted_once(tmp_path: Path) -> None:
    shards = image_set(tmp_path / "set", changed={3: {"png": b"damaged"}, 8: {"txt": b"no image"}})
    own = loader(shards, max_damaged=0.06)
    for epoch in range(2):
        assert len({*numbers(own.epoch(epoch))} - {3, 8}) == 18
    report = own.report()
    assert report["drawn"] == 20
    assert [sum(shards.values()) for shards in report["damaged"].values()] == [1]
    assert {reason: sum(shards.values()) for reason, shards in report["lacking"].items()} == {
        "a sample without image": 1
    }
    assert loader(shards, rank=1, world=2, batch=2, max_damaged=0.06).report()["drawn"] == 0
    with pytest.raises(UserError, match=r"1 of 20 samples are unusable, more than max_damaged=0.04"):
        next(loader(shards, max_damaged=0.04).epoch(0))
    with pytest.raises(UserError, match="n3 of .* is unusable"):
        next(loader(shards, strict=True).epoch(0))
    second = loader(shards, rank=1, world=2, batch=2, max_damaged=0.06)
    next(second.epoch(0))
    assert second.report()["drawn"] == 0, "each process opens all; the first counts"


def test_a_set_that_cannot_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = image_set(tmp_path / "sizes", changed={5: {"png": png(5, side=9)}})
    with pytest.raises(UserError, match=r"images of one size, and there are 6 x 6 and 9 x 9 pixels \(n5 of .*0.tar\)"):
        next(loader(other).epoch(0))
    lacking = image_set(tmp_path / "texts", (4,), changed={n: {"txt": b"x", "png": b""} for n in range(4)})
    with pytest.raises(UserError, match="unusable|no image of"):
        next(loader(lacking, max_damaged=1.0).epoch(0))
    unknown = Source(shards=f"pipe:cat {other}/0.tar")
    with pytest.raises(UserError, match="in_memory needs the number of samples"):
        next(loader(unknown, epoch_samples=8).epoch(0))
    mixed = Mixture([MixedSource(shards=other), MixedSource(shards=other)])
    with pytest.raises(UserError, match="one source, not of several"):
        next(loader(mixed).epoch(0))
    monkeypatch.setenv("MMSSL_LIMITS", f"held_bytes={20 * 3 * SIDE * SIDE - 1}")
    good = image_set(tmp_path / "good")
    with pytest.raises(UserError, match=r"20 images of 6 x 6 pixels take 0.00 GiB in memory; .*held_bytes=2159;"):
        next(loader(good).epoch(0))
    monkeypatch.setenv("MMSSL_LIMITS", f"held_bytes={20 * 3 * SIDE * SIDE}")
    assert len(numbers(loader(good).epoch(0))) == 20
