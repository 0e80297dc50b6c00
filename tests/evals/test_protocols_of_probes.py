"""What all probes have in common: the test set is only asked, row by row; and their defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from probing import blobs, judged

from mmssl.errors import UserError
from mmssl.evals.cluster import Cluster
from mmssl.evals.few_shot import FewShot
from mmssl.evals.finetune import Finetune
from mmssl.evals.knn import KNN
from mmssl.evals.linear import Linear
from mmssl.evals.low_shot_svm import LowShotSVM
from mmssl.evals.parts.labelled import Embedded
from mmssl.evals.semi_supervised import SemiSupervised
from mmssl.options import check_options, describe
from mmssl.transforms.image import Crop, Flip
from mmssl.views.template import Views

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened

PROBES = [
    (KNN, {"k": (7,)}, ("k7",)),
    (Linear, {"decays": (0.1,)}, ("top1", "top5")),
    (Linear, {"solver": "sgd", "epochs": 3}, ("top1", "top5")),
    (LowShotSVM, {"shots": (2,), "draws": 1, "costs": (0.1,)}, ("2-shot",)),
]


@pytest.mark.parametrize(("kind", "options", "figures"), PROBES)
def test_each_row_is_answered_as_if_it_were_asked_alone(
    kind: type, options: dict[str, Any], figures: tuple[str, ...]
) -> None:
    known, asked = blobs(140, 7, spread=2.5), blobs(6, 7, spread=2.5, seed=1)
    asked.x += 1.0  # a test set that lies elsewhere and is wider
    asked.x *= 4.0
    whole = judged(kind(**SETS, **options), known, asked)
    alone = [judged(kind(**SETS, **options), known, Embedded(asked.x[i : i + 1], asked.y[i : i + 1])) for i in range(6)]
    for name in figures:
        assert whole[name].value == pytest.approx(sum(each[name].value for each in alone) / 6)
        assert 0 < whole[name].value < 1


@pytest.mark.parametrize(("kind", "options", "figures"), PROBES)
def test_labels_of_the_test_set_change_what_is_right_and_no_answer(
    kind: type, options: dict[str, Any], figures: tuple[str, ...]
) -> None:
    known, asked = blobs(140, 7, spread=2.5), blobs(21, 7, spread=2.5, seed=1)
    total = 0.0
    for step in range(7):  # each row's answer is right under exactly one of the seven labels
        total += judged(kind(**SETS, **options), known, Embedded(asked.x, (asked.y + step) % 7))[figures[0]].value
    assert total == pytest.approx(1.0)


SETTING = {"label": "label", "encoder": None, "baselines": True, "limit": None}
PROBE = {**SETTING, "space": None}
DEFAULTS: dict[type, dict[str, Any]] = {
    KNN: {**PROBE, "k": (5, 20, 200), "temperature": 0.07},  # Wu et al., CVPR 2018, section 3.4: 200 and 0.07
    Linear: {
        **PROBE,
        "layers": (),
        "solver": "lbfgs",
        "decays": (1e-4, 1e-3, 1e-2, 1e-1),
        "rates": (0.003, 0.01, 0.03, 0.1, 0.3),
        "epochs": 30,
        "batch": 256,
    },
    # Wang et al., 2019 (SimpleShot), section 4: 5 ways, 1 and 5 shots, 15 queries
    FewShot: {
        **PROBE,
        "ways": 5,
        "shots": (1, 5),
        "queries": 15,
        "episodes": 2000,
        "classifier": "centroid",
        "seed": 0,
    },
    # Goyal et al., ICCV 2019, section 5.2: 1 to 96 examples, 5 draws
    LowShotSVM: {
        **PROBE,
        "shots": (1, 2, 4, 8, 16, 32, 64, 96),
        "draws": 5,
        "costs": (0.01, 0.1, 1.0, 10.0, 100.0),
        "seed": 0,
    },
    Cluster: {**PROBE, "clusters": None, "pca": 256, "restarts": 3, "iterations": 50},  # Caron et al., ECCV 2018: 256
}
FINETUNE = {  # He et al., CVPR 2022, table 9: decay 0.05, layer decay 0.75
    "batch": 128,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "layer_decay": 0.75,
    "crop_scale": (0.2, 1.0),
    "flip": 0.5,
    "workers": 1,
    "seed": 0,
}
DEFAULTS[Finetune] = {**PROBE, "epochs": 5, **FINETUNE}
# Chen et al., ICML 2020, appendix B.5: 60 epochs for 1%, 30 for 10%
DEFAULTS[SemiSupervised] = {
    **PROBE,
    "fractions": (0.01, 0.1),
    "protocols": ("linear", "finetune"),
    "epochs": (60, 30),
    **FINETUNE,
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults(kind: type) -> None:
    options = inspect.signature(kind).parameters.values()
    given = {o.name: o.default for o in options if o.kind is o.KEYWORD_ONLY and o.name not in ("train", "data")}
    assert given == DEFAULTS[kind]
    probe = kind(**SETS)
    assert (probe.sets.label, probe.encoder, probe.baselines, probe.places) == ("label", None, True, ("pooled",))


@pytest.mark.parametrize("kind", DEFAULTS)
def test_types_and_texts_are_known_wherever_an_option_is_declared(kind: type) -> None:
    found = {option.name: option for option in describe(kind)}
    assert set(found) == {"train", "data", *DEFAULTS[kind]} and all(option.text for option in found.values())
    assert (found["train"].hint, found["label"].hint, found["limit"].hint) == (dict[str, Any], str, int | None)
    assert check_options(kind, {**SETS, "limit": 3.0}) == {**SETS, "limit": 3}
    for wrong, told in (({"limit": "x"}, "limit is 'x'"), ({"label": 1}, "label is 1"), ({"lable": "x"}, "'label'")):
        with pytest.raises(UserError, match=told):
            check_options(kind, {**SETS, **wrong})
    with pytest.raises(UserError, match="needs the option 'train'"):
        check_options(kind, {"data": SETS["data"]})


def test_what_is_shown_in_fine_tuning() -> None:
    whole = Views(1, image=[Crop(scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)), Flip(p=0.5)])
    for kind in (Finetune, SemiSupervised):
        assert kind(**SETS).view == whole
        made = kind(**SETS, crop_scale=(0.5, 0.6), flip=0.1)
        assert made.view == Views(1, image=[Crop(scale=(0.5, 0.6)), Flip(p=0.1)])


GOOD_AND_WRONG: list[tuple[type, dict[str, Any], dict[str, Any], str]] = [
    (KNN, {"k": (1,)}, {"k": (3, 0)}, r"k is \(3, 0\) and temperature 0.07"),
    (KNN, {"k": (2, 1)}, {"k": ()}, "above 0"),
    (KNN, {"temperature": 1e-3}, {"temperature": 0.0}, "above 0"),
    (Linear, {"decays": (1e-9,)}, {"decays": (0.1, 0.0)}, "decays is .*above 0"),
    (Linear, {"decays": (1.0,)}, {"decays": ()}, "decays"),
    (Linear, {"rates": (1e-9,)}, {"rates": (0.1, 0.0)}, "rates is .*above 0"),
    (Linear, {"rates": (1.0,)}, {"rates": ()}, "rates"),
    (Linear, {"epochs": 1}, {"epochs": 0}, "epochs is 0 and batch 256"),
    (Linear, {"batch": 1}, {"batch": 0}, "batch 0"),
    (Linear, {"layers": ("stem",)}, {"layers": ("stem",), "space": "clip"}, "both layers and a space"),
    (FewShot, {"ways": 2}, {"ways": 1}, "few_shot has 1 ways"),
    (FewShot, {"shots": (1,)}, {"shots": (1, 0)}, "too few"),
    (FewShot, {"shots": (2, 1)}, {"shots": ()}, "too few"),
    (FewShot, {"queries": 1}, {"queries": 0}, "0 queries"),
    (FewShot, {"episodes": 1}, {"episodes": 0}, "0 episodes"),
    (LowShotSVM, {"shots": (1,)}, {"shots": (2, 0)}, "low_shot_svm has shots"),
    (LowShotSVM, {"shots": (2, 1)}, {"shots": ()}, "low_shot_svm has shots"),
    (LowShotSVM, {"draws": 1}, {"draws": 0}, "draws 0"),
    (LowShotSVM, {"costs": (1e-9,)}, {"costs": (1.0, 0.0)}, "costs"),
    (LowShotSVM, {"costs": (1.0,)}, {"costs": ()}, "costs"),
    (Cluster, {"clusters": 2}, {"clusters": 1}, "cluster has clusters 1"),
    (Cluster, {"pca": 2}, {"pca": 1}, "pca 1"),
    (Cluster, {"restarts": 1}, {"restarts": 0}, "restarts 0"),
    (Cluster, {"iterations": 1}, {"iterations": 0}, "iterations 0"),
    (Finetune, {"epochs": 1}, {"epochs": 0}, "epochs 0"),
    (Finetune, {"batch": 1}, {"batch": 0}, "batch 0"),
    (Finetune, {"lr": 1e-9}, {"lr": 0.0}, "lr 0.0"),
    (Finetune, {"layer_decay": 1.0}, {"layer_decay": 1.01}, "layer_decay 1.01"),
    (Finetune, {"layer_decay": 1e-3}, {"layer_decay": 0.0}, "layer_decay 0.0"),
    (SemiSupervised, {"fractions": (1.0, 1e-3)}, {"fractions": (0.1, 1.01)}, "fractions of at most 1"),
    (SemiSupervised, {"fractions": (0.5,), "epochs": (1,)}, {"fractions": (0.1, 0.0)}, "fractions"),
    (SemiSupervised, {"protocols": ("linear",)}, {"protocols": ()}, "at least one way"),
    (SemiSupervised, {"epochs": (1, 1)}, {"epochs": (1, 1, 1)}, "as many epochs"),
    (SemiSupervised, {"epochs": (1, 2)}, {"epochs": (1, 0)}, "each at least 1"),
    (SemiSupervised, {"epochs": (1, 2)}, {"fractions": (), "epochs": ()}, "fractions"),
    (SemiSupervised, {"lr": 1e-9}, {"lr": 0.0}, "lr 0.0"),
]


@pytest.mark.parametrize(("kind", "good", "wrong", "told"), GOOD_AND_WRONG)
def test_bounds_of_options(kind: type, good: dict[str, Any], wrong: dict[str, Any], told: str) -> None:
    kind(**SETS, **good)
    with pytest.raises(UserError, match=told):
        kind(**SETS, **wrong)


def test_options_reach_their_places() -> None:
    probe = KNN(**SETS, k=(2,), temperature=0.3, label="kind", encoder="video", space="clip", baselines=False)
    assert (probe.k, probe.temperature, probe.sets.label, probe.encoder) == ((2,), 0.3, "kind", "video")
    assert (probe.baselines, probe.places) == (False, ("clip",))
    assert Linear(**SETS, layers=("stem", "pooled")).places == ("stem", "pooled")
    assert Linear(**SETS, space="clip").places == ("clip",)
    assert Linear(**SETS, decays=(0.1, 3.0, 1.0)).made_solver().settings == (3.0, 1.0, 0.1)
    sgd: Any = Linear(**SETS, solver="sgd", rates=(0.5, 0.2), epochs=4, batch=9).made_solver()
    assert (sgd.settings, sgd.epochs, sgd.batch) == ((0.2, 0.5), 4, 9)
    tuning = {"epochs": 7, "batch": 9, "lr": 0.1, "weight_decay": 0.2, "layer_decay": 0.3, "workers": 0, "seed": 4}
    tuning |= {"crop_scale": (0.4, 0.5), "flip": 0.6}
    common: dict[str, Any] = {"label": "kind", "encoder": "video", "baselines": False}
    made = Finetune(**SETS, **common, **tuning)
    assert (made.sets.label, made.encoder, made.baselines) == ("kind", "video", False)
    assert {name: getattr(made, name) for name in tuning} == tuning
    semi = SemiSupervised(**SETS, **common, **{**tuning, "epochs": (7, 8)}, fractions=(0.2, 0.3), protocols=("linear",))
    assert (semi.sets.label, semi.encoder, semi.baselines) == ("kind", "video", False)
    assert {name: getattr(semi, name) for name in tuning} == {**tuning, "epochs": (7, 8)}
    assert (semi.protocols, semi.fractions) == (("linear",), (0.2, 0.3))
