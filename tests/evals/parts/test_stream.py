"""A stream of samples embedded: every whole one once and in order, in parts of any size, on any process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from given import Given
from test_zero_shot import Rows

from mmssl import dist
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.stream import embed_stream, everywhere


class Picky(Rows):
    """Cannot read what is below nought, and says how many it sees at a time."""

    def __call__(self, raw: Any) -> Any:
        if raw.sum() < 0:
            raise DamagedError("below nought")
        return raw * 2

    def embed(self, x: torch.Tensor, *, space: str | None = None) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        self.asked.append((space, len(x)))
        return x.double() + 1


def samples(count: int, bad: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    images = [torch.full((3,), -1.0 if n in bad else float(n)) for n in range(count)]
    return [{"image": x, "audio": torch.full((2,), 10.0 * n), "label": f"l{n}"} for n, x in enumerate(images)]


def embed(made: list[dict[str, Any]], **options: Any) -> Any:
    encoders: Any = {"image": Picky("image"), "audio": Picky("audio")}
    found = embed_stream(encoders, Given(made), ["image", "audio"], space="s", **options)
    return encoders, *found


@pytest.mark.parametrize(("size", "shown"), [(2, [2, 2, 1]), (5, [5]), (64, [5])])
def test_every_sample_is_embedded_once_and_in_order(size: int, shown: list[int]) -> None:
    encoders, rows, kept = embed(samples(5), batch=size, keep=["label"])
    assert rows["image"].tolist() == [[2.0 * n + 1] * 3 for n in range(5)]
    assert rows["audio"].tolist() == [[20.0 * n + 1] * 2 for n in range(5)]
    assert rows["image"].dtype == torch.float32
    about = {"__shard__": "given.tar"}
    assert kept == [{"label": f"l{n}", "__key__": str(n), "__number__": n, **about} for n in range(5)]
    assert encoders["image"].asked == encoders["audio"].asked == [("s", n) for n in shown]


def test_damaged_ones_are_left_out_of_everything() -> None:
    made = samples(6, bad=(1, 2, 3))
    del made[5]["label"]
    with reporting() as report:
        _, rows, kept = embed(made, batch=2, keep=["label"])
    assert rows["image"][:, 0].tolist() == [1.0, 9.0] and rows["audio"][:, 0].tolist() == [1.0, 81.0]
    assert [row["label"] for row in kept] == ["l0", "l4"]
    assert report.counts() == {"below nought": 3, "a sample without label": 1}
    with reporting(), pytest.raises(UserError, match="no sample with a whole image and audio and label; left out 2"):
        embed(samples(2, bad=(0, 1)), keep=["label"])


def test_batches_are_of_64_and_nothing_is_kept_unless_asked() -> None:
    encoders, _, kept = embed(samples(70))
    assert encoders["image"].asked == [("s", 64), ("s", 6)]
    assert kept[0] == {"__key__": "0", "__shard__": "given.tar", "__number__": 0}


def test_each_process_embeds_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "rank", lambda: 1)
    monkeypatch.setattr(dist, "gather_objects", lambda value: [value])
    monkeypatch.setattr(dist, "gather", lambda value: value)
    _, rows, kept = embed(samples(5))
    assert rows["image"][:, 0].tolist() == [3.0, 7.0] and [row["__number__"] for row in kept] == [1, 3]


def test_a_process_without_rows_joins_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [torch.ones(2, 3), torch.zeros(1, 3)]
    assert everywhere(parts, "cpu").tolist() == torch.cat(parts).tolist()
    monkeypatch.setattr(dist, "gather_objects", lambda mine: [mine, (torch.Size([3, 4]), torch.int64)])
    found = everywhere([], "cpu")
    assert found.shape == (0, 3, 4) and found.dtype == torch.int64
    told: list[Any] = []
    monkeypatch.setattr(dist, "gather_objects", lambda mine: told.append(mine) or [mine])
    everywhere([torch.ones(2, 3, 4)], "cpu")
    assert told == [((3, 4), torch.float32)]
