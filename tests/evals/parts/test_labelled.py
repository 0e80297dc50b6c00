"""Labelled sets: numbers of classes agree, rows come in the order of the set, baselines stand beside the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from named import bare, png, tar
from probing import sides
from torch import Tensor, nn

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.finetune import Finetune
from mmssl.evals.knn import KNN
from mmssl.evals.parts import labelled
from mmssl.evals.parts.labelled import Embedded, Labelled, Probe, common, rivals
from mmssl.evals.parts.memory import remembering
from mmssl.evals.parts.needs import EncoderNeed
from mmssl.evals.parts.report import reporting
from mmssl.evals.semi_supervised import SemiSupervised
from mmssl.evals.transfer_dense import TransferDense
from mmssl.nn.head import Projection
from mmssl.types import Encoder, Score, Trained

RAW = create_encoder("raw:image", size=16)
ABC = ["ant", "bee", "cat"]


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Any]:
    """Classes of the training set are 2, 0, 1 in its index; of the test set one is unknown."""
    train = bare(tmp_path / "a", ["cat", "ant", "bee", "cat"], ["bee", "cat", "ant"], classes=["bee", "cat", "ant"])
    test = bare(tmp_path / "b", ["bee", "dog", "cat"], ["dog", "cat", "bee"], classes=["dog", "cat", "bee"])
    return {"train": train, "data": test, "label": "label"}


def test_both_sets_are_numbered_by_the_training_sets_sorted_names(sets: dict[str, Any]) -> None:
    made = Labelled(**sets)
    with reporting() as report:
        train, test = made.rows(RAW)
        assert train.y.tolist() == [2, 0, 1, 2] and test.y.tolist() == [1, 3, 2]
        assert train.number.tolist() == [0, 1, 2, 3] and test.number.tolist() == [0, 1, 2]
        assert made.labels() == {0: 2, 1: 0, 2: 1, 3: 2}
        again = made.test_rows(RAW)
    assert torch.equal(again.x, test.x) and again.y.tolist() == [1, 3, 2] and again.number.tolist() == [0, 1, 2]
    (warning,) = report.warnings
    data, known = sets["data"]["shards"], sets["train"]["shards"]
    assert warning == (
        f"1 of 3 samples of the test set {data} have no right answer, since the training set {known} "
        "lacks their classes (dog: 1)"
    )
    for rows, node in ((train, made.train), (test, made.test)):
        pictures = [RAW.preprocess(sample["image"]) for sample in node.samples({"image"})]
        small = torch.stack(pictures).float() / 255  # the raw input of 16 pixels is shown at 32
        torch.testing.assert_close(rows.x, small.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(1))


def test_names_of_sets_say_how_many_shards_and_what_limit(sets: dict[str, Any], tmp_path: Path) -> None:
    train, test = sets["train"]["shards"], sets["data"]["shards"]
    several = {"shards": [train, test]}
    made = Labelled(several, sets["data"], label="label", limit=2)
    assert made.names == {
        "where": f"the test set {test}",
        "known_as": f"the training set {made.train.shards[0]}"
        + (", ..." if len(made.train.shards) > 1 else "")
        + " (limit: 2)",
    }
    assert Labelled(several, several, label="label").names == {
        "where": f"the test set {train}, ...",
        "known_as": f"the training set {train}, ...",
    }
    assert made.train.count == made.test.count == 2


def test_rows_come_in_the_order_of_the_set_however_they_were_embedded(
    sets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes give their rows one after the other; a sample without a label lies between."""
    x = torch.tensor([[0.0], [2], [4], [1], [3]])
    names = {0: "b", 2: "a", 4: None, 1: "c", 3: "a"}
    kept = [{"__number__": number, "label": name} for number, name in names.items()]
    monkeypatch.setattr(labelled, "embed_stream", lambda *_, **__: ({"image": x}, kept))
    with reporting() as report:
        found, labels, number = Labelled(**sets)._embedded(Labelled(**sets).train, RAW)
    assert found[:, 0].tolist() == [0, 1, 2, 3] and labels == ["b", "c", "a", "a"] and number.tolist() == [0, 1, 2, 3]
    assert report.counts() == {"a sample without a label": 1}


def test_what_is_asked_of_the_stream(sets: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stream(*given: Any, **options: Any) -> Any:
        seen.append((given, options))
        return {"image": torch.zeros(1, 1)}, [{"__number__": 0, "label": "ant"}]

    monkeypatch.setattr(labelled, "embed_stream", stream)
    made = Labelled(**sets)
    made._embedded(made.test, RAW)
    assert seen == [(({"image": RAW}, made.test, ["image"]), {"space": None, "keep": ["label"]})]


def test_several_places_are_read_at_once_and_kept_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = create_encoder("convnet", image_size=16, widths=[8, 16], depths=[1, 1], stem_stride=1).eval()
    encoder.spaces["clip"] = Projection(16, out=4)
    made = Labelled(**sides(tmp_path, train=6, test=4), label="label")
    found = made.read(encoder, ("clip", "pooled", "stem"))
    assert list(found) == ["clip", "pooled", "stem"]
    assert [found[place][0].x.shape for place in found] == [(6, 4), (6, 16), (6, 8)]
    for place, part in enumerate((made.train, made.test)):
        pictures = torch.stack([encoder.preprocess(sample["image"]) for sample in part.samples({"image"})])
        with torch.inference_mode():
            features = encoder(pictures)
            torch.testing.assert_close(found["pooled"][place].x, features.pooled)
            torch.testing.assert_close(found["clip"][place].x, encoder.spaces["clip"](features))
        assert all(found[name][place].y.tolist() == [n % 2 for n in range(len(pictures))] for name in found)
    one, two = made.rows(encoder, space="clip"), made.rows(encoder)
    assert torch.equal(one[1].x, found["clip"][1].x) and torch.equal(two[0].x, found["pooled"][0].x)


def test_features_are_made_once_for_each_encoder_set_and_place(
    sets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = Labelled._read
    monkeypatch.setattr(Labelled, "_read", lambda self, *a: (made.append((self.label, *a)), real(self, *a))[1])
    other = create_encoder("raw:image", size=16)
    sizes: list[int] = []
    recall = labelled.recall

    def measured(key: Any, make: Any, **options: Any) -> Any:
        made = recall(key, make, **options)
        sizes.extend(size(made) for size in options.values())
        return made

    monkeypatch.setattr(labelled, "recall", measured)
    with remembering(), reporting():
        Labelled(**sets).rows(RAW)
        Labelled(**sets).rows(RAW)
        assert len(made) == 1
        nodes = [{"fields": {}, "shards": sets[side]["shards"]} for side in ("train", "data")]
        turned = [dict(reversed(node.items())) for node in nodes]
        for train, data in (nodes, (nodes[0], turned[1]), (turned[0], nodes[1])):
            Labelled(train, data, label="label").rows(RAW)
        assert len(made) == 2, "the order of options does not count"
        Labelled(**sets).rows(other)
        Labelled(**sets, limit=2).rows(RAW)
        Labelled(sets["data"], sets["data"], label="label").rows(RAW)
        Labelled(sets["train"], sets["train"], label="label").rows(RAW)
        assert len(made) == 6
    assert sizes[0] == (4 + 3) * 3072 * 4  # float32 of both sets


def test_a_set_without_any_label_is_an_error(tmp_path: Path) -> None:
    node = {**tar(tmp_path, ({"png": png("ant", 0), "txt": "  "} for _ in range(3))), "fields": {"label": "txt"}}
    with reporting(), pytest.raises(UserError, match=r"0\.tar, \.\.\. have no label; left out 3 samples"):
        Labelled(node, node, label="label").labels()


def test_it_asks_for_the_modality_and_the_label_of_both_sets(tmp_path: Path, sets: dict[str, Any]) -> None:
    empty = tar(tmp_path / "c", ({"png": png("ant", i)} for i in range(3)))
    Labelled(**sets).needs("image").check(RAW)
    for train, data, told in ((empty, sets["data"], "train: .*'label'"), (sets["train"], empty, "data: .*'label'")):
        with pytest.raises(UserError, match=told):
            Labelled(train, data, label="label").needs("image").check(RAW)
    with pytest.raises(UserError, match="train: .*'audio'"):
        Labelled(**sets).needs("audio").check(RAW)
    strangers = bare(tmp_path / "d", ["emu"], ["emu"], classes=["emu"])
    with pytest.raises(UserError, match="the test set .* has none of the classes of the training set"):
        Labelled(sets["train"], strangers, label="label").needs("image").check(RAW)


def test_random_weights_are_warmed_by_the_mean_of_the_first_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "WARM", 2)
    encoder = create_encoder("convnet", image_size=16, widths=[4], depths=[1], stem_stride=1)
    made = Labelled(**sides(tmp_path, train=150, test=2), label="label")
    assert made.warm(encoder) is encoder and not encoder.training
    pictures = torch.stack([encoder.preprocess(sample["image"]) for sample in made.train.samples({"image"})])
    conv, norm = encoder.stem[0], encoder.stem[1]
    with torch.inference_mode():
        maps = [conv(encoder.normalize(part)) for part in (pictures[:64], pictures[64:128])]
    torch.testing.assert_close(norm.running_mean, (maps[0].mean((0, 2, 3)) + maps[1].mean((0, 2, 3))) / 2)
    assert norm.num_batches_tracked == 2


def test_it_is_warmed_by_512() -> None:
    assert labelled.WARM == 512 // 64


class Two(Probe):
    """Judges by the size of the features."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.judged: list[tuple[Encoder, tuple[str, ...]]] = []

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        self.judged.append((encoder, places))
        for name in ("one", "two"):
            yield name, Score(float(encoder.dim + len(name) * len(self.judged)), 0.1, 0.2, 0.3, 5)


def convnet() -> Encoder:
    torch.manual_seed(0)
    return create_encoder("convnet", image_size=16, widths=[4, 8], depths=[1, 1], stem_stride=1).eval()


def test_a_probe_judges_raw_input_and_random_weights_once_and_the_encoder_each_time(tmp_path: Path) -> None:
    shards = sides(tmp_path, train=4, test=2)
    encoder = convnet()
    encoder.spaces["clip"] = Projection(8, out=4)
    trained, probe = Trained({"image": encoder}), Two(**shards, space="clip")
    found = dict(probe.run(trained))
    assert list(found) == [f"{p}{n}" for p in ("raw/", "random_init/", "") for n in ("one", "two")]
    (raw, at), (fresh, there), (own, here) = probe.judged
    assert (raw.dim, at) == (3072, ("pooled",)) and raw.preprocess is encoder.preprocess and raw.modality == "image"
    assert there == ("pooled",) and fresh is not encoder and fresh.dim == 8 and not raw.training
    assert own is encoder and here == ("clip",)
    assert found["one"] == Score(8 + 9, 0.1, 0.2, 0.3, 5, trivial=found["raw/one"].value)
    assert found["two"].trivial == found["raw/two"].value == 3072 + 3
    assert found["raw/one"].trivial is None and found["random_init/one"].trivial is None
    again = dict(probe.run(trained))
    assert len(probe.judged) == 4 and again["raw/one"] == found["raw/one"] and again["two"].trivial == 3072 + 3
    probe.run(trained)
    other = Trained({"image": create_encoder("convnet", image_size=16, widths=[4], depths=[1], stem_stride=1).eval()})
    dict(probe.run(other))
    assert len(probe.judged) == 7 and len(probe.floors) == 2, "of another architecture they are others"
    plain = Two(**shards, baselines=False)
    assert list(dict(plain.run(trained))) == ["one", "two"] and plain.judged == [(encoder, ("pooled",))]


def test_a_probe_asks_for_encoder_place_and_sets(tmp_path: Path) -> None:
    shards = sides(tmp_path, train=4, test=2)
    trained = Trained({"image": convnet(), "second": create_encoder("raw:audio")})
    probe = KNN(**shards, encoder="second")
    needs, both = probe.needs(trained), ("audio", "label")
    assert needs.data == {"train": (probe.sets.train, both), "data": (probe.sets.test, both)}
    assert needs.encoders == {"second": EncoderNeed(places=("pooled",))} and needs.classes is not None
    with pytest.raises(UserError, match="train: no sample of .* has 'audio'"):
        probe.check(trained)
    for options, told in ({}, "say which"), ({"encoder": "image", "space": "clip"}, "no layer 'clip'"):
        with pytest.raises(UserError, match=told):
            KNN(**shards, **options).check(trained)
    with pytest.raises(NotImplementedError):
        next(Probe(**shards, baselines=False).run(Trained({"image": convnet()})))  # type: ignore[call-overload]


def test_a_probe_warns_of_shards_that_were_learnt_from(tmp_path: Path) -> None:
    shards = sides(tmp_path, train=4, test=2)
    with reporting() as report:
        both = {"shards": [node["shards"] for node in shards.values()]}
        dict(Two(train=both, data=shards["train"], baselines=False).run(Trained({"image": convnet()})))
    assert list(report.warnings) == ["1 of the 1 shards that are judged on are learnt from as well"]


@pytest.mark.parametrize("kind", [KNN, Finetune, SemiSupervised, TransferDense])
def test_each_has_a_limit_of_both_sets(kind: Any, tmp_path: Path) -> None:
    shards = sides(tmp_path, train=6, test=5)
    for limit, counts in ((3, (3, 3)), (5, (5, 5)), (None, (6, 5))):
        made = kind(**shards, limit=limit)
        sets = getattr(made, "sets", made)
        assert (sets.train.count, sets.test.count) == counts


def test_places_that_a_baseline_shares() -> None:
    encoder = convnet()
    encoder.spaces["clip"] = Projection(8, out=4)
    assert common(encoder, ("stem", "pooled", "clip")) == ("stem", "pooled", "clip")
    assert common(RAW, ("stem", "pooled")) == common(RAW, ("stem",)) == ("pooled",)
    assert common(encoder, ("stem", "nothing")) == ("stem",)


def test_rivals(tmp_path: Path) -> None:
    made = Labelled(**sides(tmp_path, train=4, test=2), label="label")
    encoder = convnet()
    found = dict(rivals(made, encoder, baselines=True))
    assert list(found) == ["raw/", "random_init/", ""] and found[""] is encoder
    norms = [m for m in found["random_init/"].modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 1 for norm in norms), "it was warmed"
    assert list(dict(rivals(made, encoder, baselines=False))) == [""]
    with remembering():
        once, twice = (dict(rivals(made, encoder, baselines=True)) for _ in range(2))
        assert once["raw/"] is twice["raw/"] and once["random_init/"] is twice["random_init/"]
        other = dict(rivals(made, convnet(), baselines=True))
        assert other["raw/"] is not once["raw/"] and other["random_init/"] is not once["random_init/"]


def test_rows_may_be_without_numbers() -> None:
    rows = Embedded(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    assert isinstance(rows.number, Tensor) and rows.number.dtype == torch.long and rows.number.shape == (0,)
