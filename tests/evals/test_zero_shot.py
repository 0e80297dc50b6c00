"""Zero-shot classification, exactly: weights from renormalised prompts, ranks, chance, and every figure by loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from given import PLAIN, defaults, give, written
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.report import reporting
from mmssl.evals.zero_shot import ZeroShot, rank_of, warn_of_templates
from mmssl.types import Score, Trained

CLASSES = ["ant", "bee", "cat", "dog", "emu", "fly", "gnu"]


class Rows(nn.Module):
    """Embeds a row as itself, and a prompt as a vector of its own, longer the later it stands in the alphabet."""

    device = torch.device("cpu")

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.preprocess, self.spaces = modality, self, {"clip": None, "other": None}
        self.field = modality
        self.asked: list[Any] = []

    def __call__(self, raw: Any) -> Any:
        return raw

    def collate(self, items: list[Tensor]) -> Tensor:
        return torch.stack(items)

    def embed(self, x: Tensor, *, space: str | None = None) -> Tensor:
        self.asked.append(space)
        return x

    def encode(self, texts: list[str], *, space: str | None = None) -> Tensor:
        self.asked += [space, *texts]
        return torch.stack([vector(text) for text in texts])


def vector(text: str) -> Tensor:
    draw = torch.Generator().manual_seed(sum(map(ord, text)))
    return torch.randn(5, generator=draw) * ord(text[-1]) / 50


def trained() -> Trained:
    return Trained({"image": Rows("image"), "text": Rows("text")})  # type: ignore[dict-item]


def judged(monkeypatch: pytest.MonkeyPatch, samples: list[Any], subject: Trained | None = None, **options: Any) -> Any:
    give(monkeypatch, "mmssl.evals.zero_shot", samples)
    options = {"classes": CLASSES, "templates": ["a {}", "the {} x"], **options}
    return written(dict(ZeroShot(data={}, **options).run(subject or trained())))


def some(count: int, *, unknown: int = 0, key: str = "label") -> list[dict[str, Any]]:
    labels = [CLASSES[n * n % 7] for n in range(count - unknown)] + ["yak"] * unknown
    return [{"image": torch.randn(5), key: label} for label in labels]


def test_defaults() -> None:
    assert defaults(ZeroShot) == {
        "templates": None,
        "label": "label",
        "space": "clip",
        "modality": "image",
        "per_class": True,
        **PLAIN,
    }


@pytest.mark.parametrize("unknown", [0, 25])
def test_figures_by_loops(unknown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = some(40, unknown=unknown)
    with reporting():
        found = judged(monkeypatch, samples)
    weights = []
    for name in CLASSES:
        prompts = [vector(f"a {name}"), vector(f"the {name} x")]
        mean = sum(p / p.norm() for p in prompts) / 2
        weights.append(mean / mean.norm())  # Radford et al., ICML 2021: normalised, averaged, normalised again
    ranks = []
    for sample in samples:
        scores = [float(sample["image"] @ w) for w in weights]
        if sample["label"] in CLASSES:
            own = scores[CLASSES.index(sample["label"])]
            ranks.append(sum(s >= own for s in scores) - 1)
        else:
            ranks.append(7)
    labels = [sample["label"] for sample in samples]
    known = [label for label in labels if label in CLASSES]
    top1, top5 = found["top1"], found["top5"]
    assert top1.value == pytest.approx(sum(r < 1 for r in ranks) / 40) and top1.n == 40
    assert top5.value == pytest.approx(sum(r < 5 for r in ranks) / 40)
    assert top1.chance == pytest.approx(len(known) / 40 / 7) and top5.chance == pytest.approx(5 * len(known) / 40 / 7)
    assert top1.trivial == pytest.approx(max(known.count(name) for name in CLASSES) / 40)
    for name in set(known):
        own_ranks = [r for r, label in zip(ranks, labels, strict=True) if label == name]
        score = found[f"class/{name}"]
        assert score.value == pytest.approx(sum(r < 1 for r in own_ranks) / len(own_ranks))
        assert score.n == len(own_ranks) and score.chance == pytest.approx(1 / 7)
        assert top1.parts[name] == pytest.approx(score.value)
    assert {key for key in found if "/" in key} == {f"class/{name}" for name in set(known)}
    assert set(top1.parts) == set(known)


def test_the_mean_of_prompts_is_normalised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts of ant lie far apart, so that their mean is short; it must not count for less."""

    class Apart(Rows):
        def encode(self, texts: list[str], *, space: str | None = None) -> Tensor:
            known = {"a ant": [0.2, 0, 2.0], "the ant": [0.1, 0, -1.0], "a bee": [0, 3.0, 0], "the bee": [0, 1.0, 0]}
            return torch.tensor([known.get(text, [1.0, 1.0, 1.0]) for text in texts])

    subject = Trained({"image": Rows("image"), "text": Apart("text")})  # type: ignore[dict-item]
    rows = {"ant": torch.tensor([1.0, 0.5, 0]), "bee": torch.tensor([0.5, 1, 0])}
    samples = [{"image": x, "label": name} for name, x in rows.items()]
    options: Any = {"classes": ["ant", "bee"], "templates": ["a {}", "the {}"]}
    assert judged(monkeypatch, samples, subject, **options)["top1"].value == 1.0


def test_five_classes_have_no_top5_and_each_class_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"image": torch.randn(5), "label": name} for name in CLASSES[:5]]
    assert list(judged(monkeypatch, samples, classes=CLASSES[:5], per_class=False)) == ["top1"]
    samples.append({"image": torch.randn(5), "label": "fly"})
    assert list(judged(monkeypatch, samples, classes=CLASSES[:6], per_class=False)) == ["top1", "top5"]


def test_options_name_the_key_the_space_and_the_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Trained({"depth": Rows("depth"), "text": Rows("text")})  # type: ignore[dict-item]
    samples = [{"depth": s["image"], "kind": s["kind"]} for s in some(9, key="kind")]
    found = judged(monkeypatch, samples, subject, label="kind", space="other", modality="depth")
    assert found["top1"].n == 9
    assert subject.encoders["depth"].asked == ["other"] and subject.encoders["text"].asked[0] == "other"  # type: ignore[union-attr,index,operator]
    assert "a ant" in subject.encoders["text"].asked  # type: ignore[operator]


def test_a_sample_without_a_label_is_left_out_with_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = some(20)
    whole = judged(monkeypatch, samples)["top1"]
    first, other = ({"image": torch.randn(5), "label": label} for label in ("", " "))
    broken = [first, *samples[:7], other, *samples[7:]]
    with reporting() as report:
        assert judged(monkeypatch, broken)["top1"] == whole
    assert report.counts() == {"a sample without a label": 2}


def test_bare_numbers_are_places_and_names_beside_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    named = some(12)
    numbered = [{**s, "label": CLASSES.index(s["label"])} for s in named]
    with reporting():
        assert judged(monkeypatch, numbered)["top1"] == judged(monkeypatch, named)["top1"]
    with pytest.raises(UserError, match="names of classes and bare numbers"):
        judged(monkeypatch, [*named, numbered[0]])


def test_it_needs_words_the_space_labels_and_a_class_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(samples: list[Any], subject: Trained, **options: Any) -> None:
        give(monkeypatch, "mmssl.evals.zero_shot", samples)
        monkeypatch.setattr(
            "mmssl.evals.parts.source.peek_classes", lambda source, label: ([s[label] for s in samples], True)
        )
        ZeroShot(data={}, classes=CLASSES, **options).check(subject)

    check(some(3), trained())
    alone = trained()
    del alone.encoders["text"]  # type: ignore[attr-defined]
    for samples, subject, options, told in (
        (some(3), alone, {}, "no encoder 'text'"),
        (some(3), trained(), {"space": "nope"}, "no space 'nope'"),
        (some(3, key="kind"), trained(), {}, "has 'label'"),
        (some(3, unknown=3), trained(), {}, "has none of the classes of the list of classes"),
    ):
        with pytest.raises(UserError, match=told):
            check(samples, subject, **options)  # type: ignore[arg-type]


def test_ranks_count_those_that_score_as_high_and_strangers_come_last() -> None:
    scores = torch.tensor([[0.3, 0.5, 0.5, 0.1], [0.3, 0.5, 0.5, 0.1], [0.3, 0.5, 0.5, 0.1]])
    assert rank_of(scores, torch.tensor([1, 0, 3])).tolist() == [1, 2, 3]
    assert rank_of(scores, torch.tensor([4, 9, 1])).tolist() == [4, 4, 1]


def score(value: float, high: float) -> Score:
    return Score(value, 0.0, high, 0.5, 4)


def told(prompts: dict[str, Tensor], top1: Score) -> list[str]:
    x, labels = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
    with reporting() as report:
        warn_of_templates(x, labels, prompts, top1, torch.eye(2).flip(0))  # the names alone are never right
    return list(report.warnings)


def test_one_template_that_is_better_beyond_chance_is_told() -> None:
    good, half, bad = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2).flip(0)
    half = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    [line] = told({"bad {}": bad, "half {}": half, "good {}": good}, score(0.25, 0.9))
    assert line == (
        "top1 is 0.250, but one template alone reaches 1.000; "
        "choose templates ('good {}' 1.000, 'half {}' 0.500, 'bad {}' 0.000)"
    )
    assert told({"bad {}": bad, "good {}": good}, score(0.25, 1.0)) == [], "it lies within the interval"
    assert told({"good {}": good}, score(0.25, 0.9)) == [], "there is nothing to choose from"
    many = told({f"{n} {{}}": good for n in range(7)}, score(0.25, 0.9))[0]
    assert many.count("1.000") == 6, "the best five, and the best"


def test_the_run_warns_by_single_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["ant", "bee"]
    samples = [{"image": F.normalize(vector(f"a {name}"), dim=0), "label": name} for name in names for _ in range(9)]
    monkeypatch.setattr("mmssl.evals.zero_shot.bootstrap", lambda x, **o: Score(0.0, 0.0, 0.1, 0.5, 1))
    with reporting() as report:
        judged(monkeypatch, samples, classes=names)
    [line] = report.warnings
    assert "one template alone reaches 1.000" in line and "'a {}' 1.000" in line


def corners(count: int) -> tuple[Tensor, Tensor]:
    """Returns samples (4 * count, 4) of four classes, each at its corner, and the classes."""
    return torch.eye(4).repeat(count, 1), torch.arange(4).repeat(count)


def plain_told(x: Tensor, labels: Tensor, prompts: dict[str, Tensor], plain: Tensor) -> list[str]:
    with reporting() as report:
        warn_of_templates(x, labels, prompts, score(0.5, 1.0), plain)
    return list(report.warnings)


def test_class_names_that_do_better_than_the_templates_are_told_with_a_table() -> None:
    x, labels = corners(6)
    good = torch.eye(4)
    mixed = good[[1, 0, 2, 3]]  # of the first two classes none is right
    [told] = plain_told(x, labels, {"a {}": mixed, "the {}": 0.1 * good[[1, 2, 3, 0]]}, good)
    table = "  the 2 given  0.500\n  {}           1.000\n  a {}         0.500\n  the {}       0.000"
    assert told == (
        "the plain class name does better than the templates given; choose templates=plain, or others (top1):\n" + table
    )
    assert plain_told(x, labels, {"a {}": good}, mixed) == [] == plain_told(x, labels, {"{}": good}, good)
    assert len(plain_told(x, labels, {"{}": good, "a {}": 3 * mixed}, good)) == 1, "the names are among them"


def test_class_names_that_are_better_by_chance_alone_are_not_told() -> None:
    """Of samples that only one of the two has right: 6 of 6 is beyond chance, 2^-6 < 0.025, and 5 of 5 is not."""
    x, labels = torch.eye(4)[[0] * 6 + [3]], torch.tensor([0] * 6 + [3])
    wrong = torch.eye(4)[[1, 0, 2, 3]]
    assert len(plain_told(x, labels, {"a {}": wrong}, torch.eye(4))) == 1
    assert plain_told(x[1:], labels[1:], {"a {}": wrong}, torch.eye(4)) == []
    lost = torch.eye(4)[[0, 1, 3, 2]]  # right in the first class alone, where the templates are right in the last
    assert plain_told(x, labels, {"a {}": wrong}, lost) == [], "6 of 7: P = 8 / 2^7"


def test_classes_and_templates_may_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = some(9)
    (tmp_path / "c.txt").write_text("\n".join(CLASSES))
    (tmp_path / "t.txt").write_text("a {}\nthe {} x")
    files = judged(monkeypatch, samples, classes=str(tmp_path / "c.txt"), templates=str(tmp_path / "t.txt"))
    assert files == judged(monkeypatch, samples)
