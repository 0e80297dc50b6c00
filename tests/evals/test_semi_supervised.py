"""Few labels: so many as were promised, of every class, and no other sample is learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from probing import Anything, Known, blobs, sides

from mmssl.data.shards import Source
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals import semi_supervised
from mmssl.evals.finetune import Finetune, FineTuning
from mmssl.evals.linear import probe
from mmssl.evals.parts.labelled import Embedded, Labelled
from mmssl.evals.parts.solvers import LBFGS
from mmssl.evals.semi_supervised import SemiSupervised, picked
from mmssl.objectives.few_labels import few
from mmssl.types import Trained

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened


@pytest.mark.parametrize(
    ("share", "sizes"), [(0.01, (2, 1, 1)), (0.1, (20, 5, 1)), (0.5, (100, 25, 2)), (1, (200, 50, 3))]
)
def test_of_every_class_its_share(share: float, sizes: tuple[int, ...]) -> None:
    labels = {5 * number: 0 if number < 200 else 1 if number < 250 else 2 for number in range(253)}
    found = few(labels, share, seed=3)
    assert tuple(list(found.values()).count(name) for name in range(3)) == sizes
    assert all(labels[number] == name for number, name in found.items())
    assert list(found) == sorted(found)
    assert found == few(labels, share, seed=3)
    if share < 1:
        assert found != few(labels, share, seed=4)


def test_all_of_a_class_are_drawn_alike_often() -> None:
    labels = {number: number % 2 for number in range(20)}
    counts = torch.zeros(20)
    for seed in range(300):
        counts[list(few(labels, 0.3, seed=seed))] += 1
    assert counts.tolist() == pytest.approx([90] * 20, abs=30)


class Numbered(Known):
    """Sets that are embedded already, whose training rows have the numbers 3, 5, 7, ..."""

    def labels(self) -> dict[int, int]:
        return dict(zip(self.known.number.tolist(), self.known.y.tolist(), strict=True))


def number_classes(known: Embedded, asked: Embedded) -> Numbered:
    known.number = torch.arange(len(known.y)) * 2 + 3
    sets = Numbered(known, asked)
    sets.train = "the training set"  # type: ignore[assignment]
    return sets


def test_the_linear_classifier_sees_the_share_and_nothing_else() -> None:
    known, asked = blobs(120, 6, spread=1.5), blobs(60, 7, spread=1.5, seed=1)  # of one class the asked know alone
    sets = number_classes(known, asked)
    found: dict[str, Any] = {}
    for share in (0.05, 0.2):
        some = list(few(sets.labels(), share, seed=2))
        rest = ~torch.isin(known.number, torch.tensor(some))
        assert int((~rest).sum()) == 120 * share
        poisoned = number_classes(Embedded(known.x.masked_fill(rest[:, None], float("nan")), known.y), asked)
        semi = SemiSupervised(**SETS, fractions=(share,), epochs=(1,), protocols=("linear",), seed=2)
        semi.sets = poisoned
        found |= dict(semi.judge(Anything(), semi.places))  # type: ignore[arg-type]
        ranks = probe(Embedded(known.x[~rest], known.y[~rest]), asked, LBFGS((1e-4, 1e-3, 1e-2, 1e-1)), classes=6)[0]
        for name, most in (("top1", 1), ("top5", 5)):
            score = found[f"{100 * share:g}%/linear/{name}"]
            assert score.value == pytest.approx(float((ranks < most).float().mean()))
            assert score.chance == pytest.approx(most / 6 * 52 / 60) and score.n == 60
    assert list(found) == [f"{share}%/linear/{name}" for share in (5, 20) for name in ("top1", "top5")]
    assert 0.3 < found["5%/linear/top1"].value < found["20%/linear/top1"].value


def test_a_class_that_none_of_the_few_has_keeps_its_number() -> None:
    """Of classes 0, 1 and 2 all are there, and so are the classifier's scores."""
    known = Embedded(torch.eye(3).repeat(10, 1), torch.arange(3).repeat(10))
    semi = SemiSupervised(**SETS, fractions=(0.1,), epochs=(1,), protocols=("linear",))
    semi.sets = number_classes(known, Embedded(torch.eye(3), torch.arange(3)))
    found = dict(semi.judge(Anything(), semi.places))  # type: ignore[arg-type]
    assert found["10%/linear/top1"].value == 1.0


def test_fine_tuning_is_given_the_share_and_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = blobs(40, 2), blobs(10, 2, seed=1)
    sets = number_classes(known, asked)
    seen: list[Any] = []

    class Tuned:
        encoder = "the copy"

        def ranks(self, rows: Embedded) -> torch.Tensor:
            assert rows is asked
            return torch.tensor([0] * 7 + [1] * 3)

    def finetuned(
        encoder: Any, source: Any, labels: dict[int, int], tuning: FineTuning, *, epochs: int, place: str
    ) -> Tuned:
        assert place == "mid"
        seen.append((encoder, source, labels, tuning, epochs))
        return Tuned()

    monkeypatch.setattr(semi_supervised, "finetuned", finetuned)
    monkeypatch.setattr(sets, "rows", lambda encoder, *, space: (known, asked) if space == "mid" else None)
    monkeypatch.setattr(sets, "test_rows", lambda encoder: asked if encoder == "the copy" else None)
    semi = SemiSupervised(
        **SETS, fractions=(0.1, 0.25), epochs=(6, 3), protocols=("finetune", "linear"), seed=5, lr=0.1, space="mid"
    )
    semi.sets = sets
    encoder: Any = Anything()
    found = dict(semi.judge(encoder, semi.places))
    assert list(found) == [f"{share}%/{way}/top1" for share in (10, 25) for way in ("finetune", "linear")]
    assert found["10%/finetune/top1"].value == pytest.approx(0.7) and found["10%/finetune/top1"].chance == 0.5
    assert seen == [
        (encoder, "the training set", few(sets.labels(), share, seed=5), semi, n) for share, n in ((0.1, 6), (0.25, 3))
    ]
    assert [len(labels) for _, _, labels, *_ in seen] == [4, 10]


def test_rows_are_picked_by_number() -> None:
    rows = Embedded(torch.arange(8.0)[:, None], torch.arange(8) % 2, torch.tensor([9, 3, 4, 0, 1, 7, 5, 2]))
    found = picked(rows, {4: 0, 9: 0, 2: 1})
    assert (found.x[:, 0].tolist(), found.y.tolist(), found.number.tolist()) == ([0, 2, 7], [0, 0, 1], [9, 4, 2])


@pytest.mark.parametrize("kind", [SemiSupervised, Finetune])
def test_it_asks_for_a_training_set_that_is_counted(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = sides(tmp_path, train=4, test=2)
    trained = Trained({"image": create_encoder("raw:image", size=16)})
    made = kind(**shards)
    assert made.needs(trained).counted == ("train",)
    made.check(trained)
    monkeypatch.setattr(Source, "counts", None)
    with pytest.raises(UserError, match="how many samples .* hold is not known"):
        made.check(trained)
    with pytest.raises(UserError, match="no encoder 'video'"):
        kind(**shards, encoder="video").check(trained)


def test_other_samples_of_the_shards_are_not_learnt_from(tmp_path: Path) -> None:
    """The sides of all but the few are turned round: with these the answer would be the other."""
    shards = sides(tmp_path, train=40, test=12)
    sets = Labelled(**shards, label="label")
    some = few(sets.labels(), 0.2, seed=0)
    assert len(some) == 8
    semi = SemiSupervised(**shards, fractions=(0.2,), epochs=(1,), protocols=("linear",), baselines=False)
    encoder = create_encoder("raw:image", size=16)
    known, asked = sets.rows(encoder)
    wrong = Embedded(known.x, torch.where(torch.isin(known.number, torch.tensor(list(some))), known.y, 1 - known.y))
    result = dict(semi.run(Trained({"image": encoder})))["20%/linear/top1"].value
    assert result == 1.0
    turned = number_classes(wrong, asked)
    wrong.number = known.number
    turned.labels = sets.labels  # type: ignore[method-assign]
    semi.sets = turned
    assert dict(semi.judge(encoder, semi.places))["20%/linear/top1"].value == result
