"""What views show unless they are told otherwise, as their papers or the authors' code have it, with every option."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

import pytest

from mmssl import names
from mmssl.transforms.base import step_name
from mmssl.types import Method, ViewTemplate
from mmssl.views.template import Views

Steps = list[tuple[str, dict[str, Any]]]


def crop(low: float, *, ratio: tuple[float, float] = (3 / 4, 4 / 3), high: float = 1.0, size: Any = None) -> Steps:
    """The ratio is that of Szegedy et al., CVPR 2015, torchvision's RandomResizedCrop."""
    return [("crop", {"scale": (low, high), "ratio": ratio, "size": size})]


def square(low: float) -> Steps:
    return crop(low, ratio=(1.0, 1.0))


def jitter(p: float, brightness: float, contrast: float, saturation: float, hue: float) -> Steps:
    given = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    return [("color_jitter", {"p": p, **given})]


def gray(p: float = 0.2) -> Steps:
    return [("grayscale", {"p": p})]


def blur(p: Any = 0.5) -> Steps:
    """Widths of 0.1 to 2 pixels: Chen et al., ICML 2020, appendix A."""
    return [("blur", {"p": p, "sigma": (0.1, 2.0)})]


def solarize(p: Any) -> Steps:
    """What is brighter than half: Grill et al., NeurIPS 2020, appendix B."""
    return [("solarize", {"p": p, "threshold": 0.5})]


FLIP: Steps = [("flip", {"p": 0.5})]
STRONG = [*FLIP, *jitter(0.8, 0.8, 0.8, 0.8, 0.2), *gray(), *blur()]  # Chen et al., ICML 2020, appendix A
WEAK = [*FLIP, *jitter(0.8, 0.4, 0.4, 0.2, 0.1), *gray()]
MOCO = [*FLIP, *jitter(1.0, 0.4, 0.4, 0.4, 0.4), *gray()]
PIRL = [*jitter(1.0, 0.4, 0.4, 0.4, 0.2), *gray()]
PLAIN = {"views": 1, "image": square(0.35) + FLIP}  # our own: crops that keep things' shape
SYNCHRONISED = {
    "views": 1,
    "image": square(0.75) + FLIP,
    "audio": [("gain", {"decibels": 1.0})],
    "grid": 0.04,  # Arandjelovic & Zisserman, ECCV 2018, section 3.2: frames of 25 a second
    "negatives_on_grid": True,
    "speed": (1.0, 1.0),
}
TAKEN = {"fps": 25.0, "side": 256, "jitter": 5, "random_times": True, "motion": "differences"}


def ordered(name: str, **options: Any) -> dict[str, Any]:
    """Lee et al., ICCV 2017, section 3.1; each guard is on."""
    return {"views": 1, "video": [(name, TAKEN | options), *FLIP, ("split_channels", {}), ("level", {})]}


WINDOW = {"gap": (1, 1), "motion": None, "search": 2.0}
DAMAGE = {"masked": 0.0, "noise": 0.0, "salt": 0.0}
TEMPLATES: dict[str, dict[str, Any]] = {
    "single.view": {"views": 1, "image": square(0.9)},  # our own: captions name sides and colours
    "simclr.view": {"views": 2, "image": crop(0.08) + STRONG},
    # Grill et al., NeurIPS 2020, appendix B, table 6
    "byol.view": {"views": 2, "image": crop(0.08) + WEAK + blur((1.0, 0.1)) + solarize((0.0, 0.2))},
    # Chen et al., 2020 (MoCo v2): --aug-plus of the authors' main_moco.py
    "moco_v2.view": {"views": 2, "image": crop(0.2) + FLIP + jitter(0.8, 0.4, 0.4, 0.4, 0.1) + gray() + blur()},
    # He et al., CVPR 2020: MoCo v1's augmentation in the same file
    "moco.view": {"views": 2, "image": crop(0.2) + MOCO},
    # He et al., CVPR 2022: main_pretrain.py
    "mae.view": {"views": 1, "image": crop(0.2) + FLIP, "seed": {}},
    # Caron et al., NeurIPS 2020: scripts of the authors, 2x224 + 6x96
    "swav.view": {
        "views": 2,
        "image": crop(0.14) + STRONG,
        "small": {"views": 6, "image": crop(0.05, high=0.14, size=3 / 7) + STRONG},
    },
    # Tian et al., NeurIPS 2020: rand_augment_transform(m10-n2)
    "infomin.view": {
        "views": 2, "image": crop(0.2) + STRONG + [("rand_augment", {"operations": 2, "magnitude": 10.0})],
    },
    "synchronised.view": SYNCHRONISED,
    # Korbar et al., NeurIPS 2018, section 4: 50 of 90 epochs, then 25% hard; half a second apart
    "synchronised.shifted": SYNCHRONISED
    | {"hard": 0.25, "super_hard": 0.0, "apart": 0.5, "easy_until": 0.55, "rise": 0.0},
    # Xie et al., ECCV 2020: voxels of 2.5 cm, pairs of frames that overlap by 30%, matches within 1.5 voxels
    "cloud_pair.view": {
        "views": 2,
        "points": [
            ("centre", {}), ("rotate", {"axis": "any"}), ("voxels", {"size": 0.025}), ("jitter", {"sigma": 0.0}),
            ("feature_noise", {"sigma": 0.01}), ("feature_drop", {"p": 0.0}),
        ],
        "pair": "posed",
        "poses": ("points_a.camera_to_world", "points_b.camera_to_world"),
        "radius": 1.5,
        "matches": 16384,
        "overlap": 0.3,
        "min_points": 100,
        "crop": (0.5, 0.8),
        "scale": (1.0, 1.0),
    },
    "autoencoder.method": PLAIN | {"damage": DAMAGE},
    "autoencoder.sparse": PLAIN | {"damage": DAMAGE},
    "autoencoder.denoising": PLAIN | {"damage": DAMAGE | {"masked": 0.25}},  # Vincent et al., ICML 2008
    # Bao et al., ICLR 2022: run_beit_pretraining.py, whose crops are of 8% on
    "beit.method": {"views": 1, "image": crop(0.08) + FLIP + jitter(1.0, 0.4, 0.4, 0.4, 0.0), "seed": {}},
    "cmc.method": {"views": 1, "image": crop(0.2) + FLIP},  # Tian et al., ECCV 2020: train_CMC.py
    # Vondrick et al., ECCV 2018: three references and a target at 6 frames a second; crops and the rest are our own
    "color_tracking.method": {
        "views": 1,
        "video": [("window", WINDOW | {"frames": 4, "fps": 6.0}), *square(0.5), *FLIP, ("colorful", {"chroma": 12.0})],
        "cell_colors": {"cell": 8, "gray": True},
    },
    "colorization.method": PLAIN | {"lightness": {"cell": 4, "gray": True}},  # Zhang et al., ECCV 2016: 56 of 224
    # van den Oord et al., 2018, section 3.3: 7 x 7 patches of 64 pixels that overlap by 32, of which 60 are shown
    "cpc.method": {
        "views": 1,
        "image": [
            *square(0.7), *FLIP, ("patches", {"grid": 7, "cell": 64, "stride": 32, "patch": 60}),
            *jitter(0.8, 0.4, 0.4, 0.4, 0.1), *gray(),
        ],
    },
    "clusterfit.method": {"views": 1, "image": crop(0.08) + FLIP},  # Yan et al., CVPR 2020: RandomResizedCrop, flip
    # Chen et al., NeurIPS 2020 (SimCLR v2), section 3: random crops and flips alone
    "distill.method": {"views": 1, "image": crop(0.08) + FLIP},
    "finetune.method": {"views": 1, "image": crop(0.08) + FLIP},
    # Liu et al., 2018: imagenet-semi.py, RandomResizedCrop and flips
    "metric_transfer.method": {"views": 1, "image": crop(0.08) + FLIP},
    "deepcluster.method": {"views": 1, "image": crop(0.08) + FLIP},  # Caron et al., ECCV 2018: RandomResizedCrop
    # Zhang et al., ICCV 2021
    "depthcontrast.method": {
        "views": 2,
        "points": [
            ("crop", {"share": (0.5, 1.0)}), ("hole", {"share": 0.2}), ("centre", {}), ("rotate", {"axis": "vertical"}),
            ("mirror", {"p": 0.5}), ("scale", {"factor": (0.8, 1.2)}), ("jitter", {"sigma": 0.0}),
        ],
    },
    # Caron et al., ICCV 2021: main_dino.py
    "dino.view": {
        "views": 2,
        "image": crop(0.4) + WEAK + blur((1.0, 0.1)) + solarize((0.0, 0.2)),
        "small": {"views": 8, "image": crop(0.05, high=0.4, size=3 / 7) + WEAK + blur(0.5)},
    },
    # Desai & Johnson, CVPR 2021 (VirTex): 20 to 100%, colours, sides that change places in the caption
    "captioned.view": {"views": 1, "image": crop(0.2) + FLIP + jitter(0.8, 0.4, 0.4, 0.4, 0.1), "swap": True},
    # Sariyildiz et al., ECCV 2020: as VirTex's here, with the seed of the word that is hidden
    "icmlm.method": {
        "views": 1, "image": crop(0.2) + FLIP + jitter(0.8, 0.4, 0.4, 0.4, 0.1), "seed": {}, "swap": True,
    },
    # Jia et al., ICML 2021: 289 of 346 pixels
    "align.method": {"views": 1, "image": crop((289 / 346) ** 2, high=(289 / 346) ** 2, ratio=(1.0, 1.0)) + FLIP},
    "subtitled.view": {"views": 1, "video": crop(0.5) + FLIP, "candidates": 5},  # Miech et al., CVPR 2020
    # Asano et al., NeurIPS 2020 (SeLaVi): 112 of 148 to 182 pixels
    "selavi.method": {
        "views": 1, "image": crop(0.37, high=0.57, ratio=(1.0, 1.0)) + FLIP, "audio": [("gain", {"decibels": 1.0})],
    },
    # Sayed et al., GCPR 2018: 227 of 341 x 256 pixels; high_motion 1, time_flip by the authors' code
    "frame_and_flow.view": {
        "views": 1, "image": crop(0.59, high=0.59, ratio=(1.0, 1.0)) + FLIP,
        "search": 5.0, "motion": 1.0, "time_flip": 0.5, "split_channels": True,
    },
    # Owens et al., ECCV 2016: 227 of 256 pixels, as AlexNet is shown images, of frames of several shapes
    "ambient_sound.method": {"views": 1, "image": crop(0.7, high=0.9, ratio=(1.0, 1.0)) + FLIP},
    # Henaff et al., ICCV 2021: BYOL's colours; Felzenszwalb & Huttenlocher at scale 1000
    **{
        name: {
            "views": 2,
            "image": [
                ("felzenszwalb", {"scale": 1000.0, "sigma": 0.8, "min_size": 1000}),
                *(*crop(0.08), *WEAK, *blur((1.0, 0.1)), *solarize((0.0, 0.2))),
            ],
            "seed": {},
        }
        for name in ("detcon.method", "detcon.s")
    },
    # Ziegler & Asano, CVPR 2022: two crops and four small ones, SimCLR's colours, no mirror
    "leopart.method": {
        "views": 2,
        "image": crop(0.25) + STRONG[1:],
        "small": {"views": 4, "image": crop(0.05, high=0.25, size=3 / 7) + STRONG[1:]},
        "seed": {},
    },
    # Gidaris et al., CVPR 2020: the words of the image, from one that is cropped, coloured and mixed
    "bownet.method": {
        "views": 1,
        "image": FLIP,
        "changed": {"views": 1, "image": crop(0.08) + FLIP + jitter(0.8, 0.4, 0.4, 0.4, 0.1) + gray()},
        "cut_mix": {"p": 1.0},
    },
    # Gidaris et al., CVPR 2021: 2 crops of 160 and 5 of 96 of 224 pixels
    "obow.method": {
        "views": 1,
        "image": FLIP,
        "crops": {
            "views": 2,
            "image": crop(0.08, high=0.6, size=160 / 224) + FLIP + jitter(0.8, 0.4, 0.4, 0.4, 0.1) + gray() + blur(),
        },
        "small": {
            "views": 5,
            "image": crop(0.084, high=0.14, size=96 / 224) + FLIP + jitter(0.8, 0.4, 0.4, 0.4, 0.1) + gray(),
        },
        "seed": {},
    },
    # Yang et al., CVPR 2021 (InsLoc): MoCo v2's colours after pasting
    "insloc.method": {
        "views": 2,
        "image": crop(0.2, ratio=(0.5, 2.0)) + FLIP,
        "background": {"views": 2, "image": crop(1.0, ratio=(0.1, 10.0)) + FLIP},
        "paste": {"size": (0.5, 1.0)},
        **dict(jitter(0.8, 0.4, 0.4, 0.4, 0.1) + gray() + blur()),
        "seed": {},
    },
    # Wei et al., NeurIPS 2021 (SoCo): BYOL's colours; the whole image, a part of it, and that at half the size
    "soco.method": {
        "views": 1,
        "image": [
            ("proposals", {"by": "selective_search", "ratio": 3.0, "size": (0.3, 0.8), "min_side": 32.0}),
            *(*crop(1.0, ratio=(0.1, 10.0)), *WEAK, *blur(1.0)),
        ],
        "part": {"views": 1, "image": crop(0.5) + WEAK + blur(0.1) + solarize(0.2)},
        "small": {"views": 1, "image": crop(0.5, size=0.5) + WEAK + blur(0.1) + solarize(0.2)},
        "seed": {},
    },
    # Dosovitskiy et al., NeurIPS 2014, section 3: turned by up to 20 degrees
    "exemplar.method": {
        "views": 1, "image": square(0.25) + jitter(1.0, 0.4, 0.5, 0.5, 0.1) + [("rotate", {"degrees": 20.0})],
    },
    "inpainting.method": PLAIN | {"holes": {"blocks": 5, "hole": 0.5}},  # Pathak et al., CVPR 2016: a quarter of it
    # Noroozi & Favaro, ECCV 2016: 1000 orders, tiles of 64 of 75 pixels, 30% grey
    "jigsaw.method": {
        "views": 1,
        "image": square(0.35) + FLIP + gray(0.3),
        "puzzle": {"permutations": 1000, "patch": 64, "gap": 7, "shift": 2, "level": True},
    },
    "npid.method": {"views": 1, "image": crop(0.2) + MOCO},  # Wu et al., CVPR 2018: main.py
    # Fernando et al., CVPR 2017
    "odd_one_out.method": ordered("odd_sequence", sequences=6, frames=6, window=(1.0, 2.0), search=5.0, crop=227),
    "opn.method": ordered("shuffled_frames", gap=(0.1, 0.3), search=5.0, crop=80),
    "pic.method": {"views": 1, "image": crop(0.08) + STRONG},  # Cao et al., NeurIPS 2020: SimCLR's
    # Misra & van der Maaten, CVPR 2020: nine patches, of an image of which 60% on are kept
    "pirl.method": {
        "views": 1,
        "image": crop(0.08) + FLIP + PIRL,
        "patches": {
            "views": 1,
            "image": [*crop(0.6), *FLIP, ("shuffled_patches", {"grid": 3, "cell": None, "patch": None}), *PIRL],
        },
    },
    # Doersch et al., ICCV 2015, section 3: patches of 96 pixels, 48 apart, off by up to 7, two channels dropped
    "relative_position.method": {
        "views": 1, "image": square(0.35), "neighbors": {"patch": 96, "gap": 48, "jitter": 7, "color": "drop"},
    },
    "rotation.method": PLAIN | {"quarter_turns": {}},
    "sela.method": {"views": 1, "image": crop(0.08) + MOCO},  # Asano et al., ICLR 2020
    # Misra et al., ECCV 2016
    "shuffle_and_learn.method": ordered(
        "order_verification",
        positives=0.25, span=(0.6, 2.4), outside=(0.6, 1.2), fixed_ends=True, search=10.0, crop=227,
    ),
    "simmim.method": {"views": 1, "image": crop(0.67) + FLIP, "seed": {}},  # Xie et al., CVPR 2022: data_simmim.py
    "split_brain.method": PLAIN | {"halves": {"cell": 4, "split": True}},
    "super_resolution.method": PLAIN | {"shrink": {"factor": 4, "enlarge": True}},
}  # fmt: skip
SHARED: dict[str, set[str]] = {  # the methods that show what a file of views/ says, and say nothing themselves
    "single.view": {"clip.method", "dim.method", "siglip.method"},
    "simclr.view": {"directclr.method", "simclr.method", "simclr.v2"},
    "byol.view": {
        "barlow_twins.method", "byol.method", "directpred.method", "moby.method", "moco.v3", "vicreg.method",
        "pixpro.method", "pixcontrast.method",
    },
    "moco_v2.view": {"moco.v2", "pcl.v2", "simsiam.method", "densecl.method", "resim.method"},
    "moco.view": {"moco.method", "pcl.method"},
    "mae.view": {"dvae.method", "mae.method"},
    "swav.view": {"deepcluster.v2", "swav.method"},
    "infomin.view": set(),
    "dino.view": {"dino.method", "esvit.method"},
    "captioned.view": {"virtex.method"},
    "subtitled.view": {"watch_and_learn.method"},
    "frame_and_flow.view": {"cross_and_learn.method"},
    "synchronised.view": {"avc.method", "ave.method", "avol.method"},
    "synchronised.shifted": {"avts.method"},
    "cloud_pair.view": {"pointcontrast.method"},
}  # fmt: skip


def exported(room: str) -> dict[str, Any]:
    """Returns file.attribute -> the templates and View classes of a room, of methods their view."""
    found = {}
    for name in names.list_names(room):
        for attribute, value in vars(importlib.import_module(f"mmssl.{room}.{name}")).items():
            view = value.view if isinstance(value, Method) else value
            if isinstance(value, Method if room == "methods" else ViewTemplate):
                found[f"{name}.{attribute}"] = view
    return found


VIEWS, METHODS = exported("views"), exported("methods")


def described(template: Views) -> dict[str, Any]:
    """Returns all that a template shows, with every option of every step."""
    found: dict[str, Any] = {"views": template.views}
    for key, steps in template.modalities.items():
        found[key] = [(step_name(type(step)), options(step)) for step in steps]
    found |= {key: described(group) for key, group in template.groups.items()}
    found |= {step_name(type(step)): options(step) for step in template.after}
    return found | {name: option.default for name, option in names.options_of(template.kind).items()}


def options(step: Any) -> dict[str, Any]:
    return {each.name: getattr(step, each.name) for each in fields(step)}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_templates_show(name: str) -> None:
    assert described((VIEWS | METHODS)[name]) == TEMPLATES[name]


def test_every_view_stands_here() -> None:
    """Those of methods that are classes are tested with their methods."""
    assert VIEWS.keys() == SHARED.keys()
    assert all(f"{name}.view" in VIEWS for name in names.list_names("views"))
    own = {name for name, view in METHODS.items() if isinstance(view, Views)} - set().union(*SHARED.values())
    assert own | VIEWS.keys() == TEMPLATES.keys()
    for name, methods in SHARED.items():
        assert {method for method, view in METHODS.items() if view is VIEWS[name]} == methods


def ordered_guards(name: str) -> dict[str, Any]:
    return {
        "channel_splitting": {"video": {"split_channels": None}},
        "level": {"video": {"level": None}},
        "jitter": {"video": {name: {"jitter": 0}}},
        "random_times": {"video": {name: {"random_times": False}}},
    }


GUARDS: dict[str, dict[str, Any]] = {
    "cloud_pair.view": {"independent rotations": {"points": {"centre": None, "rotate": None}}},
    "color_tracking.method": {"grey": {"cell_colors": {"gray": False}}},
    "odd_one_out.method": ordered_guards("odd_sequence"),
    "opn.method": ordered_guards("shuffled_frames"),
    "shuffle_and_learn.method": {
        **ordered_guards("order_verification"),
        "fixed_ends": {"video": {"order_verification": {"fixed_ends": False}}},
    },
    "synchronised.view": {"time_grid": {"negatives_on_grid": False}},
    "synchronised.shifted": {"time_grid": {"negatives_on_grid": False}},
    "colorization.method": {"grey": {"lightness": {"gray": False}}},
    "split_brain.method": {"split": {"halves": {"split": False}}},
    "jigsaw.method": {
        "gap": {"puzzle": {"gap": 0, "shift": 0}},
        "level": {"puzzle": {"level": False}},
        "chromatic": {"puzzle": {"shift": 0}, "image": {"grayscale": {"p": 0.0}}},
    },
    "relative_position.method": {
        "gap": {"neighbors": {"gap": 0}},
        "jitter": {"neighbors": {"jitter": 0}},
        "chromatic": {"neighbors": {"color": "keep"}},
    },
}


def test_guards_of_templates_are_options_that_are_up() -> None:
    for name, template in (VIEWS | METHODS).items():
        if isinstance(template, Views) and name in TEMPLATES:
            assert template.guards == GUARDS.get(name, {})
            for down in template.guards.values():
                changed = template.changed(down)
                assert (described(changed), changed.options) != (described(template), template.options)
