"""What views show unless they are told otherwise, as their papers or the authors' code have it."""

from __future__ import annotations

from typing import Any

import pytest
from mmssl.views.asymmetric import Asymmetric
from mmssl.views.blurred import Blurred
from mmssl.views.jittered import Jittered
from mmssl.views.multicrop import MultiCrop
from mmssl.views.pair import Pair
from mmssl.views.seeded import Seeded

from mmssl import names
from mmssl.types import View
from mmssl.views.cloud_pair import CloudPair
from mmssl.views.infomin import InfoMin
from mmssl.views.ordered import Ordered
from mmssl.views.single import Single
from mmssl.views.synchronised import Shifted, Synchronised

INCEPTION = (3 / 4, 4 / 3)  # the crops of Szegedy et al., CVPR 2015, torchvision's RandomResizedCrop
SINGLE: dict[str, Any] = {  # our own: captions name sides and colours
    "crop_scale": (0.9, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "color_jitter": 0.0,
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "grayscale": 0.0,
    "blur": 0.0,
    "solarize": 0.0,
    "gain": 0.0,
    "noise": 0.0,
    "speed": (1.0, 1.0),
    "time_mask": 0.0,
    "rotation": "none",
    "point_jitter": 0.0,
    "point_scale": (1.0, 1.0),
    "point_crop": (1.0, 1.0),
    "views": 1,
}
PAIR = SINGLE | {  # Chen et al., ICML 2020, appendix A
    "views": 2,
    "crop_scale": (0.08, 1.0),
    "crop_ratio": INCEPTION,
    "flip": 0.5,
    "color_jitter": 0.8,
    "jitter": (0.8, 0.8, 0.8, 0.2),
    "grayscale": 0.2,
    "blur": 0.5,
}
SYNCHRONISED = {
    "grid": 0.04,  # Arandjelovic & Zisserman, ECCV 2018, section 3.2: frames of 25 a second
    "negatives_on_grid": True,
    "crop_scale": (0.75, 1.0),
    "flip": 0.5,
    "color_jitter": 0.0,
    "grayscale": 0.0,
    "blur": 0.0,
    "gain": 1.0,
}
DEFAULTS: dict[type[View], dict[str, Any]] = {
    Single: SINGLE,
    Pair: PAIR,
    # Grill et al., NeurIPS 2020, appendix B, table 6
    Asymmetric: PAIR | {"jitter": (0.4, 0.4, 0.2, 0.1), "blur": (1.0, 0.1), "solarize": (0.0, 0.2)},
    # Chen et al., 2020 (MoCo v2): --aug-plus of the authors' main_moco.py
    Blurred: PAIR | {"crop_scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1)},
    # He et al., CVPR 2020: MoCo v1's augmentation in the same file
    Jittered: PAIR | {"crop_scale": (0.2, 1.0), "color_jitter": 1.0, "jitter": (0.4, 0.4, 0.4, 0.4), "blur": 0.0},
    # He et al., CVPR 2022: main_pretrain.py
    Seeded: SINGLE | {"crop_scale": (0.2, 1.0), "crop_ratio": INCEPTION, "flip": 0.5},
    # Caron et al., NeurIPS 2020: scripts of the authors, 2x224 + 6x96
    MultiCrop: PAIR | {"small": 6, "small_size": None, "small_scale": (0.05, 0.14), "crop_scale": (0.14, 1.0)},
    # Tian et al., NeurIPS 2020: rand_augment_transform(m10-n2)
    InfoMin: PAIR | {"crop_scale": (0.2, 1.0), "operations": 2, "magnitude": 10.0},
    Synchronised: SYNCHRONISED,
    # Korbar et al., NeurIPS 2018, section 4: 50 of 90 epochs, then 25% hard; half a second apart
    Shifted: SYNCHRONISED | {"hard": 0.25, "super_hard": 0.0, "apart": 0.5, "easy_until": 0.55},
    # Xie et al., ECCV 2020: voxels of 2.5 cm, pairs of frames that overlap by 30%, matches within 1.5 voxels
    CloudPair: {
        "pair": "posed",
        "poses": ("points_a.camera_to_world", "points_b.camera_to_world"),
        "voxel": 0.025,
        "radius": 1.5,
        "matches": 16384,
        "overlap": 0.3,
        "min_points": 100,
        "crop": (0.5, 0.8),
        "rotation": "any",
        "scale": (1.0, 1.0),
        "jitter": 0.0,
        "feature_noise": 0.01,
        "drop_features": 0.0,
    },
    # Lee et al., ICCV 2017, section 3.1; each guard is on
    Ordered: {
        "fps": 25.0,
        "side": 256,
        "jitter": 5,
        "mirror": 0.5,
        "split": True,
        "level": True,
        "random_times": True,
        "motion": "differences",
    },
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults(kind: type[View]) -> None:
    known = names.options_of(kind).values()
    assert {p.name: p.default for p in known if p.default is not p.empty} == DEFAULTS[kind]


def test_every_shared_view_stands_here() -> None:
    for name in names.list_names("views"):
        assert names.resolve("views", name)[0] in DEFAULTS


def test_guards_are_options_that_are_up() -> None:
    for kind, defaults in DEFAULTS.items():
        for down in kind.guards.values():
            assert down.items() - defaults.items() == down.items(), kind
    assert CloudPair.guards == {"independent rotations": {"rotation": "none"}}
    assert Synchronised.guards == Shifted.guards == {"time_grid": {"negatives_on_grid": False}}
    assert Ordered.guards == {
        "channel_splitting": {"split": False},
        "level": {"level": False},
        "jitter": {"jitter": 0},
        "random_times": {"random_times": False},
    }
