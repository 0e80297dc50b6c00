"""BoWNet by its formulas (Gidaris et al., CVPR 2020): words, bags, mixed images, and what they cost."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.errors import UserError
from mmssl.methods import bownet
from mmssl.methods.bownet import WORDS, BoWNet, CutMix
from mmssl.numerics.kmeans import kmeans
from mmssl.numerics.seeded_random import draws
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from by_hand import Tiny, defaults, epoch, pictures, same, shake, unit
from side_by_side import side_by_side


class Cellular(Tiny):
    """Tiny, with its cells."""

    def forward(self, x: torch.Tensor) -> Features:
        x = x.float()
        found = super().forward(x)
        cells = self.layer(4 * x - 2).tanh()
        return Features(found.pooled, cells.flatten(2).mT, (cells.shape[2], cells.shape[3]))


def made(**options: Any) -> tuple[dict[str, Encoder], BoWNet]:
    torch.manual_seed(2)
    encoders: dict[str, Encoder] = {"image": Tiny(), WORDS: Cellular(size=8)}
    objective = BoWNet(encoders, **{"words": 4, "scale": 2.5, "learn_from": 60, **options})
    shake(objective)
    objective.vocabulary.copy_(torch.randn(4, 6) / 3)
    return encoders, objective


def shown(rows: int, *, absent: tuple[int, ...] = (), mixed: bool = True) -> Batch:
    batch = pictures([4, 4], rows, absent=absent)
    batch.views[WORDS] = pictures([8, 8], rows, seed=5).views["image"][: 1 + mixed]
    batch.extra[f"{WORDS}_present"] = batch.extra["image_present"]
    if mixed:
        batch.extra["own"] = torch.linspace(0.1, 1.0, rows)
    return batch


def shown_once(rows: int, *, absent: tuple[int, ...] = ()) -> Batch:
    return shown(rows, absent=absent, mixed=False)


def bag_of(objective: BoWNet, encoders: dict[str, Encoder], view: torch.Tensor, row: int, pool: str) -> torch.Tensor:
    """The share of each word among the nearest ones of an image's 16 cells, or among those that occur."""
    cells = encoders[WORDS](view).tokens[row]  # type: ignore[index]
    said = Counter(int((objective.vocabulary - cell).norm(dim=1).argmin()) for cell in cells)
    found = torch.tensor([float(said[word] if pool == "histogram" else said[word] > 0) for word in range(4)])
    return found / found.sum()


@pytest.mark.parametrize("pool", ["binary", "histogram"])
@pytest.mark.parametrize("mixed", [True, False])
def test_the_loss_is_the_papers_in_value_and_gradient(pool: str, mixed: bool) -> None:
    encoders, objective = made(pool=pool)
    batch = shown(5, absent=(1,), mixed=mixed)
    batch.extra[f"{WORDS}_present"] = torch.tensor([True, True, True, False, True])
    weights = unit(objective.prototypes.directions)
    losses, bags = [], []
    for row in (0, 2, 4):
        bag = bag_of(objective, encoders, batch.views[WORDS][0], row, pool)
        if mixed:
            own = batch.extra["own"][row]
            bag = own * bag + (1 - own) * bag_of(objective, encoders, batch.views[WORDS][1], row, pool)
        scores = objective.scale * encoders["image"](batch.views["image"][1]).pooled[row] @ weights.T
        losses.append(-(bag * scores.log_softmax(dim=0)).sum())
        bags.append(bag)
    assert any(len(set(bag.tolist())) > 2 for bag in bags) or pool == "binary"
    found = objective(encoders, batch)
    same(found.total, torch.stack(losses).mean(), objective, encoders["image"])
    mean = torch.stack(bags).mean(dim=0)
    torch.testing.assert_close(found.logs["chance_loss"], -(mean * mean.clamp(min=1e-9).log()).sum())
    assert all(p.grad is None and not p.requires_grad for p in encoders[WORDS].parameters())


def swept(shown: Batch, index: list[int], *, size: int = 2) -> list[Batch]:
    """The unchanged images of a batch under these numbers, in batches."""
    whole = Batch({WORDS: shown.views[WORDS][:1]}, extra={**shown.extra, "index": torch.tensor(index)})
    return [whole.map(lambda x, rows=rows: x[rows]) for rows in torch.arange(len(index)).split(size)]


def test_words_are_clusters_of_cells_before_the_first_pass() -> None:
    encoders, objective = made(iterations=1)
    shown, index = shown_once(5, absent=(1,)), [4, 0, 9, 2, 7]
    encoders[WORDS].seen.clear()  # type: ignore[operator, union-attr]
    objective.before_epoch(encoders, epoch(sweep=lambda: iter(swept(shown, index))))
    assert encoders[WORDS].seen == [(False, False)] * 3, "in eval, without gradient"
    numbers, chance = torch.tensor([9, 4, 7, 2]), []
    cells = encoders[WORDS](shown.views[WORDS][0]).tokens[[2, 0, 4, 3]]  # type: ignore[index]
    for row, drawn in enumerate(draws(numbers, 16)):
        chance += [(float(one), row, cell) for cell, one in enumerate(drawn)]
    sample = torch.stack([cells[row, cell] for _, row, cell in sorted(chance)[:60]]).detach()
    torch.testing.assert_close(objective.vocabulary, kmeans(sample, 4, iterations=1))
    before = objective.vocabulary.clone()
    objective.before_epoch(encoders, epoch(number=1))  # looks at nothing
    assert objective.vocabulary.equal(before)


def test_too_few_cells_make_no_words() -> None:
    encoders, objective = made(learn_from=3)
    with pytest.raises(UserError, match="3 cells do not make 4 words; ask for fewer, or learn from more cells"):
        objective.before_epoch(encoders, epoch(sweep=lambda: iter(swept(shown_once(3), [0, 1, 2]))))


def test_two_processes_find_the_words_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, index = shown_once(7, absent=(2,)), [3, 0, 5, 1, 6, 2, 4]
    parts = swept(shown, index)
    given = [parts[:3], parts[3:]]

    def words(of: list[Batch]) -> torch.Tensor:
        encoders, objective = pairs.pop()
        objective.before_epoch(encoders, epoch(sweep=lambda: iter(of)))
        return objective.vocabulary

    pairs = [made() for _ in range(3)]
    expected = words(parts)
    for found in side_by_side(lambda rank: words(given[rank]), monkeypatch):
        torch.testing.assert_close(found, expected)


def test_cut_mix_pastes_boxes_of_the_partner_and_says_how_much_is_left() -> None:
    torch.manual_seed(0)
    whole, changed = (x.repeat_interleave(4, 2).repeat_interleave(3, 3) for x in pictures([4, 4], 9).views["image"])
    present = torch.ones(9, dtype=torch.bool)
    present[2] = False
    batch = Batch({"image": [whole, changed], WORDS: [whole]}, extra={"image_present": present})
    made = CutMix().on_batch(batch)
    pasted = (made.views["image"][1] != changed).any(dim=1)  # (B, H, W)
    assert torch.equal(made.views["image"][0], whole) and torch.equal(made.views[WORDS][1], whole.flip(0))
    for row in range(9):
        other = changed[8 - row]
        assert torch.equal(made.views["image"][1][row][:, pasted[row]], other[:, pasted[row]])
        if row not in (2, 6, 4):  # without a partner, and its own
            torch.testing.assert_close(made.extra["own"][row], 1 - pasted[row].float().mean())
            down, across = pasted[row].any(1).sum(), pasted[row].any(0).sum()
            assert pasted[row].sum() == down * across, "a box"
    assert made.extra["own"][2] == made.extra["own"][6] == 1 and (made.extra["own"] < 1).sum() > 4
    many = Batch({"image": [torch.rand(400, 3, 8, 8)] * 2, WORDS: [torch.rand(400, 3, 8, 8)]})
    shares = CutMix(p=0.3).on_batch(many).extra["own"]
    assert 0.2 < float((shares < 1).float().mean()) < 0.4
    many = Batch({"image": [torch.rand(4000, 3, 8, 8)] * 2, WORDS: [torch.rand(4000, 3, 8, 8)]})
    # an area a from 0 to 1 and a middle from side to side leave (s - s^2 / 4)^2 with s = sqrt(a): 1/2 - 1/5 + 1/48
    assert 1 - CutMix().on_batch(many).extra["own"].mean() == pytest.approx(0.3208, abs=0.02)


def test_what_is_refused_and_defaults() -> None:
    with pytest.raises(UserError, match="list image_words among its encoders"):
        BoWNet({"image": Tiny()})
    expected = {"words": 2048, "level": "tokens", "pool": "binary", "scale": 8.0}
    assert defaults(BoWNet) == expected | {"learn_from": 500_000, "iterations": 50}
    view = bownet.method.view({"image": Tiny().preprocess, WORDS: Cellular().preprocess})
    colors = [ColorJitter(p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1), Grayscale(p=0.2)]
    assert view.steps["image"] == [[Flip()], [Crop(scale=(0.08, 1.0)), Flip(), *colors]]
    assert view.after == [CutMix(p=1.0)]
